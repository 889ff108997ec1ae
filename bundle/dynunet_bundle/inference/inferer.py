"""Sliding-window inference: MONAI's inferer plus mirroring, even window distances, slices, empty windows.

Volumes are ``[B, C, *spatial]``.
"""

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations, product
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from monai.inferers import SlidingWindowInferer
from monai.utils import fall_back_tuple
from torch import nn

from dynunet_bundle.errors import ConfigError, PredictionError
from dynunet_bundle.inference.model_use import ModelUse
from dynunet_bundle.inference.windows import axis_weights, shares, window_starts
from dynunet_bundle.machine.limits import require_memory
from dynunet_bundle.networks.cpu.forward import fit_to_cpu
from dynunet_bundle.networks.precision import compute_dtype, computing_in
from dynunet_bundle.networks.weights import weights_are_given
from dynunet_bundle.terminal import progress

EMPTY_LOGIT = 8.0
"""Background logit of a skipped empty window, against 0 for the other classes: a probability of 0.9997."""

MANY_BATCHES = 20
"""Number of batches of windows from which progress is shown."""

ADD_BYTES = {"cpu": 2**22}
"""Size in bytes of the planes in which a result is added; on a CPU, the whole result would not fit into the cache."""

logger = logging.getLogger(__name__)

Network = Callable[..., torch.Tensor]


class Window(NamedTuple):
    """A window of a volume.

    Attributes:
        region: one slice per axis.
        rows: for each axis, its row in the shares.
    """

    region: tuple[slice, ...]
    rows: tuple[int, ...]


