"""Slices -> one regular grid, or the reason why they do not form one. Nothing is ever interpolated.

Slices are ordered along the normal of ImageOrientationPatient, the cross product of its two vectors (DICOM PS3.3
section C.7.6.2.1.1); file names and InstanceNumber are not used for the order.
"""

import math
from collections.abc import Sequence

import numpy as np

from dynunet_bundle.dicom_input.frames import Frame
from dynunet_bundle.errors import CaseError, counted

MAX_SHIFT_VOXELS = 0.1
"""Largest distance of a voxel from its position on the grid along each axis, as for the channels of an image."""

GAP = 1.5
"""Ratio of a step between slices to the usual step above which slices are missing."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
RESEND = "Send the complete series again."
SPLIT = "Export its images as separate series."


class IrregularError(CaseError):
    """The images of a series do not form a regular grid; a selection of them may."""


def by_position(frames: Sequence[Frame]) -> list[Frame]:
    """Frames ordered along the normal of the first frame."""
    normal = frames[0].normal
    return sorted(frames, key=lambda frame: float(frame.position @ normal))


def require_uniform(case: str, frames: Sequence[Frame]) -> None:
    """Refuse slices that cannot be on the same grid.

    Raises:
        IrregularError: if sizes, spacings, orientations or frames of reference differ.
    """
    first = frames[0]
    for frame in frames[1:]:
        problem = None
        if frame.shape != first.shape:
            problem = f"sizes ({_size(first)} and {_size(frame)} pixels)"
        elif _shift(frame.spacing, first.spacing) * max(first.shape) > MAX_SHIFT_VOXELS:
            problem = f"pixel spacings ({_mm(first.spacing)} and {_mm(frame.spacing)} mm)"
        elif _turn(frame, first) * max(first.shape) > MAX_SHIFT_VOXELS:
            angle = math.degrees(_turn(frame, first))
            problem = f"orientations ({angle:.1f} degrees apart)"
        elif frame.reference != first.reference:
            problem = "frames of reference"
        if problem:
            raise IrregularError(case, f"its images have different {problem}", SPLIT)


def _size(frame: Frame) -> str:
    return "x".join(map(str, frame.shape[::-1]))


def _mm(spacing: tuple[float, float]) -> str:
    return "x".join(f"{value:g}" for value in spacing[::-1])


def _shift(spacing: tuple[float, float], other: tuple[float, float]) -> float:
    return max(abs(a - b) / b for a, b in zip(spacing, other, strict=True))


def _turn(frame: Frame, other: Frame) -> float:
    """Larger of the angles between the two axes of two slices, in radians."""
    chords = np.linalg.norm(frame.directions - other.directions, axis=1)
    return float(2 * np.arcsin(np.clip(chords / 2, 0, 1)).max())


def require_regular(case: str, frames: Sequence[Frame], *, tilt: bool = False) -> None:
    """Refuse a stack that is sheared, has a gap, or is unevenly spaced.

    Args:
        case: name for errors.
        frames: uniform frames, sorted, at different positions.
        tilt: whether the stack may be sheared evenly.

    Raises:
        IrregularError: with the angle, the position of the gap, or the deviation from the grid.
    """
    if len(frames) == 1:
        return
    positions = np.stack([frame.position for frame in frames])
    normal = frames[0].normal
    along = positions @ normal
    _require_no_gap(case, along)
    _require_no_tilt(case, frames, positions, along, even=tilt)
    step = (along[-1] - along[0]) / (len(along) - 1)
    deviation = np.abs(along - along[0] - step * np.arange(len(along)))
    worst = int(deviation.argmax())
    if deviation[worst] > MAX_SHIFT_VOXELS * step:
        raise IrregularError(
            case,
            f"its slices are unevenly spaced: slice {worst + 1} of {len(along)} is {deviation[worst]:.2f} mm "
            f"from its position on a grid of {step:.2f} mm",
            SPLIT,
        )


def _require_no_gap(case: str, along: np.ndarray) -> None:
    steps = np.diff(along)
    usual = float(np.sort(steps)[(len(steps) - 1) // 2])
    gaps = np.flatnonzero(steps > GAP * usual)
    if gaps.size:
        first = int(gaps[0])
        missing = round(float(steps[first]) / usual) - 1
        more = f", and {counted(gaps.size - 1, 'more gap')} follow" if gaps.size > 1 else ""
        raise IrregularError(
            case,
            f"{counted(max(missing, 1), 'missing slice')} after slice {first + 1} of {len(along)}: the step is "
            f"{steps[first]:.2f} mm instead of {usual:.2f} mm (from {along[first]:.2f} to {along[first + 1]:.2f} mm "
            f"along the normal){more}",
            RESEND,
        )


def _require_no_tilt(
    case: str, frames: Sequence[Frame], positions: np.ndarray, along: np.ndarray, *, even: bool
) -> None:
    """Refuse a stack that does not follow its normal, or with ``even`` the line from its first to its last slice."""
    first = frames[0]
    aside = (positions - positions[0]) @ first.directions.T
    expected = np.linspace(0, 1, len(frames))[:, np.newaxis] * aside[-1] if even else 0.0
    pixels = np.abs(aside - expected) / np.array(first.spacing[::-1])
    if pixels.max() <= MAX_SHIFT_VOXELS:
        return
    angle = math.degrees(math.atan2(float(np.linalg.norm(aside[-1])), float(along[-1] - along[0])))
    raise IrregularError(
        case,
        f"its slices are sheared by {angle:.1f} degrees (gantry tilt): they are not stacked along their normal",
        "Convert it with dcm2niix, which resamples it to a straight grid (its file *_Tilt_1.nii.gz), check that, and "
        'pass it as NIfTI. Or read it as it is with the rule "tilt": true, for a NIfTI mask alone; it may be less '
        "accurate.",
    )


def affine_of(frames: Sequence[Frame], *, tilt: bool = False) -> np.ndarray:
    """Affine from voxel indices (column, row, slice) to RAS+ millimetres.

    Args:
        frames: a regular stack in order. The thickness of a single slice is that of its header, or 1 mm.
        tilt: whether the step between slices follows their positions instead of their normal.

    Returns:
        ``[4, 4]`` float64 (DICOM PS3.3 equation C.7.6.2.1-1, with the slices as the third axis).
    """
    first = frames[0]
    rows, columns = first.spacing
    if len(frames) > 1:
        extent = (frames[-1].position - first.position) @ first.normal
        step = float(extent) / (len(frames) - 1)
    else:
        step = first.thickness or 1.0
    affine = np.eye(4)
    affine[:3, 0] = first.directions[0] * columns
    affine[:3, 1] = first.directions[1] * rows
    affine[:3, 2] = first.normal * step
    if tilt and len(frames) > 1:
        affine[:3, 2] = (frames[-1].position - first.position) / (len(frames) - 1)
    affine[:3, 3] = first.position
    return LPS_TO_RAS @ affine + 0.0  # without negative zeros
