"""A DICOM series -> an array, an affine and its headers."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dynunet_bundle.dicom_input.choice import SeriesRules, choose_series
from dynunet_bundle.dicom_input.damage import damage_error, naming
from dynunet_bundle.dicom_input.doubles import drop_doubles, selected, selection_hint
from dynunet_bundle.dicom_input.frames import Frame, frames_of
from dynunet_bundle.dicom_input.geometry import (
    IrregularError,
    affine_of,
    require_regular,
    require_uniform,
)
from dynunet_bundle.dicom_input.identity import mixed
from dynunet_bundle.dicom_input.names import TILT, SeriesName, parse_name, short_name
from dynunet_bundle.dicom_input.parse import convert_values, quiet_pydicom, read_dicom
from dynunet_bundle.dicom_input.pixels import (
    PIXEL_TAGS,
    digests,
    read_stack,
    require_stack_room,
    require_whole,
    stack_type,
)
from dynunet_bundle.dicom_input.refusals import refusal
from dynunet_bundle.dicom_input.scan import Series, scan
from dynunet_bundle.dicom_input.start import DamagedError, NotDicomError
from dynunet_bundle.errors import BundleError, CaseError, DatasetError
from dynunet_bundle.files import sha256_of
from dynunet_bundle.machine.limits import max_image_bytes


@dataclass(frozen=True, eq=False)
class DicomSeries:
    """A series in memory.

    Attributes:
        headers: ``pydicom.Dataset`` without PixelData, one per slice in the order of ``array[..., k]``; a single one
            for an Enhanced multi-frame object.
        array: ``[C, X, Y, Z]`` (column index, row index, slice), rescaled values in float32, or in the files' integer
            type if no slice has a rescaling.
        affine: ``[4, 4]`` float64, from voxel indices to millimetres in RAS+; sheared if a gantry tilt was kept.
        name: ``series_`` and 8 hex digits, which do not identify a patient.
        frame_numbers: frame number of each slice in its object, from 1; all 1 for single-frame objects.
    """

    headers: tuple[Any, ...] = field(repr=False)
    array: np.ndarray = field(repr=False)
    affine: np.ndarray
    name: str
    frame_numbers: tuple[int, ...] = field(repr=False)


def load_series(
    name: str, max_bytes: int | None = None, *, with_pixels: bool = True
) -> DicomSeries:
    """Read a series.

    Args:
        name: ``FOLDER_OR_ZIP`` for its only series, else ``FOLDER_OR_ZIP::SERIES_INSTANCE_UID``; followed by
            ``::EchoNumbers=2`` or similar if the series has several stacks.
        max_bytes: size limit of the array; by default 2 GiB or DYNUNET_MAX_IMAGE_GIB.
        with_pixels: whether to read the pixels; without them ``array`` has its shape, but holds zeros and takes no
            memory.

    Raises:
        BundleError: if pydicom is missing.
        DatasetError: if there is no such series, or several.
        CaseError: if the series cannot be read as a regular stack of slices, with the reason but without names of the
            patient, folders or files.
    """
    parsed = parse_name(name)
    allowed = max_image_bytes() if max_bytes is None else max_bytes
    series, case = _find(parsed)
    if series.damaged:
        raise damage_error(case, series.damaged)
    with quiet_pydicom():
        headers, frames = {}, []
        for file in series.files:
            with naming(file), _unreadable_values(case):
                headers[file] = _read_header(case, file, allowed)
                frames += frames_of(case, file, headers[file])
        if found := mixed(headers.values()):
            raise CaseError(case, *found)
        select = {tag: value for tag, value in parsed.select.items() if tag != TILT[0]}
        tilt = TILT[0] in parsed.select
        frames = _stack(case, selected(case, frames, select), tilt=tilt)
        files = _objects(case, frames)
        if with_pixels:
            require_stack_room(case, frames, headers, allowed)
            array = read_stack(case, frames, headers)
        else:
            array = np.broadcast_to(
                np.zeros(1, stack_type(frames, headers)), (len(frames), *frames[0].shape)
            )
    return DicomSeries(
        headers=tuple(headers[file] for file in files),
        array=array.transpose(2, 1, 0)[np.newaxis],
        affine=affine_of(frames, tilt=tilt),
        name=case,
        frame_numbers=tuple(frame.index + 1 for frame in frames),
    )


def series_identity(name: str) -> dict[str, Any]:
    """Identity of a series for run.json, without names of the patient or folders.

    Args:
        name: name of the series, see ``load_series``.

    Returns:
        ``file``, its short name; ``bytes`` of all its files; and ``sha256`` of the sorted hashes of the files, which
        does not depend on their names.

    Raises:
        DatasetError: if there is no such series, or several, or a file of it cannot be read any more.
    """
    series, case = _find(parse_name(name))
    try:
        hashes = sorted(map(sha256_of, series.files))
        num_bytes = sum(file.stat().st_size for file in series.files)
    except OSError as error:
        # its text holds the name of a file
        raise DatasetError(
            f"a file of {case} of the DICOM input is gone ({type(error).__name__}). Run the same command again."
        ) from None
    return {
        "file": case,
        "bytes": num_bytes,
        "sha256": hashlib.sha256("".join(hashes).encode()).hexdigest(),
    }


def series_case_name(name: str) -> str:
    """Name of a series' case, which names no patient; where the series cannot be told, a hash of where it should be.

    Args:
        name: as ``load_series`` takes it.
    """
    parsed = parse_name(name)
    if parsed.uid is not None:
        return short_name(parsed.uid, parsed.select)
    try:
        return _find(parsed)[1]
    except (BundleError, OSError):
        return short_name(name)


def _find(parsed: SeriesName) -> tuple[Series, str]:
    """The series with this name, and its short name."""
    found = scan(parsed.source)
    if parsed.uid is None:
        series = choose_series(found.series, SeriesRules(), found.skipped)
    else:
        series = _by_uid(found.series, parsed.uid)
    return series, short_name(series.uid, parsed.select)


def _by_uid(series: tuple[Series, ...], uid: str) -> Series:
    for one in series:
        if one.uid == uid:
            return one
    raise DatasetError(
        f"the DICOM input does not contain {short_name(uid)}. Pass the folder or archive that contains it."
    )


def _read_header(case: str, file: Path, max_bytes: int) -> Any:
    try:
        header = read_dicom(file)
        convert_values(header, PIXEL_TAGS)
    except (DamagedError, NotDicomError) as error:
        raise CaseError(case, f"an image is damaged: {error}", "Send the series again.") from None
    refused = refusal(header)
    if refused:
        raise CaseError(case, *refused)
    require_whole(case, file, header, max_bytes)
    return header


def _objects(case: str, frames: Sequence[Frame]) -> list[Path]:
    """Files of a stack in order: one per slice, or a single one."""
    files = list(dict.fromkeys(frame.file for frame in frames))
    if len(files) not in (1, len(frames)):
        raise CaseError(
            case,
            f"its {len(frames)} slices are in {len(files)} multi-frame objects",
            "Export them as one object, or as one file per slice.",
        )
    return files


@contextmanager
def _unreadable_values(case: str) -> Iterator[None]:
    """Turn pydicom's errors into a CaseError without their text, which may contain the value."""
    try:
        yield
    except BundleError:
        raise
    except Exception as error:
        raise CaseError(
            case,
            f"a header is damaged: one of its values cannot be read ({type(error).__name__})",
            "Send the series again.",
        ) from None


def _stack(case: str, frames: Sequence[Frame], *, tilt: bool) -> list[Frame]:
    """Slices in order, one at each position of a regular grid."""
    try:
        require_uniform(case, frames)
        frames = drop_doubles(case, frames, lambda some: digests(case, some))
        require_regular(case, frames, tilt=tilt)
    except IrregularError as error:
        raise CaseError(case, error.problem, error.remedy + selection_hint(frames)) from None
    return frames
