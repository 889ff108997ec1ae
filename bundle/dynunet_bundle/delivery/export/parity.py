"""Parity and speed of an exported model against the weights, on patches."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from monai.transforms import RandSpatialCropSamples, SpatialPad
from torch import nn

from dynunet_bundle.dataset.case_errors import apply_to_case

SEED = 12345
SMALLEST_DICE = {"fp32": 0.999, "fp16": 0.99, "bf16": 0.98}
"""Smallest accepted Dice of masks against those of the float32 weights. The significand has 11 bits in float16, 8 in
bfloat16."""

LARGEST_RATIO = {"fp32": 1e-3, "fp16": 0.1, "bf16": 0.3}
"""Largest accepted difference of logits, relative to the largest logit. Wide, since it only matters for empty masks,
whose Dice is always 1."""

COARSE = 8
"""Grid step in voxels of the random values from which synthetic patches are interpolated, to give them structure."""


@dataclass(frozen=True)
class Parity:
    """Difference of two results.

    Attributes:
        max_difference: largest difference of logits.
        max_logit: largest magnitude of a logit of the reference.
        dice: of all classes or regions together, without the background; 1 if none occurs. A mean over classes would
            depend on a few voxels of small classes.
        finite: whether all logits are finite.
    """

    max_difference: float
    max_logit: float
    dice: float
    finite: bool

    def problem(self, precision: str) -> str:
        """Why the difference is too large for the precision; empty if it is accepted."""
        if not self.finite:
            return "its logits are not all finite"
        if self.dice < SMALLEST_DICE[precision]:
            return f"Dice {self.dice:.5f} against the weights, below {SMALLEST_DICE[precision]}"
        if self.max_difference > LARGEST_RATIO[precision] * max(self.max_logit, 1.0):
            return f"logits differ by up to {self.max_difference:.3g}, with a largest logit of {self.max_logit:.3g}"
        return ""


def compare(reference: torch.Tensor, logits: torch.Tensor, regions: bool) -> Parity:
    """Compare two results on the same patches.

    MONAI's ``compute_dice`` gives one Dice per patch and class; here all patches and classes are pooled.

    Args:
        reference: ``[B, outputs, *patch]`` float32, of the weights.
        logits: ``[B, outputs, *patch]`` float32, of the exported model.
        regions: whether the outputs are regions, not classes.
    """
    ours, theirs = (_masks(tensor, regions).double() for tensor in (reference, logits))
    overlap, size = float((ours * theirs).sum()), float((ours + theirs).sum())
    return Parity(
        max_difference=float((logits - reference).abs().max()),
        max_logit=float(reference.abs().max()),
        dice=2 * overlap / size if size else 1.0,
        finite=bool(logits.isfinite().all()),
    )


def _masks(logits: torch.Tensor, regions: bool) -> torch.Tensor:
    """Voxels of each foreground class, or of each region: ``[K, voxels]``, boolean."""
    by_output = logits.transpose(0, 1).flatten(1)
    if regions:
        return by_output > 0
    classes = torch.arange(1, len(by_output), device=logits.device)
    return by_output.argmax(0) == classes[:, None]


def run_on(network: nn.Module, patches: torch.Tensor) -> torch.Tensor:
    """Logits of patches ``[B, C, *patch]``, float32 on the CPU; the first patch runs alone, the others as one batch."""
    with torch.no_grad():
        parts = [network(part) for part in (patches[:1], patches[1:]) if len(part)]
    return torch.cat(parts).float().cpu()


@dataclass(frozen=True)
class Times:
    """Median times of one patch, in ms; CPU time counts all threads."""

    wall_ms: float
    cpu_ms: float


def time_patch(network: nn.Module, patch: torch.Tensor, repeats: int, warm_up: int = 2) -> Times:
    """Time one patch ``[1, C, *patch]``.

    Args:
        network: the network to run.
        patch: on the device of the network.
        repeats: timed runs.
        warm_up: untimed runs before; TorchScript optimises during its first two.
    """
    wall, cpu = [], []
    with torch.no_grad():
        for _ in range(warm_up + repeats):
            _wait(patch)
            start, cpu_start = time.perf_counter(), time.process_time()
            network(patch)
            _wait(patch)
            wall.append(1e3 * (time.perf_counter() - start))
            cpu.append(1e3 * (time.process_time() - cpu_start))
    return Times(statistics.median(wall[warm_up:]), statistics.median(cpu[warm_up:]))


def _wait(patch: torch.Tensor) -> None:
    if patch.is_cuda:
        torch.cuda.synchronize(patch.device)


def synthetic_patches(shape: Sequence[int], num_patches: int) -> torch.Tensor:
    """Synthetic patches ``[B, C, *patch]`` with coarse structure and noise, mean 0 and variance about 1; seeded."""
    random = torch.Generator().manual_seed(SEED)
    coarse = [max(size // COARSE, 1) for size in shape[1:]]
    structure = torch.randn(num_patches, shape[0], *coarse, generator=random)
    mode = "bilinear" if len(coarse) == 2 else "trilinear"
    noise = torch.randn(num_patches, *shape, generator=random)
    return F.interpolate(structure, size=tuple(shape[1:]), mode=mode) + 0.3 * noise


def image_patches(
    cases: Sequence[Mapping[str, Any]],
    preprocessing: Callable[[Any], Mapping[str, Any]],
    shape: Sequence[int],
    num_patches: int,
) -> torch.Tensor:
    """Patches ``[B, C, *patch]`` at seeded positions, spread evenly over the images.

    Args:
        cases: images from ``find_images``; at most ``num_patches`` of them are read.
        preprocessing: the config's.
        shape: ``[C, *patch]``; patches of a 2D plan are slices of the volume.
        num_patches: number of patches.
    """
    size = [1] * (4 - len(shape)) + list(shape[1:])
    chosen = cases[:num_patches]
    counts = [len(part) for part in torch.arange(num_patches).tensor_split(len(chosen))]
    patches: list[Any] = []
    for seed, (case, count) in enumerate(zip(chosen, counts, strict=True), SEED):
        crop = RandSpatialCropSamples(size, num_samples=count, random_size=False)
        crop.set_random_state(seed)
        # not in a Compose, which would set another seed
        patches += crop(SpatialPad(size)(apply_to_case(case, preprocessing)["image"]))
    return torch.stack([patch.as_tensor().reshape(*shape) for patch in patches]).float()
