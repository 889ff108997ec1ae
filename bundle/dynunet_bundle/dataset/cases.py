"""A case: the raw files of one image and its label, and its name.

Stored on disk: the roles of ``all_files``, in the sidecars of the prepared store and the cache of surveys.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dynunet_bundle.dicom_input.names import is_series_name
from dynunet_bundle.errors import (
    CaseError,
    DatasetError,
    counted,
    some_of,
)
from dynunet_bundle.files import (
    IMAGE_SUFFIXES,
    TEMPORARY_BYTES,
    case_name,
    fitting_name,
    sha256_of,
)
from dynunet_bundle.shapes import FILE_PATH, list_of

Case = dict[str, Any]
"""``{"image": path, "label": path}``, absolute paths. ``image`` may be a list with one file per channel; ``label`` is
optional; ``name`` is set if it differs from the file name; ``previous`` is the mask of a cascade's previous stage."""

FILES = {**list_of(FILE_PATH, minItems=1), **FILE_PATH, "type": ["string", "array"]}
"""Schema of the files of an image in a list of cases: one, or one per channel."""

IMAGE, LABEL, PREDICTION, NAME = "image", "label", "pred", "name"
"""Keys of a case in all dictionaries, by MONAI's convention."""

META_FILE_NAME = "filename_or_obj"
"""Key of the file path in a MetaTensor's metadata, ``ImageMetaKey.FILENAME_OR_OBJ``."""

MASK_ROLES = ("label", "previous")

FETCH = "Fetch the files that the links lead to (git annex get, dvc pull), or correct the links. "
"""Remedy for links whose target does not exist."""

STEM_RESERVE = TEMPORARY_BYTES + len("-01234567.positions.npy")
"""Bytes added to the name of a case in the names of prepared files."""


def image_files(case: Mapping[Any, Any]) -> list[str]:
    """Files of the image: one, or one per channel."""
    image = case["image"]
    return list(map(str, image)) if isinstance(image, (list, tuple)) else [str(image)]


def all_files(case: Mapping[str, Any]) -> dict[str, str]:
    """All files of a case by role: ``image`` (or ``image 0``, ... if one per channel), ``label``, ``previous``."""
    images = image_files(case)
    roles = ["image"] if len(images) == 1 else [f"image {index}" for index in range(len(images))]
    files = dict(zip(roles, images, strict=True))
    return files | {role: str(case[role]) for role in MASK_ROLES if role in case}


def name_of(case: Mapping[Any, Any]) -> str:
    """Name of a case, before or after its files were loaded.

    ``apply_to_case`` notes it under ``name`` before the first transform. Otherwise it is made from the file's name; for
    a DICOM series, whose folder may have a patient's name, it is the hash of ``short_name``.
    """
    if NAME in case:
        return str(case[NAME])
    if not is_in_memory(case):
        return _name_of_file(image_files(case)[0])
    meta = getattr(case[IMAGE], "meta", {})  # an array of a client has none
    return _name_of_file(str(meta[META_FILE_NAME])) if meta.get(META_FILE_NAME) else "unnamed"


def is_in_memory(case: Mapping[Any, Any]) -> bool:
    """Whether the image of a case is an array, not files."""
    return not isinstance(case[IMAGE], (str, os.PathLike, list, tuple))


def source_of(image: Any) -> str | None:
    """Path of the file that a MetaTensor was read from; None for an image that a program has in memory."""
    file = image.meta.get(META_FILE_NAME)
    return str(file) if file else None


def _name_of_file(file: str) -> str:
    if not is_dicom_case_file(file):
        return case_name(file)
    # pydicom is an extra
    from dynunet_bundle.dicom_input.series import series_case_name

    return series_case_name(file)


def is_dicom_case_file(file: str) -> bool:
    """Whether a file of a case is a DICOM series, told without opening files of other formats."""
    return not file.lower().endswith(IMAGE_SUFFIXES) and is_series_name(file)


def absolute(path: str | os.PathLike[str]) -> Path:
    """A path from the current folder, with its links kept: a case and a data set have the name that the user gave.

    The target of a link may have a hash as its name, and no suffix (DVC, git-annex). Only what is before ``..`` is
    resolved, as the system does.

    Raises:
        DatasetError: if the path is empty.
    """
    if not os.fspath(path):
        raise DatasetError("a path is empty. Give the file or the folder.")
    parts = Path(path).expanduser().parts
    after = max((index + 1 for index, part in enumerate(parts) if part == ".."), default=0)
    before = Path(*parts[:after])
    return (before.resolve() if after else before.absolute()).joinpath(*parts[after:])


def is_dead_link(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a link to a file that does not exist, as in a clone whose data were not fetched."""
    return os.path.islink(path) and not os.path.exists(path)


def list_images(folder: Path) -> list[Path]:
    """Image files directly in a folder, sorted, without hidden files (temporary files, macOS resource forks).

    Links whose target does not exist are listed: they are cases that cannot be read.
    """
    return sorted(
        file
        for file in folder.iterdir()
        if file.name.lower().endswith(IMAGE_SUFFIXES)
        and not file.name.startswith(".")
        and (file.is_file() or is_dead_link(file))
    )


def require_unique(names: Sequence[str], where: str) -> None:
    """Refuse duplicate names.

    Raises:
        DatasetError: listing them.
    """
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        raise DatasetError(
            f"{where} has duplicate case names: {', '.join(doubles)}. Rename or remove the duplicates."
        )


def require_files(cases: Sequence[Case], rule: str) -> None:
    """Refuse cases with missing files.

    Args:
        cases: cases of a data set.
        rule: where the names of the files come from, for the message.

    Raises:
        CaseError: naming the first case and up to five files.
    """
    missing = [
        (name_of(case), path)
        for case in cases
        for path in all_files(case).values()
        if not os.path.isfile(path)  # pathlib raises an OSError for names that are too long
    ]
    if missing:
        shown = some_of(path for _, path in missing)
        fetch = FETCH if any(is_dead_link(path) for _, path in missing) else ""
        raise CaseError(
            missing[0][0],
            f"{counted(len(missing), 'missing file')} {rule}: {shown}",
            f"{fetch}Restore the files, or remove the cases.",
        )


def file_identity(case: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Size and modification time of each file of a case, which decide whether cached results are still valid.

    Raises:
        CaseError: if a file is missing, or is a DICOM series.
    """
    identity = {}
    for role, path in all_files(case).items():
        if is_dicom_case_file(path):
            raise CaseError(
                name_of(case),
                f"its {role} is a DICOM series, which can only be predicted or evaluated",
                "Convert it to NIfTI.",
            )
        try:
            status = os.stat(path)
        except OSError as error:
            raise CaseError(name_of(case), f"{path} is missing", "Restore the file.") from error
        identity[role] = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
    return identity


def unique_stem(case: Mapping[str, Any]) -> str:
    """File name without suffix for results computed from a case: its name and a hash of its path.

    It leaves room for suffixes such as ``.positions.npy``, also in temporary names.
    """
    path = os.path.abspath(image_files(case)[0])
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:8]
    return f"{fitting_name(name_of(case), STEM_RESERVE)}-{digest}"


def name_in(stem: str) -> str:
    """The name of the case in ``unique_stem``, without the hash of the path."""
    return stem.rpartition("-")[0]


def content_of(case: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of each raw file of a case by role: what stays when the files are moved or copied."""
    return {role: sha256_of(path) for role, path in all_files(case).items()}
