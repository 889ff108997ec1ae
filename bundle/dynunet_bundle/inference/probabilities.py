"""Probabilities of a case on the grid of its file.

Stored on disk: ``CASE.npy``, and ``CASE.json``, which is written last. The array is float16 in C order,
``[C, X, Y, Z]``: one softmax output per class or one sigmoid output per region. Between 0.5 and 1, float16 has a step
of 0.0005, so a mask decided from the file may differ from the network's own where two outputs are that close.
"""

import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from dynunet_bundle.dataset.cases import name_of, source_of
from dynunet_bundle.dicom_input.names import is_series_name
from dynunet_bundle.errors import CaseError, DatasetError, PlanError
from dynunet_bundle.files import atomic_write, ensure_writable, read_json, write_json
from dynunet_bundle.images.grid import SPATIAL_AXES
from dynunet_bundle.labels.scheme import LABEL_IDS, LabelScheme
from dynunet_bundle.planning.plan import PLAN_SCHEMA
from dynunet_bundle.shapes import FILE_NAME, list_of, object_with

CHANNEL_IDS = tuple(name for name in LABEL_IDS if name != "ignore_value")
"""Ids of the plan that define the channels; the ignored value is not one of a network's outputs."""

REMEDY = "Predict this case again."

HEADER_SCHEMA = object_with(
    {
        "source": FILE_NAME,
        "shape": list_of(
            {"type": "integer", "minimum": 1, "maximum": 2**31}, minItems=3, maxItems=3
        ),
        "affine": list_of(
            list_of({"type": "number"}, minItems=4, maxItems=4), minItems=4, maxItems=4
        ),
        **{name: PLAN_SCHEMA["properties"][name] for name in CHANNEL_IDS},
    },
    ("source", "shape", "affine", *CHANNEL_IDS),
    description=REMEDY,
)
"""Schema of the JSON beside an array of probabilities."""


@dataclass(frozen=True)
class ProbabilityFile:
    """Saved probabilities of one case.

    Attributes:
        case: its name.
        path: the ``.npy``.
        source: file name of the image; for a DICOM series, the name of the case.
        shape: shape of the image in voxels, ``(X, Y, Z)``.
        affine: ``[4, 4]`` of the image, to RAS+ millimetres.
        labels: classes or regions of the channels.
    """

    case: str
    path: Path
    source: str
    shape: tuple[int, ...]
    affine: np.ndarray
    labels: LabelScheme

    def array(self) -> np.ndarray:
        """The probabilities ``[C, X, Y, Z]`` float16, memory-mapped.

        Raises:
            CaseError: if the file is missing or damaged, or does not match its header.
        """
        try:
            array = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise CaseError(self.case, f"{self.path} cannot be read ({error})", REMEDY) from error
        channels = self.labels.num_outputs
        if array.shape != (channels, *self.shape) or array.dtype != np.float16:
            raise CaseError(
                self.case,
                f"{self.path} holds {array.dtype} {array.shape}, but its header says float16 {(channels, *self.shape)}",
                REMEDY,
            )
        return array


class SaveProbabilitiesd(MapTransform):
    """Save probabilities for ensembles: ``postprocessing`` of inference.json and evaluate.json.

    Each case is stored as ``output_dir/CASE.npy`` and ``CASE.json``. MONAI's SaveImaged would write, in place, an image
    file that can only be read as a whole and lacks the names of the classes. Those of an image in memory are not saved.

    Args:
        keys: keys of the probabilities, MetaTensors ``[C, X, Y, Z]`` on the grid of the file in their meta data.
        output_dir: folder of the results.
        labels: the plan's labels.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str,
        labels: LabelScheme,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.output_dir = Path(output_dir)
        self.labels = labels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Save one case; the data is returned unchanged."""
        saved = dict(data)
        for key in self.key_iterator(saved):
            tensor = saved[key]
            file = source_of(tensor)
            if file is None:
                continue
            case = name_of({**saved, "image": tensor})
            # the folder of a series may be called after a patient
            source = case if is_series_name(file) else Path(file).name
            save_probabilities(
                tensor.as_tensor(), tensor.affine, source, self.labels, self.output_dir, case
            )
        return saved


