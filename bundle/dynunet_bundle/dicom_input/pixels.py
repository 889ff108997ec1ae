"""Pixels of a stack, decoded by pydicom and rescaled slice by slice, after a check of their size."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dynunet_bundle.dicom_input.codestream import coded_shape
from dynunet_bundle.dicom_input.damage import naming
from dynunet_bundle.dicom_input.frames import Frame, num_frames
from dynunet_bundle.dicom_input.parse import INSTALL, convert_values, is_encapsulated, read_dicom
from dynunet_bundle.dicom_input.refusals import has_float_pixels
from dynunet_bundle.dicom_input.start import DamagedError, NotDicomError
from dynunet_bundle.errors import CaseError
from dynunet_bundle.machine.limits import require_memory, require_room

RESEND = "Send the series again."

PIXEL_DATA = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
PIXEL_TAGS = (
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames"),
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths", *PIXEL_DATA),
)


def stack_type(frames: Sequence[Frame], headers: Mapping[Path, Any]) -> np.dtype:
    """Data type of a stack: the files' integer type, or float32 if any slice is rescaled or has floating point."""
    if any((frame.slope, frame.intercept) != (1.0, 0.0) for frame in frames):
        return np.dtype(np.float32)
    if any(has_float_pixels(headers[frame.file]) for frame in frames):
        return np.dtype(np.float32)
    kinds = {
        np.dtype(f"{'i' if header.get('PixelRepresentation') else 'u'}{header.BitsAllocated // 8}")
        for header in (headers[frame.file] for frame in frames)
    }
    return np.result_type(*kinds)


def require_whole(case: str, file: Path, header: Any, max_bytes: int) -> None:
    """Refuse an object whose header gives a size that is too large, or larger than its file.

    Raises:
        CaseError: with the sizes.
    """
    number = num_frames(header)
    shape = header.Columns, header.Rows, number
    require_room(case, shape, header.BitsAllocated // 8, max_bytes)
    if not is_encapsulated(header):
        _require_bytes(case, file.stat().st_size, header)


def require_stack_room(
    case: str, frames: Sequence[Frame], headers: Mapping[Path, Any], max_bytes: int
) -> None:
    """Refuse a stack that is too large, before it is allocated.

    Raises:
        CaseError: with the sizes.
        MemoryError: if there is less memory.
    """
    rows, columns = frames[0].shape
    itemsize = stack_type(frames, headers).itemsize
    require_room(case, (columns, rows, len(frames)), itemsize, max_bytes)
    require_memory(rows * columns * len(frames) * itemsize, "reading it")


def _require_bytes(case: str, present: int, header: Any) -> None:
    needed = header.Rows * header.Columns * num_frames(header) * header.BitsAllocated // 8
    if present < needed:
        raise CaseError(
            case, f"an image is truncated: it has {present} of {needed} bytes of pixels", RESEND
        )


def read_stack(case: str, frames: Sequence[Frame], headers: Mapping[Path, Any]) -> np.ndarray:
    """Decode and rescale the slices.

    Args:
        case: name for errors.
        frames: slices in order.
        headers: headers of their files.

    Returns:
        ``[Z, Y, X]``, in the data type of ``stack_type``.

    Raises:
        CaseError: if pixels are missing, damaged, or in a transfer syntax without an installed decoder.
    """
    kind = stack_type(frames, headers)
    stack = np.empty((len(frames), *frames[0].shape), kind)
    for place, pixels in _decoded(case, frames):
        frame = frames[place]
        if kind == np.float32:
            stack[place] = pixels * np.float64(frame.slope) + frame.intercept
            if not np.isfinite(stack[place]).all():
                raise CaseError(
                    case,
                    "some of its values are not finite after rescaling",
                    "Repair the pixels or RescaleSlope.",
                )
        else:
            stack[place] = pixels
    return stack


def digests(case: str, frames: Sequence[Frame]) -> list[str]:
    """SHA-256 of the pixels of each frame and their rescaling."""
    found = [""] * len(frames)
    for place, pixels in _decoded(case, frames):
        rescaling = f"{frames[place].slope} {frames[place].intercept} {pixels.dtype.str}"
        found[place] = hashlib.sha256(pixels.tobytes() + rescaling.encode()).hexdigest()
    return found


def _decoded(case: str, frames: Sequence[Frame]) -> Iterator[tuple[int, np.ndarray]]:
    """Index in ``frames`` and stored values ``[rows, columns]`` of each frame, file by file."""
    by_file: dict[Path, dict[int, int]] = {}
    for place, frame in enumerate(frames):
        by_file.setdefault(frame.file, {})[frame.index] = place
    for file, places in by_file.items():
        with naming(file):
            for index, pixels in enumerate(_decoded_file(case, file)):
                if index in places:
                    yield places.pop(index), pixels
        if places:
            raise CaseError(case, "an object has fewer frames than its header says", RESEND)


def _decoded_file(case: str, file: Path) -> Iterator[np.ndarray]:
    from pydicom.pixels import get_decoder, iter_pixels

    try:
        image = read_dicom(file, pixels=True, tags=PIXEL_TAGS)
        convert_values(image, PIXEL_TAGS)
    except (DamagedError, NotDicomError) as error:
        raise CaseError(case, f"an image is damaged: {error}", RESEND) from None
    data = next(filter(None, map(image.get, PIXEL_DATA)), None)
    if not data:
        raise CaseError(case, "an image has no pixels, or is truncated before them", RESEND)
    syntax = image.file_meta.TransferSyntaxUID
    if is_encapsulated(image):
        _require_coded_shape(case, image)
    else:
        _require_bytes(case, len(data), image)
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        raise CaseError(
            case,
            f"no installed decoder supports its transfer syntax {syntax.name}",
            f"{INSTALL}. Or send it uncompressed.",
        )
    try:
        yield from iter_pixels(image, raw=True)
    except Exception as error:
        raise CaseError(
            case, f"the pixels of an image cannot be decoded ({type(error).__name__})", RESEND
        ) from None


def _require_coded_shape(case: str, image: Any) -> None:
    """Refuse a code stream whose size differs from the header's, since only the header's was compared to the limit."""
    from pydicom.encaps import generate_frames

    try:
        frames = list(generate_frames(image.PixelData, number_of_frames=num_frames(image)))
    except Exception as error:
        raise CaseError(
            case, f"the pixels of an image are truncated ({type(error).__name__})", RESEND
        ) from None
    for frame in frames:
        shape = coded_shape(frame)
        if shape not in (None, (image.Rows, image.Columns)):
            raise CaseError(
                case,
                f"an image of {image.Columns}x{image.Rows} pixels is encoded with {shape[1]}x{shape[0]} pixels",
                RESEND,
            )
