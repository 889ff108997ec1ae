"""Probabilities of a case on the grid of its file: ``CASE.npy`` beside ``CASE.json``, which is written last.

The array is float16 in C order, ``[C, X, Y, Z]``: one softmax output a class or one sigmoid output a region. float16
has a step of 0.0005 just below 1 and above 0.5, so a mask decided from it may differ from the network's own where two
outputs are as close as that.
"""

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import ImageMetaKey

from dynunet_bundle.dataset.cases import name_of
from dynunet_bundle.errors import CaseError, DatasetError
from dynunet_bundle.files import atomic_write, ensure_writable, read_json, write_json
from dynunet_bundle.images.grid import SPATIAL_AXES
from dynunet_bundle.labels.scheme import Regions, require_label_plan

LABEL_IDS = ("label_names", "label_values", "regions", "regions_class_order")
"""Ids of the plan that say what each channel is."""

REMEDY = "Predict this case again."


@dataclass(frozen=True)
class ProbabilityFile:
    """What was saved of one case.

    Attributes:
        case: its name.
        path: the ``.npy``.
        source: file name of the image.
        shape: voxels by axis of the image, ``(X, Y, Z)``.
        affine: ``[4, 4]`` of the image, to RAS+ millimetres.
        labels: the ids of ``LABEL_IDS``.
    """

    case: str
    path: Path
    source: str
    shape: tuple[int, ...]
    affine: np.ndarray
    labels: Mapping[str, Any]

    def array(self) -> np.ndarray:
        """The probabilities ``[C, X, Y, Z]`` float16, mapped into memory, not read.

        Raises:
            CaseError: if the file is missing or damaged, or does not hold what its header says.
        """
        try:
            array = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise CaseError(self.case, f"{self.path} cannot be read ({error})", REMEDY) from error
        channels = len(self.labels["regions"] or self.labels["label_names"])
        if array.shape != (channels, *self.shape) or array.dtype != np.float16:
            raise CaseError(
                self.case,
                f"{self.path} holds {array.dtype} {array.shape}, its header says float16 {(channels, *self.shape)}",
                REMEDY,
            )
        return array


class SaveProbabilitiesd(MapTransform):
    """Save what the network found in a case, for ensembles: ``output_dir/CASE.npy`` and ``CASE.json``.

    MONAI's SaveImaged would write an image file that has to be unpacked as a whole, in place, and without the names
    of the classes.

    Args:
        keys: keys of the probabilities, MetaTensors ``[C, X, Y, Z]`` on the grid of the file in their meta data.
        output_dir: folder of the results.
        label_names: one name a class, the background first.
        label_values: value of each class.
        regions: the plan's regions, or None.
        regions_class_order: the value that is written for each region, or None.
        allow_missing_keys: as in MONAI.

    Raises:
        PlanError: if regions and values do not belong together.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str,
        label_names: Sequence[str],
        label_values: Sequence[int],
        regions: Regions | None = None,
        regions_class_order: Sequence[int] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        require_label_plan(label_values, None, regions, regions_class_order)
        self.output_dir = Path(output_dir)
        self.labels = {
            "label_names": list(label_names),
            "label_values": list(label_values),
            "regions": regions and {name: list(values) for name, values in regions.items()},
            "regions_class_order": regions_class_order and list(regions_class_order),
        }

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Save one case; the data is passed on as it came."""
        saved = dict(data)
        for key in self.key_iterator(saved):
            tensor = saved[key]
            source = Path(str(tensor.meta[ImageMetaKey.FILENAME_OR_OBJ])).name
            case = name_of({**saved, "image": tensor})
            save_probabilities(
                tensor.as_tensor(), tensor.affine, source, self.labels, self.output_dir, case
            )
        return saved


def save_probabilities(
    probabilities: torch.Tensor,
    affine: Any,
    source: str,
    labels: Mapping[str, Any],
    folder: Path,
    case: str,
) -> Path:
    """Write the probabilities of a case, channel by channel, then their header.

    Args:
        probabilities: ``[C, X, Y, Z]``, of any floating type.
        affine: ``[4, 4]``, to RAS+ millimetres.
        source: file name of the image.
        labels: the ids of ``LABEL_IDS``.
        folder: where they go.
        case: name of the case.

    Returns:
        Path of the array.

    Raises:
        CaseError: if there are not as many channels as classes or regions.
        OutputError: if they cannot be written.
    """
    channels = len(labels["regions"] or labels["label_names"])
    if probabilities.ndim != SPATIAL_AXES + 1 or len(probabilities) != channels:
        raise CaseError(
            case,
            f"its probabilities have shape {tuple(probabilities.shape)}, the plan has {channels} outputs",
            "Report this as a fault of the inference.",
        )
    path = ensure_writable(folder) / f"{case}.npy"
    header = path.with_name(f"{case}.json")
    # a header stands for a whole array beside it
    header.unlink(missing_ok=True)
    with atomic_write(path) as file:
        form = {"descr": "<f2", "fortran_order": False, "shape": tuple(probabilities.shape)}
        np.lib.format.write_array_header_1_0(file, form)
        for channel in probabilities:
            half = channel.to(torch.float16).cpu().contiguous().numpy()
            file.write(memoryview(half).cast("B"))
    matrix = np.asarray(affine, dtype=float).tolist()
    shape = list(probabilities.shape[1:])
    write_json(header, {"source": source, "shape": shape, "affine": matrix, **labels})
    return path


def read_probabilities(folder: str | Path) -> dict[str, ProbabilityFile]:
    """All cases of a folder by name, sorted; those without a header were never finished and are left out.

    Args:
        folder: what ``SaveProbabilitiesd`` wrote into.

    Raises:
        DatasetError: if there is no such folder, or nothing in it.
        CaseError: if a header is malformed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DatasetError(f"{folder} does not exist. Predict with --save_probabilities {folder}.")
    arrays = sorted(file for file in folder.glob("*.npy") if not file.name.startswith("."))
    found = {
        path.stem: _read_header(path) for path in arrays if path.with_suffix(".json").is_file()
    }
    if not found:
        raise DatasetError(
            f"{folder} holds no probabilities. Predict with --save_probabilities {folder}."
        )
    return found


def label_differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Ids of ``LABEL_IDS`` in which two plans differ, each as ``"id: one against other"``; order counts."""
    pairs = {name: (one.get(name), other.get(name)) for name in LABEL_IDS}
    return [
        f"{name}: {first} against {second}"
        for name, (first, second) in pairs.items()
        if json.dumps(first) != json.dumps(second)
    ]


def _read_header(path: Path) -> ProbabilityFile:
    header = path.with_suffix(".json")
    content = read_json(header, DatasetError)
    needed = {"source", "shape", "affine", *LABEL_IDS}
    if not isinstance(content, dict) or not needed <= content.keys():
        lacking = ", ".join(sorted(needed - set(content if isinstance(content, dict) else ())))
        raise CaseError(path.stem, f"{header} lacks {lacking}", REMEDY)
    labels = {name: content[name] for name in LABEL_IDS}
    require_label_plan(
        labels["label_values"], None, labels["regions"], labels["regions_class_order"]
    )
    return ProbabilityFile(
        case=path.stem,
        path=path,
        source=content["source"],
        shape=tuple(content["shape"]),
        affine=np.array(content["affine"], dtype=float),
        labels=labels,
    )
