"""What an object is, told from its header: skipped as no image, refused as one that cannot be read rightly, or fine."""

from typing import Any

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
"""SOP classes, each with those that begin with it (DICOM PS3.6 annex A)."""

SKIPPED_IMAGE_TYPES = {"LOCALIZER": "localiser", "SCREEN SAVE": "screenshot"}
"""Third value of ImageType; LOCALIZER is the standard's (DICOM PS3.3 sections C.8.2.1.1.1 and C.8.3.1.1.1), the other
is GE's."""

CONVERT = "Convert it with a tool that knows it."
BYTES = (8, 16, 32)


def skip_reason(header: Any) -> str | None:
    """Why an object is no image to predict on, in words for a note; None where it may be one.

    Raises:
        DamagedError: if it must be an image but ends before it, or does not say what it is.
    """
    from pydicom.uid import UID

    kind = str(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID") or "")
    if not kind:
        raise DamagedError("it is cut off, or lacks SOPClassUID")
    for prefix, name in SKIPPED_CLASSES:
        if kind == prefix or kind.startswith(f"{prefix}."):
            return name
    if not header.get("Rows") or not header.get("Columns"):
        name = UID(kind).name
        # pydicom gives what it has of a file that ends in its header, which may be a part of a UID
        if name.endswith("Image Storage") or (name == kind and "SeriesInstanceUID" not in header):
            raise DamagedError("it is cut off before its image")
        return "object without an image"
    for word, name in SKIPPED_IMAGE_TYPES.items():
        if word in image_type(header):
            return name
    return None


def image_type(header: Any) -> tuple[str, ...]:
    """Values of ImageType in capitals."""
    value = header.get("ImageType") or ()
    return tuple(str(part).upper() for part in ([value] if isinstance(value, str) else value))


def refusal(header: Any) -> tuple[str, str] | None:
    """Why an image is not read, and what to do about it; None where it is fine.

    MONOCHROME1 is refused: that low values are to be shown white says nothing of what the weights were trained on, and
    an inversion needs a range that no header gives.
    """
    return _refused_kind(header) or _refused_bits(header)


def _refused_kind(header: Any) -> tuple[str, str] | None:
    photometric = str(header.get("PhotometricInterpretation") or "")
    samples = int(header.get("SamplesPerPixel") or 1)
    if samples != 1 or photometric.startswith(("RGB", "YBR", "PALETTE")):
        return "its images are in colour", "Send the grey ones."
    if photometric == "MONOCHROME1":
        return "its images are MONOCHROME1 (low values are white)", (
            "Convert it to MONOCHROME2 as the training data was."
        )
    if "MOSAIC" in image_type(header):
        return "its images are mosaics of slices", "Export it as Enhanced multi-frame."
    if header.get("ModalityLUTSequence"):
        return "its values are rescaled by a table (ModalityLUTSequence)", CONVERT
    return None


def _refused_bits(header: Any) -> tuple[str, str] | None:
    bits = header.get("BitsAllocated")
    if bits not in BYTES:
        return f"it has {bits} bits a pixel (BitsAllocated)", CONVERT
    stored, high = header.get("BitsStored") or bits, header.get("HighBit")
    if high is not None and high != stored - 1:
        return f"its pixels start at bit {high} of {stored} (HighBit)", CONVERT
    return None
