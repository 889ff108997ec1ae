"""Masks from the averaged probabilities of several models, like nnU-Net's ensembles.

By default all models have equal weights. The float16 files are averaged in float32. The class with the largest mean
wins, the first of equal ones; regions with a mean above one half are written in their order (``ensemble.py`` and
``label_handling.py`` of nnunetv2 2.8.1). MONAI's MeanEnsemble stacks all members in memory.

Stored on disk: one mask per case, and ``ensemble.json``.
"""

import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dynunet_bundle.dataset.case_marks import name_mark
from dynunet_bundle.dataset.cases import image_files, list_images
from dynunet_bundle.dataset.reference_labels import cases_by_name, dataset_root
from dynunet_bundle.errors import (
    CaseError,
    ConfigError,
    DatasetError,
    OutputError,
    counted,
    some_of,
)
from dynunet_bundle.files import (
    NIFTI_SUFFIXES,
    case_name,
    ensure_writable,
    read_json,
    write_json,
)
from dynunet_bundle.images.grid import SPATIAL_AXES, grid_difference
from dynunet_bundle.images.nifti import affine_mm, load_nifti
from dynunet_bundle.images.read import read_volume
from dynunet_bundle.inference.probabilities import (
    ProbabilityFile,
    label_differences,
    read_probabilities,
)
from dynunet_bundle.inference.save_mask import save_mask
from dynunet_bundle.labels.largest_component import ComponentRules, KeepLargestd, require_rules
from dynunet_bundle.labels.scheme import LABEL_IDS, LabelScheme
from dynunet_bundle.machine.locks import WAIT, exclusive
from dynunet_bundle.planning.plan import VALUE
from dynunet_bundle.shapes import TEXT, by_name, list_of, object_with
from dynunet_bundle.terminal import progress, tell_start

CHUNK_BYTES = 64 * 2**20
"""Size of one chunk of the means, float32. It bounds the memory, whatever the size of a case."""

RECORD_NAME = "ensemble.json"
RECORD_SCHEMA = object_with(
    {
        "members": list_of(TEXT),
        "weights": {**list_of({"type": "number"}), "type": ["array", "null"]},
        "keep_largest": list_of(list_of({"type": "integer"})),
        "label_names": list_of(TEXT),
        "label_values": list_of(VALUE),
        "ignore_value": {"type": ["integer", "null"]},
        "regions": {**by_name(list_of(VALUE)), "type": ["object", "null"]},
        "regions_class_order": {**list_of(VALUE), "type": ["array", "null"]},
    },
    description="Choose another --output_dir, or pass --restart.",
)

BITS_OF_ONE = int(np.float16(1).view(np.uint16))
"""The number 1 as float16 has it; positive numbers are in the order of their bits."""

logger = logging.getLogger(__name__)

Members = Sequence[Mapping[str, ProbabilityFile]]
"""Probabilities by case, for each member."""


@dataclass(frozen=True)
class EnsembleRequest:
    """Members and settings of an ensemble.

    Attributes:
        members: folders of probabilities, one per model.
        images: folder of the predicted images, or their data set.
        output: folder of the masks.
        weights: one positive number per member, or None for the unweighted mean.
        rules: ``keep_largest``, see ``largest_component``.
        go_on: keep masks that an earlier run of the same request has finished.
    """

    members: tuple[Path, ...]
    images: Path
    output: Path
    weights: tuple[float, ...] | None = None
    rules: ComponentRules = ()
    go_on: bool = False


def write_ensemble(request: EnsembleRequest) -> list[Path]:
    """Write one mask per case to the output folder, and ``ensemble.json`` with the request.

    Returns:
        Paths of the masks that were written.

    Raises:
        BundleError: if the members differ in cases, labels or grids, images are missing, or another process writes to
            the folder.
    """
    _require_weights(request.weights, len(request.members))
    members = [read_probabilities(folder) for folder in request.members]
    require_alike(members, [str(folder) for folder in request.members])
    labels = next(iter(members[0].values())).labels
    require_rules(request.rules, labels.values)
    sources = _find_sources(members[0], request.images)
    lock = ensure_writable(request.output) / ".prediction.lock"
    with exclusive(lock, "prediction", WAIT):
        return _write_masks(request, members, sources)


