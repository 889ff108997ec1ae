"""Compare a folder of predicted masks with a folder of reference masks.

Masks are read without MONAI's LoadImaged: it creates every reader it has, and one of them (1.6.1) warns if pydicom is
installed without nvImageCodec.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from dynunet_bundle.configs.overrides import known_ids, read_overlay
from dynunet_bundle.dataset.case_errors import too_large, unreadable
from dynunet_bundle.dataset.cases import absolute
from dynunet_bundle.dataset.reference_labels import labels_by_case, masks_by_name
from dynunet_bundle.errors import (
    BundleError,
    CaseError,
    DatasetError,
    PredictionError,
    failed_cases,
    first_line,
    some_of,
)
from dynunet_bundle.evaluation.case_measures import (
    NSD_TOLERANCE_MM,
    grid_of,
    measure_case,
    require_tolerance,
)
from dynunet_bundle.evaluation.statistics import Measures
from dynunet_bundle.images.grid import counts_pixels, grid_difference
from dynunet_bundle.images.read import Volume, mask_values, read_volume
from dynunet_bundle.labels.faults import MAX_CLASSES, Regions
from dynunet_bundle.labels.scheme import LABEL_IDS, LabelScheme
from dynunet_bundle.terminal import progress

MAX_CLASSES_SHOWN = 10


class Pair(NamedTuple):
    """Two masks of one case on one grid.

    Attributes:
        prediction: label values or class numbers, ``[X, Y, Z]``.
        reference: label values or class numbers, ``[X, Y, Z]``.
        affine: ``[4, 4]``, of the reference.
        in_pixels: whether the masks are plain pictures.
    """

    prediction: np.ndarray
    reference: np.ndarray
    affine: np.ndarray
    in_pixels: bool = False


@dataclass(frozen=True)
class MaskFolders:
    """Pairs of predictions and references, read one case at a time.

    Attributes:
        files: paths of the prediction and of the reference, by case.
        labels: classes of the values of both.
        failures: errors of the cases that cannot be scored, which are not in ``files``; measuring may add some.
    """

    files: Mapping[str, tuple[str, str]]
    labels: LabelScheme
    failures: dict[str, BundleError] = field(default_factory=dict)

    def require_all(self) -> None:
        """Refuse to end as if all cases had been scored.

        Raises:
            PredictionError: naming those that were not.
        """
        if self.failures:
            total = len(self.files.keys() | self.failures.keys())
            raise PredictionError(failed_cases(list(map(str, self.failures.values())), total))

    def pairs(self) -> Iterator[tuple[str, Pair]]:
        """Name and masks of each case, as class numbers; ignored voxels of the reference are ``IGNORE_CLASS``."""
        for name, files in progress(self.files.items(), "score", total=len(self.files)):
            pair = _load_pair(name, *files)
            ours, theirs = (
                self.labels.to_classes(torch.from_numpy(mask)).numpy()
                for mask in (pair.prediction, pair.reference)
            )
            yield name, pair._replace(prediction=ours, reference=theirs)


def label_ids(overlays: Sequence[str], config_dir: str | Path) -> dict[str, Any]:
    """Label ids of task overlays, as keyword arguments of ``find_masks``; later overlays override earlier ones.

    Args:
        overlays: config files as written by ``dynunet-bundle plan``.
        config_dir: folder of the bundle's configs.

    Raises:
        ConfigError: if an overlay is missing or malformed, or sets an unknown id.
    """
    known = known_ids(Path(config_dir))
    ids: dict[str, Any] = {}
    for overlay in overlays:
        content = read_overlay(overlay, known)
        ids |= {name: content[name] for name in LABEL_IDS if name in content}
    return ids


def find_masks(
    predictions: str,
    labels: str,
    label_names: Sequence[str] | None = None,
    label_values: Sequence[int] | None = None,
    ignore_value: int | None = None,
    regions: Regions | None = None,
    regions_class_order: Sequence[int] | None = None,
) -> MaskFolders:
    """Pair every prediction with the label of its case, and check all pairs before the first is scored.

    Args:
        predictions: folder of masks.
        labels: folder of reference masks, or a data set, see ``labels_by_case``; those without a prediction are left
            out.
        label_names: one name per class, the background first; if None, classes are named by their values.
        label_values: value of each class, ascending; if None, 0, 1, 2, ... for the names, or the values that occur.
        ignore_value: reference voxels with this value are left out; None if no value is ignored.
        regions: scored instead of the classes, or None.
        regions_class_order: as in the plan; only checked.

    Raises:
        DatasetError: if a folder or a label is missing, or names and values do not match.
        PlanError: if the ignored value or the regions do not fit the classes.
        CaseError: if a mask has an unlisted value, or no pair can be scored: a file cannot be read, or grids differ.
    """
    found = masks_by_name(absolute(predictions), "--predictions")
    references = labels_by_case(absolute(labels))
    lacking = sorted(set(found) - set(references))
    if lacking:
        raise DatasetError(
            f"{labels} has no label for {', '.join(lacking)}. Give each label the file name of its prediction, or "
            "pass the data set as --labels: its dataset.json then names the label of each case."
        )
    files = {name: (path, references[name]) for name, path in found.items()}
    occurring, failures = _occurring_values(files, ignore_value)
    values, names = _classes(occurring, label_names, label_values, regions)
    scheme = LabelScheme(names, values, ignore_value, regions, regions_class_order)
    sound = {name: paths for name, paths in files.items() if name not in failures}
    return MaskFolders(sound, scheme, failures)


def measure_masks(
    masks: MaskFolders, nsd_tolerance_mm: float = NSD_TOLERANCE_MM
) -> dict[str, list[Measures]]:
    """Measure each class or region of all pairs; by case.

    Raises:
        ConfigError: if the tolerance is negative or not finite.
        CaseError: if no case can be measured: its voxel volume is zero or not finite, or memory runs out.
    """
    require_tolerance(nsd_tolerance_mm)
    measures = {}
    for name, pair in masks.pairs():
        try:
            measures[name] = measure_case(
                pair.prediction,
                pair.reference,
                masks.labels.target_classes,
                grid_of(pair.affine, name, pair.in_pixels),
                nsd_tolerance_mm,
            )
        except CaseError as error:
            masks.failures[name] = error
        except MemoryError as error:
            masks.failures[name] = too_large(name, first_line(error))
    if not measures:
        raise next(iter(masks.failures.values()))
    return measures


def _classes(
    found: Mapping[int, tuple[str, str]],
    label_names: Sequence[str] | None,
    label_values: Sequence[int] | None,
    regions: Regions | None,
) -> tuple[list[int], list[str]]:
    """Values and names of the classes; values that are not given are those that occur.

    Args:
        found: values that occur, each with the first case and side that has it.
        label_names: as in ``find_masks``.
        label_values: as in ``find_masks``.
        regions: as in ``find_masks``.
    """
    if label_values is None:
        in_regions = {value for values in (regions or {}).values() for value in values}
        label_values = (
            list(range(len(label_names))) if label_names else sorted(in_regions | set(found))
        )
    names = list(label_names or ["background", *map(str, label_values[1:])])
    if 0 not in label_values:
        raise DatasetError(
            f"the label values {_shown(label_values)} lack 0, the background. "
            "Pass --label_names and --label_values that begin with the background."
        )
    for value, (case, side) in found.items():
        if value < 0 or value not in label_values:
            raise CaseError(
                case,
                f"the {side} has the value {value}, but the values of {_shown(names)} are {_shown(label_values)}",
                "Pass --label_names and --label_values that list all values.",
            )
    if len(names) != len(label_values):
        raise DatasetError(
            f"there are {len(names)} names ({_shown(names)}) for {len(label_values)} values "
            f"({_shown(label_values)}). Pass --label_names and --label_values of equal length."
        )
    if list(label_values) != sorted(set(label_values)):
        raise DatasetError(
            f"the label values {list(label_values)} must ascend. List each value once, in ascending order."
        )
    if len(label_values) > MAX_CLASSES:
        raise DatasetError(
            f"there are {len(label_values)} label values, but at most {MAX_CLASSES} are supported. "
            "Check that the files are label files."
        )
    return list(label_values), names


def _shown(items: Sequence[object]) -> str:
    return some_of(items, MAX_CLASSES_SHOWN)


def _occurring_values(
    files: Mapping[str, tuple[str, str]], ignore_value: int | None
) -> tuple[dict[int, tuple[str, str]], dict[str, BundleError]]:
    """All values of the masks, ascending, each with the first case and side that has it; errors of other cases.

    The background is always included, the ignored value only if it was predicted.
    """
    found: dict[int, tuple[str, str]] = {0: ("", "")}
    failures: dict[str, BundleError] = {}
    for name, paths in progress(files.items(), "check", total=len(files)):
        try:
            pair = _load_pair(name, *paths)
        except BundleError as error:
            failures[name] = error
            continue
        for value in np.unique(pair.prediction).tolist():
            found.setdefault(value, (name, "prediction"))
        for value in np.unique(pair.reference).tolist():
            if value != ignore_value:
                found.setdefault(value, (name, "reference"))
    if len(failures) == len(files):
        raise next(iter(failures.values()))
    return dict(sorted(found.items())), failures


def _load_pair(name: str, prediction: str, reference: str) -> Pair:
    """Label values of one case.

    Raises:
        CaseError: if a file cannot be read, if the grids differ, or if a mask has several channels.
    """
    ours, theirs = _read(name, prediction), _read(name, reference)
    difference = grid_difference(
        ours.array.shape[1:], ours.affine, theirs.array.shape[1:], theirs.affine
    )
    if difference:
        raise CaseError(
            name,
            f"prediction and label are on different grids: they {difference}",
            "Predict from the image that the label was drawn on.",
        )
    num_channels = max(len(ours.array), len(theirs.array))
    if num_channels != 1:
        raise CaseError(
            name, f"its masks have {num_channels} channels", "Use masks with one value per voxel."
        )
    values = [mask_values(name, volume.array[0]) for volume in (ours, theirs)]
    in_pixels = counts_pixels(reference, theirs.array.shape)
    return Pair(values[0], values[1], theirs.affine, in_pixels)


def _read(name: str, path: str) -> Volume:
    try:
        return read_volume(path)
    except BundleError:
        raise
    except Exception as error:
        raise unreadable({"image": path, "name": name}, error) from error
