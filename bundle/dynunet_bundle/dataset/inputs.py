"""From the user's input (an image, a folder, a list, DICOM) to the cases to predict."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynunet_bundle.dataset.case_parts import Part, cases_of_part
from dynunet_bundle.dataset.cases import FILES, Case, absolute, name_of, require_unique
from dynunet_bundle.dataset.default_task import other_classes, other_sizes
from dynunet_bundle.dataset.entries import numbered_channels, valid_name, with_folder_names
from dynunet_bundle.dataset.image_folder import find_images
from dynunet_bundle.dicom_input.names import is_dicom_input, is_series_name
from dynunet_bundle.errors import DatasetError
from dynunet_bundle.files import read_json
from dynunet_bundle.shapes import TEXT, list_of

logger = logging.getLogger(__name__)

LIST_IDS = ("test", "testing")
"""Keys of unlabelled images in the lists of the Medical Segmentation Decathlon and of MONAI."""

ITEM = {
    **FILES,
    "type": ["string", "array", "object"],
    "properties": {"image": FILES, "name": TEXT},
    "required": ["image"],
}
LIST_SCHEMA = {
    **list_of(ITEM, minItems=1),
    "type": ["array", "object"],
    "properties": {name: list_of(ITEM, minItems=1) for name in LIST_IDS},
    "if": {"required": ["test"]},
    "else": {"required": ["testing"]},
    "description": 'Give a list of images: ["a.nii.gz", ["b_t1.nii.gz", "b_t2.nii.gz"], {"image": "c.nii.gz"}].',
}
"""Schema of a list of images, or of a dataset.json with such a list; its keywords apply to lists or to objects only."""


def find_inputs(
    source: str | Path,
    num_channels: int = 1,
    series_rules: Mapping[str, Any] | None = None,
    plan: Mapping[str, Any] | None = None,
    part: Part | None = None,
) -> list[Case]:
    """Find the cases to predict: ``cases#cases`` of inference.json.

    Args:
        source: an image file, a folder of images (see ``find_images``), a JSON list, or a DICOM folder or zip archive.
        num_channels: channels of the plan.
        series_rules: rules that choose the series of a DICOM study, see ``dicom_cases.find_cases``.
        plan: ids of the plan; images that the default one may not fit are told.
        part: number of the part of the cases to predict, and the number of parts; None for all.

    Returns:
        Unlabelled cases.

    Raises:
        DatasetError: if the path is empty, there are no images, a name occurs twice, or a list is malformed.
        CaseError: if a file is not an image.
    """
    cases = _find_cases(source, num_channels, series_rules)
    doubts = [other_classes(source, plan)]
    if not is_dicom_input(absolute(source)) and (doubt := other_sizes(cases, plan)):
        doubts.append(f"{doubt} For images of another kind, pass a model of such images.")
    for doubt in filter(None, doubts):
        logger.warning("%s", doubt)
    return cases_of_part(cases, part)


def _find_cases(
    source: str | Path, num_channels: int, series_rules: Mapping[str, Any] | None
) -> list[Case]:
    path = absolute(source)
    if path.is_file() and path.suffix.lower() == ".json":
        return read_list(path, num_channels)
    if is_dicom_input(path):
        # pydicom is an optional dependency
        from dynunet_bundle.dataset.dicom_cases import find_cases

        return find_cases(str(source), series_rules)
    return find_images(path, num_channels)


def read_list(path: Path, num_channels: int = 1) -> list[Case]:
    """Read a list of images: ``["a.nii.gz", ["b_t1.nii.gz", "b_t2.nii.gz"], {"image": ..., "name": ...}]``.

    An item is a file, a list of files with one channel each, or an object with such an ``image`` and optionally a
    ``name``. Paths are relative to the list. A dataset.json with such a list under ``test`` is accepted, too.

    Args:
        path: the JSON file.
        num_channels: channels of the plan.

    Raises:
        DatasetError: if it is malformed, or a name occurs twice.
    """
    content = read_json(path, DatasetError, LIST_SCHEMA)
    is_dataset = isinstance(content, dict)
    if is_dataset:
        content = next(content[key] for key in LIST_IDS if key in content)
    folder = absolute(path).parent
    cases = [
        _case(item, folder, num_channels, f"item {index} of {path}")
        for index, item in enumerate(content)
    ]
    if is_dataset:
        cases = with_folder_names(cases, folder)
    require_unique([name_of(case) for case in cases], str(path))
    return cases


def _case(item: Any, folder: Path, num_channels: int, where: str) -> Case:
    image = item["image"] if isinstance(item, dict) else item
    files: list[str] = image if isinstance(image, list) else [image]
    paths = [str(absolute(folder / file)) for file in files]
    case: Case = {"image": paths if isinstance(image, list) else paths[0]}
    case |= numbered_channels(case, num_channels)
    if isinstance(item, dict) and "name" in item:
        case["name"] = valid_name(item["name"], where)
    elif is_series_name(paths[0]):
        # made from the headers of the series, so it is made once
        case["name"] = name_of(case)
    return case
