"""Whether the images of a series belong together: one patient, one kind of image.

A SeriesInstanceUID should be unique, but phantoms, copied files and anonymisers repeat it. A mask over two patients, or
an object with the name of only one of them, would be worse than no result.
"""

from collections.abc import Iterable
from typing import Any

from dynunet_bundle.dicom_input.parse import value_of

PATIENT_TAGS = ("PatientID", "PatientName", "PatientBirthDate")
KIND_TAGS = ("SOPClassUID", "Modality")


def mixed(headers: Iterable[Any]) -> tuple[str, str] | None:
    """Why the images of a series do not belong together, and what to do; None if they do.

    Empty values are not compared, since anonymisers may leave some.

    Args:
        headers: headers of all images, with ``PATIENT_TAGS`` and ``KIND_TAGS``.

    Returns:
        Two sentences for a message, with tags but no values.
    """
    known = list(headers)
    for tags, what in ((PATIENT_TAGS, "patients"), (KIND_TAGS, "kinds of images")):
        for tag in tags:
            values = {_normal(value_of(header, tag)) for header in known} - {""}
            if len(values) > 1:
                number = "two" if len(values) == 2 else str(len(values))
                return (
                    f"its images are of {number} {what} ({tag} differs)",
                    "Send the images of each as a series of its own.",
                )
    return None


def _normal(value: Any) -> str:
    """A value without differences of writing: case, padding, empty parts and other scripts of a name."""
    return "" if value is None else str(value).partition("=")[0].strip(" ^\0").casefold()
