"""Geometry of each slice, from a single-frame object or from the functional groups of a multi-frame object.

Functional groups: DICOM PS3.3 section C.7.6.16. A value of a frame takes precedence over a shared one.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dynunet_bundle.errors import CaseError

SEND_AGAIN = "Send the series from its scanner or archive again."

STACK_TAGS = (
    "StackID",
    "AcquisitionNumber",
    "FrameAcquisitionNumber",
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "EchoNumbers",
    "EchoTime",
    "EffectiveEchoTime",
    "DiffusionBValue",
    "DiffusionGradientOrientation",
    "TriggerTime",
    "NominalCardiacTriggerDelayTime",
    "NominalPercentageOfCardiacPhase",
    "InversionTime",
    "InversionTimes",
    "FlipAngle",
    "RepetitionTime",
    "ImageType",
    "FrameType",
    "ComplexImageComponent",
    "ConvolutionKernel",
    "ReconstructionDiameter",
    "InstanceNumber",
)
"""Tags that split a series into stacks, most specific first. All are technical; none identifies a patient."""

PRIVATE_B_VALUES = ((0x0019, 0x100C), (0x0043, 0x1039), (0x2001, 0x1003))
"""Private tags of b-values by Siemens, GE (first of four values) and Philips, used if the standard's tag is missing."""

GE_B_VALUE_OFFSET = 1_000_000_000
"""Offset that GE adds to the b-values of some sequences."""

UNREADABLE = math.nan
"""Stands for a value that pydicom cannot convert; a number that is needed is refused for it."""

MAX_SKEW = 1e-3
"""Largest deviation of the directions' lengths from 1 and of their dot product from 0; headers may have 3 decimals."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One slice.

    Attributes:
        file: the file with its pixels.
        index: index of the frame in that file, from 0.
        shape: rows and columns.
        position: ``[3]``, centre of the first voxel in mm, LPS+.
        directions: ``[2, 3]``, unit vectors of increasing column index and of increasing row index, LPS+.
        spacing: mm between rows and between columns.
        thickness: mm to the next slice according to the header, or None.
        slope: RescaleSlope, or 1.
        intercept: RescaleIntercept, or 0.
        reference: FrameOfReferenceUID, or an empty string.
        tags: values of ``STACK_TAGS``, by keyword.
    """

    file: Path
    index: int
    shape: tuple[int, int]
    position: np.ndarray
    directions: np.ndarray
    spacing: tuple[float, float]
    thickness: float | None
    slope: float
    intercept: float
    reference: str
    tags: Mapping[str, str]

    @property
    def normal(self) -> np.ndarray:
        """Unit vector along which slices are ordered, ``[3]``."""
        return np.cross(*self.directions)


def frames_of(case: str, file: Path, header: Any) -> list[Frame]:
    """The frames of an object, from its header.

    Args:
        case: name for errors.
        file: the file of the object.
        header: ``pydicom.Dataset`` without pixels.

    Raises:
        CaseError: if a tag of the geometry is missing or invalid.
    """
    number = num_frames(header)
    groups = header.get("PerFrameFunctionalGroupsSequence")
    if groups is None and number == 1:
        return [_frame(case, file, 0, [header])]
    if not groups or len(groups) != number:
        raise CaseError(
            case,
            f"its object of {number} frames has {len(groups or [])} functional groups with their positions",
            "Export it as Enhanced multi-frame, or as one file per slice.",
        )
    shared = [_flat(item) for item in header.get("SharedFunctionalGroupsSequence") or []]
    return [
        _frame(case, file, index, [_flat(group), *shared, header])
        for index, group in enumerate(groups)
    ]


def num_frames(header: Any) -> int:
    """Number of frames of an object; 1 if the header has none."""
    return int(header.get("NumberOfFrames") or 1)


def _flat(group: Any, depth: int = 2) -> dict[str, Any]:
    """Values of a functional group by keyword, including those in the first item of each of its sequences."""
    from pydicom.datadict import keyword_for_tag

    values: dict[str, Any] = {}
    for tag in group.keys():  # noqa: SIM118 - elements would be converted
        try:
            element = group[tag]
        except Exception:
            values[keyword_for_tag(tag)] = UNREADABLE
            continue
        if element.VR != "SQ":
            values[element.keyword] = element.value
        elif element.value and depth > 0:
            values = {**_flat(element.value[0], depth - 1), **values}
    return values