class PatchInferer(SlidingWindowInferer):
    """Sliding windows like nnU-Net's, with mirroring: ``inferer`` of inference.json, train.json and evaluate.json.

    MONAI's SlidingWindowInferer lacks mirroring, evenly spaced windows, batches of slices for a 2D network on a volume,
    skipping of empty windows, and half precision on a CPU. It also keeps a second volume of all classes for the
    weights, and pads results to the volume's size. Here results are added to one volume; besides it, only the windows
    of one batch need memory.

    Args:
        roi_size: the patch, three or two values. Smaller volumes are padded and cropped back. With two values, a 3D
            volume is processed slice by slice along its first axis.
        sw_batch_size: windows per batch of the network.
        overlap: smallest fraction of a window that its neighbour also covers, in [0, 1).
        mode: weights of a window's voxels, ``"gaussian"`` or ``"constant"``.
        mirror_axes: axes of the patch to mirror; logits are averaged over all combinations of them, as in nnU-Net:
            8 times the work for ``[0, 1, 2]``.
        precision: ``"float32"``, ``"float16"``, ``"bfloat16"``, or ``"auto"``, see ``compute_dtype``.
        require_finite: whether NaN or infinite logits are an error. Validation during training sets False, since the
            training's own check of the loss names the iteration and the remedy.
        skip_empty: treat windows with a constant value in each channel as background, without running the network.
        background: channel of the background, or None if there is none (regions); only for ``skip_empty``.
        device: device of the result, by default that of the volume; if it is too small, the CPU.
        progress: show progress for volumes with many windows: a bar on a terminal, otherwise log lines.
        model_use: compares plan, preprocessing and mirroring with the training of the weights; None checks nothing.

    Raises:
        ConfigError: if a setting is out of range.
    """

    def __init__(
        self,
        roi_size: Sequence[int],
        sw_batch_size: int = 1,
        overlap: float = 0.5,
        mode: str = "gaussian",
        mirror_axes: Sequence[int] = (),
        precision: str = "float32",
        skip_empty: bool = False,
        require_finite: bool = True,
        background: int | None = 0,
        device: torch.device | str | None = None,
        progress: bool = False,
        model_use: ModelUse | None = None,
    ) -> None:
        super().__init__(
            roi_size=tuple(roi_size),
            sw_batch_size=sw_batch_size,
            overlap=overlap,
            mode=mode,
            device=device,
            progress=progress,
        )
        if not 0 <= overlap < 1 or sw_batch_size < 1:
            raise ConfigError(
                f"overlap is {overlap} and sw_batch_size is {sw_batch_size}. Set overlap in [0, 1) and "
                "sw_batch_size to at least 1."
            )
        wrong = [axis for axis in mirror_axes if axis not in range(len(roi_size))]
        if wrong or len(set(mirror_axes)) != len(mirror_axes):
            raise ConfigError(
                f"mirror_axes is {list(mirror_axes)}. A patch of {len(roi_size)} axes can be mirrored over "
                f"{list(range(len(roi_size)))}; list each at most once."
            )
        self.model_use = model_use
        self.mirror_axes = tuple(mirror_axes)
        self.precision = precision
        self.require_finite = require_finite
        self.skip_empty = skip_empty
        self.background = background

    def __call__(
        self, inputs: torch.Tensor, network: Network, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Compute the logits of whole volumes.

        Args:
            inputs: ``[B, C, *spatial]``.
            network: maps ``[windows, C, *patch]`` to logits of the same spatial size. A DynUNet on a CPU is changed in
                place, see ``fit_to_cpu``.
            *args: further arguments of the network.
            **kwargs: further arguments of the network.

        Returns:
            ``[B, outputs, *spatial]`` float32.

        Raises:
            WeightsError: if the weights were trained for another use, see ``ModelUse``.
            PredictionError: if a value is NaN or infinite, unless ``require_finite`` is false.
            MemoryError: if there is less memory than the result takes on a CPU.
        """
        if self.model_use is not None and not weights_are_given(network):
            self.model_use.require_fit()
        if isinstance(network, nn.Module):
            # done here, so that servers that use only the bundle's bare network get the same masks
            fit_to_cpu(network)
        volume = inputs.as_subclass(torch.Tensor)
        by_slice = len(self.roi_size) < volume.ndim - 2
        roi = (*([1] * by_slice), *fall_back_tuple(self.roi_size, volume.shape[2 + by_slice :]))
        padded, inner = _pad(volume, roi)
        sizes = padded.shape[2:]
        starts = [self._starts(*pair) for pair in zip(sizes, roi, strict=True)]
        rows = [
            shares(size, places, axis_weights(width, str(self.mode)))
            for size, places, width in zip(sizes, starts, roi, strict=True)
        ]

        def compute(batch: torch.Tensor) -> torch.Tensor:
            flat = batch.squeeze(2) if by_slice else batch
            logits = self._mirrored(flat, lambda part: network(part, *args, **kwargs))
            return logits.unsqueeze(2) if by_slice else logits

        windows = _windows(starts, roi)
        results = [self._collect(image, windows, rows, compute) for image in padded]
        # no stack for a single result, since stacking copies
        whole = torch.stack(results) if len(results) > 1 else results[0].unsqueeze(0)
        if self.require_finite:
            _require_finite(whole)
        return whole[(slice(None), slice(None), *inner)]

    def _starts(self, size: int, width: int) -> list[int]:
        # single slices do not overlap
        overlap = 0.0 if width == 1 else float(self.overlap)
        return window_starts(size, width, overlap)

    def _collect(
        self,
        image: torch.Tensor,
        windows: list[Window],
        rows: list[torch.Tensor],
        compute: Network,
    ) -> torch.Tensor:
        """Logits ``[outputs, *spatial]`` of one image ``[C, *spatial]``."""
        skipped = [window for window in windows if self.skip_empty and _is_empty(image, window)]
        # at least one window goes through the network, which determines the number of outputs
        todo = [window for window in windows if window not in skipped] or [skipped.pop()]
        target = torch.device(self.device or image.device)
        total: torch.Tensor | None = None
        for batch in self._batches(todo):
            inputs = torch.stack([image[:, *window.region] for window in batch])
            logits = compute(inputs)
            if len(windows) == 1:
                return logits[0].to(target, torch.float32)
            if total is None:
                total = _zeros((logits.shape[1], *image.shape[1:]), target)
            for window, values in zip(batch, logits, strict=True):
                _add(total, window, values, rows)
            # free the memory for the network
            del inputs, logits, values
        assert total is not None  # noqa: S101 - there is a window
        for window in skipped:
            _add_background(total, window, rows, self.background)
        return total

    def _batches(self, windows: list[Window]) -> Iterable[list[Window]]:
        size = int(self.sw_batch_size)
        batches = [windows[first : first + size] for first in range(0, len(windows), size)]
        if not self.progress or len(batches) < MANY_BATCHES:
            return batches
        return progress(batches, "windows", len(windows), unit="window", size=len)

    def _mirrored(self, batch: torch.Tensor, network: Network) -> torch.Tensor:
        """Mean of the logits over all combinations of the mirrored axes, ``[windows, outputs, *patch]``.

        float32 with mirroring, otherwise the network's type.
        """
        axes = [axis + 2 for axis in self.mirror_axes]
        flips = [chosen for size in range(1, len(axes) + 1) for chosen in combinations(axes, size)]
        with computing_in(compute_dtype(self.precision, batch.device), batch.device):
            logits = network(batch)
            if not flips:
                return logits
            # always a copy: the network may reuse the memory of its output
            mean = logits.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
            for chosen in flips:
                mean += network(batch.flip(chosen)).flip(chosen)
        return mean.div_(len(flips) + 1)


def _require_finite(logits: torch.Tensor) -> None:
    """Refuse NaN and infinity, from which argmax would silently make a mask.

    Raises:
        PredictionError: naming the likely causes.
    """
    # check the sum first, as it needs no memory; it may overflow even if all values are finite
    if not logits.sum().isfinite() and not logits.isfinite().all():
        raise PredictionError(
            "the network's output has NaN or infinite values for this image. Check the image for extreme values "
            "(dynunet-bundle check), or try --precision float32."
        )


def _pad(volume: torch.Tensor, roi: Sequence[int]) -> tuple[torch.Tensor, tuple[slice, ...]]:
    """Pad the volume with zeros to at least the window's size; also return the region of the volume in it."""
    missing = [max(width - size, 0) for size, width in zip(volume.shape[2:], roi, strict=True)]
    inner = tuple(
        slice(gap // 2, gap // 2 + size)
        for gap, size in zip(missing, volume.shape[2:], strict=True)
    )
    if not any(missing):
        return volume, inner
    # F.pad starts with the last axis
    margins = [side for gap in reversed(missing) for side in (gap // 2, gap - gap // 2)]
    return F.pad(volume, margins), inner


def _windows(starts: Sequence[Sequence[int]], roi: Sequence[int]) -> list[Window]:
    rows = product(*(range(len(places)) for places in starts))
    return [
        Window(
            tuple(
                slice(places[row], places[row] + width)
                for places, row, width in zip(starts, chosen, roi, strict=True)
            ),
            chosen,
        )
        for chosen in rows
    ]


def _is_empty(image: torch.Tensor, window: Window) -> bool:
    part = image[:, *window.region].flatten(1)
    return bool((part == part[:, :1]).all())


def _share(window: Window, rows: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
    """Share of a window in each of its voxels, of the patch's shape."""
    factor = torch.ones((), device=device)
    for axis, row in enumerate(window.rows):
        factor = factor.unsqueeze(-1) * rows[axis][row].to(device)
    return factor


def _zeros(shape: Sequence[int], device: torch.device) -> torch.Tensor:
    """Zeros on the device, or on the CPU if the device's memory is too small."""
    need = math.prod(shape) * 4, f"the result for {' x '.join(map(str, shape))} values"
    if device.type == "cpu":
        require_memory(*need)
    try:
        return torch.zeros(*shape, device=device)
    except torch.OutOfMemoryError:
        logger.warning(
            "%s is too small for the result of this volume, which is collected on the CPU", device
        )
        require_memory(*need)
        return torch.zeros(*shape)


def _add(
    total: torch.Tensor, window: Window, values: torch.Tensor, rows: Sequence[torch.Tensor]
) -> None:
    share = _share(window, rows, total.device)
    values = values.to(total.device)
    target, length = total[:, *window.region], len(share)
    limit = ADD_BYTES.get(total.device.type)
    step = length if limit is None else max(limit // (4 * values[:, 0].numel()), 1)
    for start in range(0, length, step):
        planes = slice(start, start + step)
        part = values[:, planes].float().contiguous()
        target[:, planes].addcmul_(part, share[planes])


def _add_background(
    total: torch.Tensor, window: Window, rows: Sequence[torch.Tensor], background: int | None
) -> None:
    share = _share(window, rows, total.device) * EMPTY_LOGIT
    if background is None:
        total[:, *window.region] -= share
    else:
        total[background][window.region] += share