def save_probabilities(
    probabilities: torch.Tensor,
    affine: Any,
    source: str,
    labels: LabelScheme,
    folder: Path,
    case: str,
) -> Path:
    """Write the probabilities of a case, channel by channel, then their header.

    Args:
        probabilities: ``[C, X, Y, Z]``, of any floating type.
        affine: ``[4, 4]``, to RAS+ millimetres.
        source: file name of the image.
        labels: classes or regions of the channels.
        folder: output folder.
        case: name of the case.

    Returns:
        Path of the array.

    Raises:
        CaseError: if the number of channels is not that of the classes or regions.
        OutputError: if they cannot be written.
    """
    channels = labels.num_outputs
    if probabilities.ndim != SPATIAL_AXES + 1 or len(probabilities) != channels:
        raise CaseError(
            case,
            f"its probabilities have shape {tuple(probabilities.shape)}, but the plan has {channels} outputs",
            "Report this as a bug of the inference.",
        )
    path = ensure_writable(folder) / f"{case}.npy"
    header = path.with_name(f"{case}.json")
    # a header marks a complete array, so it is deleted first and written last
    header.unlink(missing_ok=True)
    with atomic_write(path) as file:
        form = {"descr": "<f2", "fortran_order": False, "shape": tuple(probabilities.shape)}
        np.lib.format.write_array_header_1_0(file, form)
        for channel in probabilities:
            half = channel.to(torch.float16).cpu().contiguous().numpy()
            file.write(memoryview(half).cast("B"))
    matrix = np.asarray(affine, dtype=float).tolist()
    shape = list(probabilities.shape[1:])
    names = {name: value for name, value in labels.ids().items() if name in CHANNEL_IDS}
    write_json(header, {"source": source, "shape": shape, "affine": matrix, **names})
    return path


def read_probabilities(folder: str | Path) -> dict[str, ProbabilityFile]:
    """All cases of a folder by name, sorted; those without a header are incomplete and left out.

    Args:
        folder: output folder of ``SaveProbabilitiesd``.

    Raises:
        DatasetError: if the folder does not exist or is empty, or a header is malformed.
        CaseError: if the labels in a header are inconsistent.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DatasetError(f"{folder} does not exist. Predict with --probabilities_dir {folder}.")
    arrays = sorted(file for file in folder.glob("*.npy") if not file.name.startswith("."))
    found = {
        path.stem: _read_header(path) for path in arrays if path.with_suffix(".json").is_file()
    }
    if not found:
        raise DatasetError(
            f"{folder} holds no probabilities. Predict with --probabilities_dir {folder}."
        )
    return found


def label_differences(one: LabelScheme, other: LabelScheme) -> list[str]:
    """Ids of ``CHANNEL_IDS`` in which two plans differ, each as ``"id: one against other"``; the order matters."""
    ours, theirs = one.ids(), other.ids()
    pairs = {name: (ours[name], theirs[name]) for name in CHANNEL_IDS}
    return [
        f"{name}: {first} against {second}"
        for name, (first, second) in pairs.items()
        if json.dumps(first) != json.dumps(second)
    ]


def _read_header(path: Path) -> ProbabilityFile:
    header = path.with_suffix(".json")
    content = read_json(header, DatasetError, HEADER_SCHEMA)
    try:
        labels = LabelScheme.from_plan({name: content[name] for name in CHANNEL_IDS})
    except PlanError as error:
        raise CaseError(path.stem, f"{header}: {error}", REMEDY) from error
    return ProbabilityFile(
        case=path.stem,
        path=path,
        source=content["source"],
        shape=tuple(content["shape"]),
        affine=np.array(content["affine"], dtype=float),
        labels=labels,
    )
