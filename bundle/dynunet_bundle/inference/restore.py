"""Convert the network's outputs to a mask on the grid of the file."""

import math
from collections.abc import Hashable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, InvertibleTransform, MapTransform
from monai.utils.enums import TraceKeys

from dynunet_bundle.dataset.cases import IMAGE
from dynunet_bundle.inference.planes import resized_planes
from dynunet_bundle.labels.scheme import LabelScheme
from dynunet_bundle.machine.limits import require_memory
from dynunet_bundle.preprocessing.resample import ResampleToSpacingd

CLASS_TYPE = torch.uint8
"""Type of class numbers; a plan has at most 255 classes."""


class RestoreClassesd(MapTransform):
    """Undo the preprocessing and decide on classes: ``postprocessing`` of inference.json and evaluate.json.

    Logits are resampled, then the class with the largest logit is chosen (regions: logits above 0, see
    ``LabelScheme``), as in nnU-Net's export. Voxels outside the crop are background.

    MONAI's Invertd and AsDiscreted hold several copies of all classes at the resolution of the file. Here only a few
    planes of it exist at a time, and later steps work on class numbers of one byte.

    Args:
        keys: keys of the outputs ``[C, D, H, W]`` on the preprocessed grid, logits.
        transform: the preprocessing, as for Invertd. Steps before its resampling are undone by their own inverses.
        labels: the plan's labels.
        probability_key: key for the probabilities ``[C, X, Y, Z]`` on the grid of the file, or None. They need the
            memory that this class saves.
        allow_missing_keys: as in MONAI.

    Attributes:
        probability_type: type of the probabilities, float16, as the files have it.
    """

    probability_type = torch.float16

    def __init__(
        self,
        keys: KeysCollection,
        transform: Compose,
        labels: LabelScheme,
        probability_key: str | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = transform
        self.labels = labels
        self.probability_key = probability_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Restore one case; masks are class numbers ``[1, X, Y, Z]`` uint8 on the CPU, with the file's meta data.

        Args:
            data: the outputs, and the preprocessed image, whose trace lists the applied transforms.
        """
        restored = dict(data)
        for key in self.key_iterator(restored):
            outputs = restored[key]
            logits = outputs.as_subclass(torch.Tensor)
            restored[key], probabilities = self._restore(logits, restored[IMAGE])
            if probabilities is not None:
                restored[self.probability_key] = probabilities
        return restored

    def _restore(
        self, logits: torch.Tensor, image: MetaTensor
    ) -> tuple[MetaTensor, MetaTensor | None]:
        resample, *others = self._steps()
        shape, coarse_axis, trace, affine = _before(resample, image)
        itemsize = self.probability_type.itemsize * (self.probability_key is not None)
        num_bytes = 1 + len(logits) * itemsize
        require_memory(math.prod(shape) * num_bytes, "its mask, with probabilities if wanted,")
        classes = torch.empty((1, *shape), dtype=CLASS_TYPE, device=logits.device)
        shares = None
        if self.probability_key is not None:
            shares = torch.empty((len(logits), *shape), dtype=self.probability_type)
        for planes, chunk in resized_planes(logits, shape, coarse_axis):
            classes[0, planes] = self._decide(chunk)
            if shares is not None:
                shares[:, planes] = self._probabilities(chunk).to(shares)
        mask = self._undo(classes.cpu(), image, trace, affine, others)
        if shares is None:
            return mask, None
        probabilities = self._undo(shares, image, trace, affine, others)
        if not self.labels.sigmoid:
            # outside the crop, padding has set all classes to 0; make it background
            probabilities[0][probabilities.sum(0) == 0] = 1
        return mask, probabilities

    def _steps(self) -> list[InvertibleTransform]:
        """Steps to undo, the last one first."""
        steps = [
            step
            for step in reversed(self.transform.flatten().transforms)
            if isinstance(step, InvertibleTransform)
        ]
        if not steps or not isinstance(steps[0], ResampleToSpacingd):
            raise ValueError("the preprocessing must end with ResampleToSpacingd")
        return steps

    def _decide(self, chunk: torch.Tensor) -> torch.Tensor:
        if self.labels.sigmoid:
            return self.labels.regions_to_classes(chunk, threshold=0.0).to(CLASS_TYPE)
        # torch.argmax along the first axis takes five times as long
        return torch.max(chunk, dim=0).indices.to(CLASS_TYPE)

    def _probabilities(self, chunk: torch.Tensor) -> torch.Tensor:
        return chunk.sigmoid() if self.labels.sigmoid else chunk.softmax(0)

    def _undo(
        self,
        array: torch.Tensor,
        image: MetaTensor,
        trace: list[Any],
        affine: torch.Tensor,
        steps: Sequence[InvertibleTransform],
    ) -> MetaTensor:
        """Undo all steps except the resampling, on an array on the grid before the resampling."""
        # MONAI removes entries from the trace while it inverts
        tensor = MetaTensor(array, meta=dict(image.meta), applied_operations=deepcopy(trace))
        tensor.affine = affine
        work: dict[Hashable, Any] = {IMAGE: tensor}
        for step in steps:
            work = step.inverse(work)
        result: MetaTensor = work[IMAGE]
        return result


def _before(
    resample: InvertibleTransform, image: MetaTensor
) -> tuple[list[int], int | None, list[Any], torch.Tensor]:
    """Shape, coarse axis, trace and affine of the image before it was resampled."""
    probe = MetaTensor(torch.empty(0), meta={}, applied_operations=list(image.applied_operations))
    info = resample.pop_transform(probe)[TraceKeys.EXTRA_INFO]
    affine = torch.tensor(info["affine"], dtype=torch.float64)
    return info["shape"], info["coarse_axis"], list(probe.applied_operations), affine