def _write_masks(
    request: EnsembleRequest, members: Members, sources: Mapping[str, Path]
) -> list[Path]:
    labels = next(iter(members[0].values())).labels
    done = _start(request, members)
    todo = [case for case in members[0] if case not in done]
    if done:
        logger.info("%d of %d masks exist already", len(members[0]) - len(todo), len(members[0]))
    tell_start("ensemble", members=len(members), cases=len(todo), folder=request.output)
    finish = _Finish(labels, request.rules)
    written = []
    for case in progress(todo, "ensemble", total=len(todo)):
        files = [member[case] for member in members]
        _require_image_grid(files[0], sources[case])
        values = finish(average_classes(files, request.weights))
        written.append(save_mask(values, sources[case], request.output, case))
    return written


def average_classes(
    files: Sequence[ProbabilityFile], weights: Sequence[float] | None = None
) -> np.ndarray:
    """Average the members of one case and decide on classes, a few planes of all classes at a time.

    Args:
        files: the case's probabilities, one per member, on the same grid.
        weights: one number per member, or None for the unweighted mean.

    Returns:
        Class numbers ``[X, Y, Z]`` uint8; ``labels`` of a file has their values.

    Raises:
        CaseError: if a file cannot be read, or has other numbers than probabilities.
    """
    arrays = [file.array() for file in files]
    labels = files[0].labels
    factors = [1.0] * len(files) if weights is None else list(weights)
    classes = np.empty(files[0].shape, np.uint8)
    planes = max(1, CHUNK_BYTES // (4 * arrays[0][:, :1].size))
    for start in range(0, len(classes), planes):
        part = slice(start, start + planes)
        parts = [array[:, part] for array in arrays]
        for file, values in zip(files, parts, strict=True):
            _require_probabilities(file, values)
        mean = torch.from_numpy(_mean(parts, factors))
        # torch.argmax along the first axis takes five times as long
        decided = (
            labels.regions_to_classes(mean, threshold=0.5)
            if labels.sigmoid
            else mean.max(0).indices
        )
        classes[part] = decided.numpy()
    return classes


def _require_probabilities(file: ProbabilityFile, values: np.ndarray) -> None:
    # bits of float16: those of negative numbers, of numbers above 1 and of NaN are larger; a comparison takes longer
    if (values.view(np.uint16) > BITS_OF_ONE).any() and not ((values >= 0) & (values <= 1)).all():
        raise CaseError(
            file.case,
            f"{file.path} has numbers that are NaN or not between 0 and 1",
            "Predict this image again with --probabilities_dir.",
        )


def _mean(parts: Sequence[np.ndarray], factors: Sequence[float]) -> np.ndarray:
    total = np.zeros(parts[0].shape, np.float32)
    for part, factor in zip(parts, factors, strict=True):
        total += part if factor == 1 else part.astype(np.float32) * np.float32(factor)
    total /= np.float32(sum(factors))
    return total


class _Finish:
    """Class numbers ``[X, Y, Z]`` -> label values after the rules."""

    def __init__(self, labels: LabelScheme, rules: ComponentRules) -> None:
        self.labels = labels
        self.keep = KeepLargestd("mask", rules)

    def __call__(self, classes: np.ndarray) -> torch.Tensor:
        mask = self.labels.to_values(torch.from_numpy(classes))
        data: dict[Hashable, Any] = {"mask": mask[None]}
        return self.keep(data)["mask"][0]


def require_alike(members: Members, names: Sequence[str]) -> None:
    """Refuse members that do not have the same cases, labels and grids.

    Args:
        members: probabilities by case, for each member.
        names: name of each member, for the message.

    Raises:
        DatasetError: naming the member, and its missing cases or different labels.
        CaseError: if the grids of a case differ.
    """
    every = sorted(set().union(*members))
    for name, member in zip(names, members, strict=True):
        lacking = [case for case in every if case not in member]
        if lacking:
            raise DatasetError(
                f"{name} has no probabilities of {some_of(lacking)}, which another member has. "
                "Predict the same images with every member."
            )
    first = next(iter(members[0].values()))
    for name, member in zip(names, members, strict=True):
        for case, file in member.items():
            differences = label_differences(file.labels, first.labels)
            if differences:
                raise DatasetError(
                    f"{name} has other labels for {case} than {names[0]} for {first.case} "
                    f"({'; '.join(differences)}). Use members with the same labels."
                )
            _require_same_grid(file, members[0][case], f"{name} and {names[0]}")


def _require_same_grid(file: ProbabilityFile, other: ProbabilityFile, where: str) -> None:
    difference = grid_difference(file.shape, file.affine, other.shape, other.affine)
    if difference:
        raise CaseError(
            file.case,
            f"its probabilities in {where} are on different grids: they {difference}",
            "Predict the same images with every member.",
        )


def _require_image_grid(file: ProbabilityFile, image: Path) -> None:
    if image.name.lower().endswith(NIFTI_SUFFIXES):
        header = load_nifti(image)
        shape, affine = (*header.shape[:SPATIAL_AXES], 1, 1)[:SPATIAL_AXES], affine_mm(header)
    else:
        volume = read_volume(image)
        shape, affine = volume.array.shape[1:], volume.affine
    difference = grid_difference(file.shape, file.affine, shape, affine)
    if difference:
        raise CaseError(
            file.case,
            f"its probabilities are not on the grid of {image}: they {difference}",
            "Pass the images that were predicted.",
        )


def _find_sources(files: Mapping[str, ProbabilityFile], folder: Path) -> dict[str, Path]:
    root = dataset_root(folder)
    listed = {} if root is None else cases_by_name(root)
    sources = {
        case: Path(image_files(listed[case])[0]) if case in listed else folder / file.source
        for case, file in files.items()
    }
    missing = [path.name for path in sources.values() if not path.is_file()]
    if missing:
        raise DatasetError(
            f"{folder} has no {some_of(missing)}, but each mask needs the grid of its image. "
            "Pass the folder of the predicted images as --input."
        )
    return sources


def _start(request: EnsembleRequest, members: Members) -> set[str]:
    """Write the request and the labels to the output folder; return the cases that are done.

    Their masks are newer than their probabilities.

    Raises:
        OutputError: if the folder holds masks of another request.
    """
    folder = request.output
    record = {
        # folders may be called after patients
        "members": [name_mark(str(member.resolve())) for member in request.members],
        "weights": request.weights and list(request.weights),
        "keep_largest": [list(values) for values in request.rules],
    }
    labels = next(iter(members[0].values())).labels
    whole = {**record, **dict(zip(LABEL_IDS, astuple(labels), strict=True))}
    path = folder / RECORD_NAME
    if not request.go_on or not path.is_file():
        write_json(path, whole)
        return set()
    earlier = read_ensemble_json(path)
    if {key: earlier.get(key) for key in record} != record:
        raise OutputError(
            f"{folder} holds masks of another ensemble (see {path}). Choose another --output_dir, or pass --restart."
        )
    # one of an older version does not name the classes
    write_json(path, whole)
    masks = {case_name(file): file for file in list_images(folder)}
    return {case for case in members[0] if case in masks and _is_newer(masks[case], case, members)}


def read_ensemble_json(path: Path) -> dict[str, Any]:
    """The content of ``ensemble.json``; empty if it does not exist.

    Raises:
        OutputError: if it is malformed.
    """
    if not path.is_file():
        return {}
    record: dict[str, Any] = read_json(path, OutputError, RECORD_SCHEMA)
    return record


def _is_newer(mask: Path, case: str, members: Members) -> bool:
    made = mask.stat().st_mtime_ns
    return all(member[case].path.stat().st_mtime_ns <= made for member in members)


def _require_weights(weights: Sequence[float] | None, num_members: int) -> None:
    if weights is not None and (
        len(weights) != num_members or not all(0 < weight < np.inf for weight in weights)
    ):
        raise ConfigError(
            f"the weights are {list(weights)} for {counted(num_members, 'member')}. Give one positive "
            "number per member."
        )
