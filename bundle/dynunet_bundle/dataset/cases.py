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
    some_of,
)
from dynunet_bundle.files import (
    CHANNEL_SUFFIX,
    IMAGE_SUFFIXES,
    PICTURE_SUFFIXES,
    TEMPORARY_BYTES,
    case_name,
    fitting_name,
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
    image = case[IMAGE]
    if isinstance(image, (str, os.PathLike, list, tuple)):
        return _name_of_file(image_files(case)[0])
    meta = getattr(image, "meta", {})  # an array of a client has none
    return _name_of_file(str(meta[META_FILE_NAME])) if meta.get(META_FILE_NAME) else "unnamed"


def _name_of_file(file: str) -> str:
    if not is_dicom_case_file(file):
        return case_name(file)
    # pydicom is an extra
    from dynunet_bundle.dicom_input.series import series_case_name

    return series_case_name(file)


def is_dicom_case_file(file: str) -> bool:
    """Whether a file of a case is a DICOM series, told without opening files of other formats."""
    return not file.lower().endswith(IMAGE_SUFFIXES) and is_series_name(file)


def list_images(folder: Path) -> list[Path]:
    """Image files directly in a folder, sorted, without hidden files (temporary files, macOS resource forks)."""
    return sorted(
        file
        for file in folder.iterdir()
        if file.name.lower().endswith(IMAGE_SUFFIXES)
        and not file.name.startswith(".")
        and file.is_file()
    )


def find_images(source: str | Path, num_channels: int = 1) -> list[Case]:
    """Images to predict: one file, or all images directly in a folder.

    Files are grouped into cases if all of them have nnU-Net's names (``case_0000``, ``case_0001``, ...), and each case
    has either the plan's number of channels or one picture.

    Args:
        source: an image file or a folder of images.
        num_channels: channels of the plan.

    Returns:
        Unlabelled cases, sorted by name.

    Raises:
        DatasetError: if there are no images, or a name occurs twice.
        CaseError: if a file is not an image.
    """
    path = Path(source)
    if path.is_file():
        if not path.name.lower().endswith(IMAGE_SUFFIXES):
            raise CaseError(
                case_name(path),
                f"{path.name} is not an image file",
                f"Convert it to one of {', '.join(IMAGE_SUFFIXES)}.",
            )
        return [{"image": str(path.resolve())}]
    if not path.is_dir():
        raise DatasetError(f"{path} does not exist. Pass --input with an image or a folder.")
    images = list_images(path)
    if not images:
        raise DatasetError(f"{path} contains no image ({', '.join(IMAGE_SUFFIXES)}).")
    require_unique([case_name(file) for file in images], str(path))
    grouped = group_channels(images)
    sizes = {len(files) for files in grouped.values()}
    pictures = all(file.name.lower().endswith(PICTURE_SUFFIXES) for file in images)
    if sizes == {num_channels} or (pictures and sizes == {1}):
        return [
            {"image": [str(file.resolve()) for file in files], "name": name}
            for name, files in grouped.items()
        ]
    return [{"image": str(file.resolve())} for file in images]


def group_channels(files: Sequence[Path]) -> dict[str, list[Path]]:
    """Files by case if all files are named ``case_0000``, ``case_0001``, ... without gaps; else empty.

    Args:
        files: image files, sorted.
    """
    groups: dict[str, list[Path]] = {}
    for file in files:
        match = CHANNEL_SUFFIX.match(case_name(file))
        if match is None:
            return {}
        group = groups.setdefault(match["name"], [])
        if int(match["channel"]) != len(group):
            return {}
        group.append(file)
    return groups


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


def require_files(cases: Sequence[Case]) -> None:
    """Refuse cases with missing files.

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
        raise CaseError(
            missing[0][0],
            f"{len(missing)} file(s) listed in dataset.json do not exist: {shown}",
            "Restore the files, or remove the cases from dataset.json.",
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
