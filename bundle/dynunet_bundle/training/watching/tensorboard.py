"""TensorBoard output of a training, in one event file: curves, and slices of validation cases.

Stored on disk: the tags, in event files.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.handlers import TensorBoardHandler
from torch.utils.tensorboard import SummaryWriter

from dynunet_bundle.drawing.colours import ClassColours
from dynunet_bundle.drawing.slices import (
    grey_limits,
    grid_picture,
    legend_picture,
    one_below_another,
    slice_picture,
)
from dynunet_bundle.labels.scheme import IGNORE_CLASS

TILE_PIXELS = 256
"""Longer side of a tile, in pixels."""

NUM_EXAMPLES = 3
"""Number of validation cases shown at each validation."""

EPOCH_TAGS = {
    "learning_rate": "train/learning_rate",
    "seconds": "train/seconds",
    "patches_per_second": "train/patches_per_second",
    "gpu_memory_mib": "train/gpu_memory_mib",
    "val_loss": "val/loss",
    "dice": "val/mean_dice",
    "ema_dice": "val/ema_dice",
    "validation_seconds": "val/seconds",
}
"""TensorBoard tags by the names in the log; the part before the first slash is the group on the page."""


def write_epoch(engine: Engine, writer: SummaryWriter) -> None:
    """``epoch_event_writer`` of TensorBoardStatsHandler, in ``train#handlers`` of train.json.

    The values come from ProgressHandler; the loss is written per iteration, everything else per epoch. The handler's
    own writers wait for the GPU and flush at each iteration, lack learning rate and throughput, and skip the Dice per
    class, which is not a scalar.

    Args:
        engine: the trainer; ProgressHandler must have reported already.
        writer: writer of the event file.
    """
    state = engine.state
    before = state.iteration - len(state.epoch_losses)
    for number, loss in enumerate(state.epoch_losses, start=before + 1):
        writer.add_scalar("train/loss", loss, number)
    scalars = {tag: state.epoch_record.get(name) for name, tag in EPOCH_TAGS.items()}
    for name, dice in state.epoch_record.get("dice_by_class", {}).items():
        scalars[f"val/dice/{tag_of(name)}"] = dice
    for tag, value in scalars.items():
        if value is not None:
            writer.add_scalar(tag, value, state.epoch)
    writer.flush()


def tag_of(name: str) -> str:
    """A name with all characters replaced that TensorBoard or MLflow do not accept in a tag."""
    return re.sub(r"[^\w.-]", "_", name)


class ExampleSlices(TensorBoardHandler):
    """Slices of the first validation cases for TensorBoard: ``validate#handlers`` of train.json.

    Shown are the image alone, with outlines of the label, and with outlines of the prediction, in the slice with the
    most foreground in the label, so the same one at each validation. MONAI's TensorBoardImageHandler shows separate
    animations of image, label and prediction, without outlines, of one case per epoch.

    Args:
        summary_writer: as in MONAI.
        spacing: mm per axis; the last two set the aspect ratio of the picture.
        label_names: name of each class, background first, for the legend; without names there is no legend.
    """

    def __init__(
        self,
        summary_writer: SummaryWriter,
        spacing: Sequence[float] = (1.0, 1.0),
        label_names: Sequence[str] = (),
    ) -> None:
        super().__init__(summary_writer)
        self.spacing = np.array(spacing[-2:], dtype=float)
        self.names = dict(list(enumerate(label_names))[1:])
        self._shown = 0

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI evaluator; its output must be decollated and postprocessed."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def _start(self) -> None:
        self._shown = 0

    def __call__(self, engine: Engine) -> None:
        """Write the cases of this iteration, up to ``NUM_EXAMPLES`` per validation."""
        for output in engine.state.output[: NUM_EXAMPLES - self._shown]:
            self._shown += 1
            picture = self._picture(output["image"], output["label"], output["pred"])
            tag = f"val/case_{self._shown}"
            self._writer.add_image(tag, picture, engine.state.epoch, dataformats="HWC")

    def _picture(
        self, image: torch.Tensor, label: torch.Tensor, prediction: torch.Tensor
    ) -> np.ndarray:
        """Three tiles side by side and the legend below, ``[H, W, 3]`` uint8.

        Args:
            image: ``[C, D, H, W]``, or ``[C, H, W]`` in 2D.
            label: class numbers, ``[1, D, H, W]`` or ``[1, H, W]``; ``IGNORE_CLASS`` is not outlined.
            prediction: class numbers, same shape.
        """
        classes, index = _fullest_slice(label)
        grey = _slice(image, index).astype(np.float32)
        lengths = np.array(grey.shape) * self.spacing
        rows, columns = np.maximum(np.round(lengths * TILE_PIXELS / lengths.max()), 1).astype(int)
        limits = grey_limits(grey)
        tiles = [
            slice_picture(grey, shown, limits, (int(rows), int(columns)))
            for shown in (np.zeros_like(classes), classes, _slice(prediction, index))
        ]
        title = "image, label, prediction" + ("" if index is None else f" (slice {index})")
        whole = grid_picture([tiles], [title])
        if self.names:
            legend = ClassColours(self.names).legend(list(self.names))
            whole = one_below_another([whole, legend_picture(legend, whole.width)])
        return np.asarray(whole)


def _fullest_slice(label: torch.Tensor) -> tuple[np.ndarray, int | None]:
    """The slice with the most foreground along the first axis, and its index (None in 2D); ignored voxels are 0."""
    found = label[0].masked_fill(label[0] == IGNORE_CLASS, 0)
    if found.ndim == 2:
        return _as_array(found), None
    counts = (found > 0).flatten(1).sum(dim=1)
    index = int(counts.argmax()) if counts.any() else len(counts) // 2
    return _as_array(found[index]), index


def _slice(volume: torch.Tensor, index: int | None) -> np.ndarray:
    """A slice of the first channel; only this slice is copied from the GPU."""
    return _as_array(volume[0] if index is None else volume[0, index])


def _as_array(values: Any) -> np.ndarray:
    return np.asarray(torch.as_tensor(values).detach().float().cpu())
