"""Content of scores.json and run.json, merged by case; either may be missing or of an older version."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dynunet_bundle.dataset.cases import list_images
from dynunet_bundle.errors import ConfigError, counted
from dynunet_bundle.files import case_name
from dynunet_bundle.images.read import read_volume
from dynunet_bundle.inference.flags import GRADES, grade_of
from dynunet_bundle.report.text import Measure, clean, finite, measure_of
from dynunet_bundle.survey.problems import MAX_UNNAMED_LABELS
from dynunet_bundle.survey.value_counts import value_counts

Files = Mapping[str, Path]
"""Files by case name."""

NUM_PROBED = 3  # masks that are read to tell whether a folder holds masks
MIN_SAME = 0.5
"""Fraction of foreground voxels with the value of the next voxel: more in a map of labels, less in an image."""

FAILED = "failed"
CASE_GRADES = (FAILED, *GRADES, "")
"""Grades of cases, the worst first; empty for a case without flags."""

SIZES = {"volume_ml": "volumes_ml", "area_px2": "areas_px2"}
"""Keys of run.json by those of scores.json."""


@dataclass(frozen=True)
class Flag:
    """A quality flag: something about a case that a person should check; ``grade`` is one of ``GRADES``."""

    case: str
    kind: str
    label: str
    message: str
    grade: str


@dataclass(frozen=True)
class Failure:
    """A case that was not segmented, and its error."""

    case: str
    message: str


@dataclass(frozen=True)
class Content:
    """Scores and run of one set of cases.

    Attributes:
        scores: content of scores.json; empty if there is no such file.
        run: content of run.json; empty if there is no such file.
        masks: predicted masks by case; their names are used if neither file names cases.
    """

    scores: Mapping[str, Any]
    run: Mapping[str, Any]
    masks: Files = field(default_factory=dict)

    @property
    def cases(self) -> list[str]:
        """Names of all cases, sorted."""
        named = {*self.scores.get("cases", {}), *self.run.get("cases", {})}
        return sorted(named or self.masks)

    @cached_property
    def classes(self) -> list[str]:
        """Scored classes or regions, then other classes with a volume; without the background."""
        names = dict.fromkeys(self.scores.get("mean", self.statistics))
        for case in self.run.get("cases", {}).values():
            for sizes in SIZES.values():
                names |= dict.fromkeys(case.get(sizes) or {})
        background = self.run.get("label_names", ["background"])[:1]
        return [name for name in names if name not in background]

    @property
    def scored(self) -> list[str]:
        """Classes or regions with scores."""
        return [name for name in self.classes if name in self.scores.get("mean", self.statistics)]

    @property
    def statistics(self) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
        """Statistics by class and measure; empty for scores of older versions."""
        return self.scores.get("statistics", {})

    def measure(self, key: str) -> Measure:
        """How a measure is shown, the NSD with its tolerance."""
        tolerances = {
            unit: finite(self.scores.get(f"nsd_tolerance_{unit}")) for unit in ("mm", "px")
        }
        known = ((value, unit) for unit, value in tolerances.items() if value is not None)
        return measure_of(key, *next(known, (None, "")))

    @property
    def in_pixels(self) -> bool:
        """Whether the cases are plain pictures, without a physical size."""
        measures = {key for by_class in self.statistics.values() for key in by_class}
        return "area_px2" in measures or any(
            "areas_px2" in self.run_of(case) for case in self.cases
        )

    def value(self, case: str, name: str, measure: str) -> float | None:
        """One measure of one class in one case; None if it is undefined or unknown."""
        measured = self.scores.get("measures", {}).get(case, {}).get(name, {})
        if measure in measured:
            return finite(measured[measure])
        if measure == "dice":
            return finite(self.scores.get("cases", {}).get(case, {}).get(name))
        if measure in SIZES:
            return finite((self.run_of(case).get(SIZES[measure]) or {}).get(name))
        return None

    def run_of(self, case: str) -> Mapping[str, Any]:
        """Entry of a case in run.json; empty if it has none."""
        return self.run.get("cases", {}).get(case, {})

    @property
    def trained(self) -> list[str]:
        """Cases that the model was trained on, as far as the files tell."""
        told = self.scores.get("trained_cases", ())
        return [case for case in self.cases if case in told or self.run_of(case).get("in_training")]

    def mean_dice(self, case: str) -> float | None:
        """Mean Dice over the classes with a value in this case, or None."""
        values = [self.value(case, name, "dice") for name in self.scored]
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None

    def flags(self, case: str) -> list[Flag]:
        """Quality flags of a case."""
        facts = self.run_of(case)
        found = []
        for flag in facts.get("flags", ()):
            label, message = flag.get("label"), clean(flag.get("message", ""))
            kind, grade = str(flag["kind"]), flag.get("grade")
            if grade not in GRADES:
                # of an older version
                grade = grade_of(kind, finite(flag.get("value")), flag.get("range"))
            found.append(Flag(case, kind, "" if label is None else str(label), message, grade))
        return sorted(found, key=lambda flag: GRADES.index(flag.grade))

    def grade(self, case: str) -> str:
        """The worst grade of a case: ``failed``, one of ``GRADES``, or empty."""
        if self.run_of(case).get("status", "done") != "done":
            return FAILED
        flags = self.flags(case)
        return flags[0].grade if flags else ""

    @cached_property
    def by_grade(self) -> list[str]:
        """All cases, the worst grade first, and by name within a grade."""
        return sorted(self.cases, key=lambda case: (CASE_GRADES.index(self.grade(case)), case))

    @property
    def failures(self) -> list[Failure]:
        """Cases that failed according to run.json, each with its error."""
        statuses = {case: self.run_of(case).get("status", "done") for case in self.cases}
        return [
            Failure(case, clean(self.run_of(case).get("error") or status))
            for case, status in statuses.items()
            if status != "done"
        ]


def files_by_case(source: Path | Mapping[str, Any] | None) -> dict[str, Path]:
    """Files by case name; the first channel if each channel has its own file.

    Args:
        source: a folder, one file, a mapping from case to one file or one file per channel, or None. A path that does
            not exist gives no files.
    """
    if source is None:
        return {}
    if isinstance(source, Mapping):
        return {name: Path(_first(files)) for name, files in source.items()}
    if source.is_file():
        return {case_name(source): source}
    if not source.is_dir():
        return {}
    return {case_name(file): file for file in list_images(source)}


def _first(files: Any) -> Any:
    return files[0] if isinstance(files, list | tuple) else files


def find_file(files: Files, case: str) -> Path | None:
    """The file of a case, also under nnU-Net's name of the first channel: ``case_0000``."""
    return files.get(case) or files.get(f"{case}_0000")


