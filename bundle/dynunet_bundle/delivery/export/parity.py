"""Whether an exported model computes what the weights compute, and how fast, patch by patch."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from monai.transforms import RandSpatialCropSamples, SpatialPad
from torch import nn

from dynunet_bundle.dataset.cases import apply_to_case

SEED = 12345
SMALLEST_DICE = {"fp32": 0.999, "fp16": 0.99, "bf16": 0.98}
"""Of masks against those of the weights in float32. bfloat16 has 8 bits of mantissa where float16 has 11."""

LARGEST_RATIO = {"fp32": 1e-3, "fp16": 0.1, "bf16": 0.3}
"""Of the largest difference of logits to the largest logit; wide: it is for empty masks, which always agree."""

COARSE = 8
"""Voxels between the values that made-up patches are interpolated from, so that they have structure."""


@dataclass(frozen=True)
class Parity:
    """How far two results are apart.

    Attributes:
        max_difference: largest difference of logits.
        max_logit: largest magnitude of a logit of the reference.
        dice: of all classes or regions together, the background left out; 1 where none occurs. A mean over classes
            would hang on a few voxels of a small one.
        finite: whether all logits are numbers.
    """

    max_difference: float
    max_logit: float
    dice: float
    finite: bool

    def problem(self, precision: str) -> str:
        """What is wrong with it; empty where it is near enough for its precision."""
        if not self.finite:
            return "its logits are not all finite"
        if self.dice < SMALLEST_DICE[precision]:
            return f"Dice {self.dice:.5f} against the weights, below {SMALLEST_DICE[precision]}"
        if self.max_difference > LARGEST_RATIO[precision] * max(self.max_logit, 1.0):
            return f"logits differ by {self.max_difference:.3g}, and reach {self.max_logit:.3g}"
        return ""


def compare(reference: torch.Tensor, logits: torch.Tensor, regions: bool) -> Parity:
    """Compare two results on the same patches.

    MONAI's ``compute_dice`` takes Dice a patch and class; here all of them are one volume.

    Args:
        reference: ``[B, outputs, *patch]`` float32, of the weights.
        logits: likewise, of the exported model.
        regions: whether each output is a region of its own, not a class.
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
    """Voxels of each class but the background, or of each region: ``[K, voxels]``, boolean."""
    by_output = logits.transpose(0, 1).flatten(1)
    if regions:
        return by_output > 0
    classes = torch.arange(1, len(by_output), device=logits.device)
    return by_output.argmax(0) == classes[:, None]


def run_on(network: nn.Module, patches: torch.Tensor) -> torch.Tensor:
    """Logits of patches ``[B, C, *patch]``, float32 on the CPU: the first alone, the others as one batch."""
    with torch.no_grad():
        parts = [network(part) for part in (patches[:1], patches[1:]) if len(part)]
    return torch.cat(parts).float().cpu()


@dataclass(frozen=True)
class Times:
    """Medians of one patch, in ms; CPU time counts all threads."""

    wall_ms: float
    cpu_ms: float


def time_patch(network: nn.Module, patch: torch.Tensor, repeats: int, warm_up: int = 2) -> Times:
    """Time one patch ``[1, C, *patch]``.

    Args:
        network: what runs.
        patch: on the device of the network.
        repeats: runs that count.
        warm_up: runs before; TorchScript optimises in its first two.
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
    """Made-up patches ``[B, C, *patch]`` with coarse structure and noise, mean 0 and variance about 1; seeded."""
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
    """Patches ``[B, C, *patch]`` at seeded places of images, the same number of each image.

    Args:
        cases: images, as ``find_images`` gives them; as many as there are patches are read.
        preprocessing: the config's.
        shape: ``[C, *patch]``; of a 2D plan, a slice of the volume each.
        num_patches: how many.
    """
    size = [1] * (4 - len(shape)) + list(shape[1:])
    chosen = cases[:num_patches]
    counts = [len(part) for part in torch.arange(num_patches).tensor_split(len(chosen))]
    patches: list[Any] = []
    for seed, (case, count) in enumerate(zip(chosen, counts, strict=True), SEED):
        crop = RandSpatialCropSamples(size, num_samples=count, random_size=False)
        crop.set_random_state(seed)
        # not in a Compose, which would draw another seed
        patches += crop(SpatialPad(size)(apply_to_case(case, preprocessing)["image"]))
    return torch.stack([patch.as_tensor().reshape(*shape) for patch in patches]).float()