def find(sources: list[Any], keyword: str) -> Any:
    """Value of a tag in the first header that has it, else None; ``UNREADABLE`` if it cannot be converted."""
    for source in sources:
        try:
            value = source.get(keyword)
        except Exception:
            # pydicom converts a value on first access; its exceptions have no common base
            return UNREADABLE
        if value is not None and value != "":
            return value
    return None


def _frame(case: str, file: Path, index: int, sources: list[Any]) -> Frame:
    header = sources[-1]
    orientation = _numbers(case, sources, "ImageOrientationPatient", 6)
    spacing = _numbers(case, sources, "PixelSpacing", 2)
    if min(spacing) <= 0:
        raise CaseError(case, f"PixelSpacing is {spacing.tolist()}", "Repair the header.")
    return Frame(
        file=file,
        index=index,
        shape=(int(header.Rows), int(header.Columns)),
        position=_numbers(case, sources, "ImagePositionPatient", 3),
        directions=_directions(case, orientation),
        spacing=(float(spacing[0]), float(spacing[1])),
        thickness=_thickness(sources),
        # a slope of 0, which some scanners write, would make all values equal; ITK also reads it as 1
        slope=_rescaling(case, sources, "RescaleSlope") or 1.0,
        intercept=_rescaling(case, sources, "RescaleIntercept") or 0.0,
        reference=str(header.get("FrameOfReferenceUID") or ""),
        tags=_stack_tags(sources),
    )


def _rescaling(case: str, sources: list[Any], keyword: str) -> float | None:
    value = find(sources, keyword)
    number = None if value is None else as_number(value)
    if number is not None and not math.isfinite(number):
        raise CaseError(case, f"{keyword} of an image is not a finite number", "Repair the header.")
    return number


def as_number(value: Any) -> float:
    """A value as a number; NaN if it is not one."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return UNREADABLE


def _numbers(case: str, sources: list[Any], keyword: str, count: int) -> np.ndarray:
    value = find(sources, keyword)
    if value is None:
        raise CaseError(case, f"an image lacks {keyword}", SEND_AGAIN)
    try:
        numbers = np.array([float(number) for number in value])
    except (TypeError, ValueError):
        numbers = np.full(1, math.nan)
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise CaseError(
            case, f"{keyword} of an image is not {count} finite numbers", "Repair the header."
        )
    return numbers


def _directions(case: str, orientation: np.ndarray) -> np.ndarray:
    directions = orientation.reshape(2, 3)
    lengths = np.linalg.norm(directions, axis=1)
    skew = max(*np.abs(lengths - 1), abs(float(directions[0] @ directions[1])))
    if skew > MAX_SKEW:
        raise CaseError(
            case,
            f"ImageOrientationPatient {orientation.tolist()} is not two perpendicular unit vectors",
            "Repair the header.",
        )
    return directions / lengths[:, np.newaxis]


def _thickness(sources: list[Any]) -> float | None:
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        value = find(sources, keyword)
        thickness = 0.0 if value is None else abs(as_number(value))
        if 0 < thickness < math.inf:
            return thickness
    return None


def _stack_tags(sources: list[Any]) -> dict[str, str]:
    values = {keyword: find(sources, keyword) for keyword in STACK_TAGS}
    if values["DiffusionBValue"] is None:
        values["DiffusionBValue"] = _private_b_value(sources[-1])
    return {
        keyword: as_text(value)
        for keyword, value in values.items()
        if value is not None and value is not UNREADABLE
    }


def _private_b_value(header: Any) -> float | None:
    values = (_first_number(header, tag) for tag in PRIVATE_B_VALUES if tag in header)
    return next((value % GE_B_VALUE_OFFSET for value in values if math.isfinite(value)), None)


def _first_number(header: Any, tag: tuple[int, int]) -> float:
    try:
        value = header[tag].value
        return float(value[0] if hasattr(value, "append") else value)
    except Exception:
        # an empty list, a text, or a value that pydicom cannot convert
        return UNREADABLE


def as_text(value: Any) -> str:
    """Normal form of a tag's value: ``10.0`` is ``10``; several values are joined by a backslash, as in DICOM."""
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        try:
            return f"{float(value):g}"
        except (TypeError, ValueError):
            return str(value).strip()
    return "\\".join(as_text(part) for part in value)