def masks_of(predictions: Path, run: Mapping[str, Any]) -> dict[str, Path]:
    """Predicted masks by case: those named in run.json, and all others in the folder."""
    found = files_by_case(predictions)
    for case, facts in run.get("cases", {}).items():
        name = facts.get("mask")
        # the name only, so that a run.json cannot point outside its folder
        if name and os.path.isfile(predictions / Path(name).name):
            found[case] = predictions / Path(name).name
    return found


def require_masks(predictions: Path) -> None:
    """Refuse a folder without masks, or of images, to which no other file belongs that names its classes.

    Args:
        predictions: the folder.

    Raises:
        ConfigError: if there are no masks, or one of the first few files does not hold label values.
    """
    remedy = "Pass the --output_dir of predict; --input takes the folder of the images."
    masks = masks_of(predictions, {})
    if not masks:
        raise ConfigError(f"{predictions} holds no masks. {remedy}")
    for file in list(masks.values())[:NUM_PROBED]:
        try:
            array = read_volume(file).array
        except Exception:  # noqa: BLE001, S112 - the readers raise a dozen types, and the page tells it with its case
            continue
        fault = _image_sign(array)
        if fault:
            raise ConfigError(
                f"{predictions} is not a folder of masks: {file.name} has {fault}. {remedy}"
            )


def _image_sign(array: np.ndarray) -> str | None:
    """What tells that ``[C, X, Y, Z]`` is not a map of labels; None if it may be one."""
    if len(array) != 1:
        return counted(len(array), "channel")
    values, _ = value_counts(array)
    if not np.isfinite(values).all() or (values != np.rint(values)).any() or values[0] < 0:
        return "values that are not whole numbers from 0"
    here, beside = array[0, :-1], array[0, 1:]
    inside = here != 0
    if len(values) > MAX_UNNAMED_LABELS and (here == beside)[inside].mean() < MIN_SAME:
        return f"{len(values)} different values, and most voxels differ from the next"
    return None
