"""Decide by its header whether an object is read, skipped (not an image) or refused (not supported)."""

from typing import Any

from dynunet_bundle.dicom_input.parse import value_of
from dynunet_bundle.dicom_input.start import DamagedError

SKIPPED_CLASSES = (
    ("1.2.840.10008.1.3.10", "DICOMDIR"),
    ("1.2.840.10008.5.1.4.1.1.7", "secondary capture"),
    ("1.2.840.10008.5.1.4.1.1.66", "segmentation, registration or raw data"),
    ("1.2.840.10008.5.1.4.1.1.30", "parametric map"),
    ("1.2.840.10008.5.1.4.1.1.88", "structured report"),
    ("1.2.840.10008.5.1.4.1.1.104", "encapsulated document"),
    ("1.2.840.10008.5.1.4.1.1.11", "presentation state"),
    ("1.2.840.10008.5.1.4.1.1.481", "radiotherapy object"),
)
"""SOP classes that are skipped, with all classes that start with one of them (DICOM PS3.6 annex A)."""

SKIPPED_IMAGE_TYPES = {"LOCALIZER": "localiser", "SCREEN SAVE": "screenshot"}
"""Values of ImageType that are skipped; LOCALIZER is the standard's (DICOM PS3.3 sections C.8.2.1.1.1 and
C.8.3.1.1.1), SCREEN SAVE is GE's."""

CONVERT = "Convert it with a tool that supports it."
TO_NIFTI = "Convert it with dcm2niix and pass the NIfTI file"
BYTES = (8, 16, 32)  # supported values of BitsAllocated
FLOAT_BYTES = (32, 64)
"""Values of BitsAllocated for floating-point pixels, which have no PixelRepresentation (PS3.3 C.7.6.24)."""

MOSAICS = ("MOSAIC", "VFRAME")
"""Values of ImageType of Siemens and UIH for all slices of a volume in one image."""

JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
JPEG_EXTENDED_BITS = (
    8  # what pylibjpeg, and GDCM in SimpleITK, decode of it; the standard allows 12
)


def skip_reason(header: Any) -> str | None:
    """Why an object is not an image to predict, in words for a message; None if it may be one.

    Raises:
        DamagedError: if it is an image without pixels, or has no SOPClassUID.
    """
    from pydicom.uid import UID

    kind = str(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID") or "")
    if not kind:
        raise DamagedError("it is truncated, or lacks SOPClassUID")
    if found := skipped_class(kind):
        return found
    for word, name in SKIPPED_IMAGE_TYPES.items():
        if word in image_type(header):
            return name
    if not header.get("Rows") or not header.get("Columns"):
        name = UID(kind).name
        # of a file that ends within its header, pydicom returns what it has read, perhaps a part of a UID
        if name.endswith("Image Storage") or (name == kind and "SeriesInstanceUID" not in header):
            raise DamagedError("it is truncated before its image")
        return "object without an image"
    return None


def skipped_class(kind: str) -> str | None:
    """Name of a SOP class that is skipped, in words for a message; None for other classes."""
    for prefix, name in SKIPPED_CLASSES:
        if kind == prefix or kind.startswith(f"{prefix}."):
            return name
    return None


def image_type(header: Any) -> tuple[str, ...]:
    """Values of ImageType in upper case."""
    value = value_of(header, "ImageType") or ()
    return tuple(str(part).upper() for part in ([value] if isinstance(value, str) else value))


def refusal(header: Any) -> tuple[str, str] | None:
    """Why an image is refused, and what to do; None if it is supported.

    MONOCHROME1 (low values are white) is refused, since the weights may have been trained on either form, and an
    inversion needs a range that the header does not give.
    """
    return _refused_kind(header) or _refused_bits(header)


def _refused_kind(header: Any) -> tuple[str, str] | None:
    photometric = str(header.get("PhotometricInterpretation") or "")
    samples = int(header.get("SamplesPerPixel") or 1)
    if samples != 1 or photometric.startswith(("RGB", "YBR", "PALETTE")):
        return "its images are in colour", "Send greyscale images."
    if photometric == "MONOCHROME1":
        return "its images are MONOCHROME1 (low values are white)", (
            "Convert it to MONOCHROME2 in the same way as the training data."
        )
    if set(MOSAICS) & set(image_type(header)):
        return (
            "its images are mosaics of slices",
            f"Export it as Enhanced multi-frame. Or: {TO_NIFTI}.",
        )
    if header.get("ModalityLUTSequence"):
        return "its values are rescaled by a lookup table (ModalityLUTSequence)", CONVERT
    return None


def _refused_bits(header: Any) -> tuple[str, str] | None:
    bits = header.get("BitsAllocated")
    if bits not in (FLOAT_BYTES if has_float_pixels(header) else BYTES):
        return f"it has {bits} bits per pixel (BitsAllocated)", CONVERT
    stored, high = header.get("BitsStored") or bits, header.get("HighBit")
    if high is not None and high != stored - 1:
        return f"its pixels start at bit {high} of {stored} (HighBit)", CONVERT
    if header.file_meta.get("TransferSyntaxUID") == JPEG_EXTENDED and stored > JPEG_EXTENDED_BITS:
        return (
            f"its pixels are {stored}-bit JPEG Extended ({JPEG_EXTENDED}), which no installed decoder reads",
            "Convert it to an uncompressed series, for example with dcmdjpeg of DCMTK.",
        )
    return None


def has_float_pixels(header: Any) -> bool:
    """Whether pixels are FloatPixelData or DoubleFloatPixelData, told by the header without them."""
    return header.get("BitsAllocated") in FLOAT_BYTES and "PixelRepresentation" not in header
