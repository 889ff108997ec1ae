"""The cases that a dataset.json lists in the Decathlon's form, with the rule that gives each its name.

A case has, in this order: the ``name`` of its entry; the name of its label, if the image has nnU-Net's number of a
channel (``c_00_0000`` and ``c_00``); the file name of its image. If files of different cases have the same name, as in
``p1/t1.nii.gz`` with ``p1/seg.nii.gz``, a case has the name of its folder.
"""

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from dynunet_bundle.dataset.cases import LABEL, NAME, Case, all_files, image_files, name_of
from dynunet_bundle.dataset.image_folder import is_whole_picture
from dynunet_bundle.errors import DatasetError
from dynunet_bundle.files import CHANNEL_SUFFIX, case_name


def read_entries(
    entries: Sequence[Any],
    root: Path,
    num_channels: int,
    where: str,
    labelled: bool,
    shared: Collection[str] = (),
) -> list[Case]:
    """Cases of a section of dataset.json.

    Args:
        entries: paths, or objects with ``image`` (one path, or one per channel), ``label`` and maybe ``name``.
        root: folder that relative paths start at.
        num_channels: channels of the data set.
        where: file and section, for messages.
        labelled: whether the section has labels.
        shared: file names that several cases of another section have, see ``shared_names``.

    Raises:
        DatasetError: if a name cannot be a file name.
    """
    cases = []
    for index, entry in enumerate(entries):
        content = entry if isinstance(entry, Mapping) else {"image": entry}
        cases.append(_entry_case(content, root, num_channels, labelled))
        if NAME in content:
            cases[-1][NAME] = valid_name(content[NAME], f"{where}[{index}]")
    return with_folder_names(cases, root, shared)


def shared_names(cases: Sequence[Case]) -> set[str]:
    """File names that several cases have: they name none of them, nor a case of another section."""
    names = [case_name(image_files(case)[0]) for case in cases]
    return {name for name, number in Counter(names).items() if number > 1}


def valid_name(name: str, where: str) -> str:
    """The name of a case that a list gives.

    Raises:
        DatasetError: if it cannot be the name of a file.
    """
    if Path(name).name == name != "" and name.isprintable() and not name.startswith("."):
        return name
    raise DatasetError(
        f"{where} has the name {name!r}. Give it a name that can be a file name: not a path, not hidden."
    )


def _entry_case(entry: Mapping[str, Any], root: Path, num_channels: int, labelled: bool) -> Case:
    image = entry["image"]
    case: Case = {
        "image": [str(root / path) for path in image]
        if isinstance(image, list)
        else str(root / image)
    }
    if labelled:
        case[LABEL] = str(root / entry["label"])
    case |= numbered_channels(case, num_channels)
    match = CHANNEL_SUFFIX.match(case_name(image_files(case)[0]))
    if NAME not in case and labelled and match and match["name"] == case_name(case[LABEL]):
        case[NAME] = match["name"]
    return case


def numbered_channels(case: Case, num_channels: int) -> Case:
    """Image and name of a case in nnU-Net's raw form: ``x.nii.gz`` is listed, the folder has ``x_0000.nii.gz``.

    Args:
        case: a listed case.
        num_channels: channels of the data set.

    Returns:
        Empty if the listed file exists, or the numbered ones do not.
    """
    if not isinstance(case["image"], str) or os.path.lexists(case["image"]):
        return {}
    file = Path(case["image"])
    name = case_name(file)
    suffix = file.name[len(name) :]
    files = [file.with_name(f"{name}_{number:04d}{suffix}") for number in range(num_channels)]
    if not any(map(os.path.lexists, files)):
        return {}
    if is_whole_picture(file) and not any(map(os.path.lexists, files[1:])):
        files = files[:1]
    return {"image": list(map(str, files)), NAME: name}


def with_folder_names(cases: list[Case], root: Path, shared: Collection[str] = ()) -> list[Case]:
    """Cases named by their folders, if their files have the same names and each case has a folder of its own.

    Args:
        cases: cases of one section.
        root: folder of the data set. Folders of the same name are told apart by their path from it.
        shared: names that no case may have.
    """
    own = {name_of(case) for case in cases}
    if len(own) == len(cases) and own.isdisjoint(shared):
        return cases
    folders = [
        Path(os.path.commonpath(map(os.path.dirname, all_files(case).values()))) for case in cases
    ]
    if len(set(folders)) < len(folders):
        return cases
    names = [folder.name for folder in folders]
    if len(set(names)) < len(names):
        names = ["_".join(Path(os.path.relpath(folder, root)).parts) for folder in folders]
    return [{NAME: name, **case} for case, name in zip(cases, names, strict=True)]
