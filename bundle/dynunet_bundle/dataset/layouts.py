"""The supported layouts of a data set on disk: the Decathlon's, nnU-Net's, and two plain folders.

All become a ``DatasetDescription``. Nothing is ever written into the data set's folder.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dynunet_bundle.dataset.cases import (
    FILES,
    Case,
    list_images,
    name_of,
    require_files,
    require_unique,
)
from dynunet_bundle.dataset.entries import read_entries, shared_names
from dynunet_bundle.dataset.image_folder import group_channels, is_whole_picture, missing_channels
from dynunet_bundle.dataset.unlisted import dataset_notes
from dynunet_bundle.errors import DatasetError, counted
from dynunet_bundle.files import case_name, read_json
from dynunet_bundle.labels.dataset_json import LABELS_SCHEMA, read_labels
from dynunet_bundle.labels.faults import find_name_fault
from dynunet_bundle.labels.scheme import LabelScheme
from dynunet_bundle.shapes import FILE_NAME, FILE_PATH, TEXT, by_name, list_of, object_with

LAYOUTS = (
    "dataset.json with imagesTr and labelsTr (Medical Segmentation Decathlon or nnU-Net), "
    "or two folders images and labels with files of the same names"
)

DATASET_NAME = "dataset.json"

UNSAFE = re.compile(r"[$@%#:\x00-\x1f\x7f]")
"""Characters of a folder name that have a special meaning in MONAI's configs or in terminals."""

CHANNELS = by_name({"type": ["string", "number"]}, minProperties=1, propertyNames={"maxLength": 10})
LABELLED = object_with({"image": FILES, "label": FILE_PATH, "name": TEXT}, ("image", "label"))
UNLABELLED = {**LABELLED, "type": ["string", "object"], "required": ["image"]}
LISTED = object_with({"images": FILES, "label": FILE_PATH}, ("images", "label"))

DATASET_SCHEMA = object_with(
    {
        "channel_names": CHANNELS,
        "modality": CHANNELS,
        "labels": LABELS_SCHEMA,
        "training": list_of(LABELLED),
        "test": list_of(UNLABELLED),
        "file_ending": FILE_NAME,
    },
    ("labels",),
    allOf=[
        {"if": {"required": ["channel_names"]}, "else": {"required": ["modality"]}},
        {
            "if": {"anyOf": [{"required": ["training"]}, {"required": ["modality"]}]},
            "then": {"required": ["training"]},
            # nnU-Net's layout; a "dataset" that is not an object is the user's own key
            "else": {
                "required": ["file_ending"],
                "properties": {
                    "dataset": {"additionalProperties": LISTED, "propertyNames": FILE_NAME}
                },
            },
        },
    ],
    description=(
        'A dataset.json of the Decathlon has "modality", "labels" and "training"; one of nnU-Net has "channel_names", '
        '"labels" and "file_ending".'
    ),
)
"""Schema of a dataset.json; other keys are ignored."""


@dataclass(frozen=True)
class DatasetDescription:
    """What is known about a data set before an image is read.

    Attributes:
        name: folder name of the data set, e.g. ``Task04_Hippocampus``.
        channel_names: one name per channel of the images, e.g. ``("FLAIR", "T1w")``; empty if unknown.
        labels: meaning of the values in label files; without classes if unknown.
        training: labelled cases, sorted by name.
        test: unlabelled cases, sorted by name.
        notes: what is wrong with the list of cases without making it unusable: problems and remedies.
    """

    name: str
    channel_names: tuple[str, ...]
    labels: LabelScheme
    training: tuple[Case, ...]
    test: tuple[Case, ...]
    notes: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        """Check the names of channels; ``LabelScheme`` checks those of labels.

        Raises:
            DatasetError: if a name cannot be part of a config.
        """
        for name in self.channel_names:
            if fault := find_name_fault(name, "channel"):
                raise DatasetError(f"{self.name}: {fault}")

    @property
    def num_entries(self) -> int:
        """Length of ``labels`` in dataset.json, with which nnU-Net plans memory.

        It counts the background, the classes or regions, and the ignore value.
        """
        return len(self.labels.target_names) + (self.labels.ignore_value is not None)

    def named(self, channel_names: Sequence[str], labels: LabelScheme) -> "DatasetDescription":
        """The same data set with names, for a layout without names."""
        return replace(self, channel_names=tuple(channel_names), labels=labels)


def task_name(root: Path) -> str:
    """Name of a data set, the ``task_name`` of its plan: the folder's name with special characters as ``_``."""
    return UNSAFE.sub("_", root.name)


def read_layout(root: Path, complete: bool = True) -> DatasetDescription:
    """Detect the layout of a data set and read it.

    Args:
        root: absolute path of its folder.
        complete: whether all listed files must exist.

    Raises:
        DatasetError: if the folder does not exist, its layout is unknown or malformed, or it has no training cases.
        CaseError: if listed files are missing.
    """
    if not root.is_dir():
        what = "is a file" if root.is_file() else "does not exist"
        raise DatasetError(
            f"{root} {what}. Pass --dataset_dir with a folder that has {LAYOUTS}; a relative path starts at the "
            "current working directory."
        )
    source = root / DATASET_NAME
    rule = "listed in dataset.json"
    if source.is_file():
        content = read_json(source, DatasetError, DATASET_SCHEMA)
        reader = _read_msd if "training" in content or "modality" in content else _read_nnunet
        if reader is _read_nnunet and not isinstance(content.get("dataset"), dict):
            rule = "of nnU-Net's layout (image imagesTr/CASE_0000, label labelsTr/CASE)"
        dataset = reader(root, source, content)
        notes = dataset_notes(root, content, dataset.training, dataset.test)
        dataset = replace(dataset, notes=notes)
    else:
        dataset = _read_plain(root)
    if not dataset.training:
        raise DatasetError(
            f"{source if source.is_file() else root} lists no training cases. Add labelled images."
        )
    if complete:
        require_files(dataset.training + dataset.test, rule)
    return dataset


def _read_msd(root: Path, source: Path, content: Mapping[str, Any]) -> DatasetDescription:
    """``training`` has pairs of paths, ``test`` has paths; ``image`` may be a list with one file per channel."""
    channel_names = _channel_names(content, source)
    sections: dict[str, list[Case]] = {}
    for name in ("training", "test"):
        sections[name] = read_entries(
            content.get(name, []),
            root,
            len(channel_names),
            f"{source}: {name}",
            labelled=name == "training",
            shared=shared_names(sections.get("training", ())),
        )
    return DatasetDescription(
        task_name(root),
        channel_names,
        read_labels(content, source),
        _sorted(sections["training"], f'{source}: "training"'),
        _sorted(sections["test"], f'{source}: "test"'),
    )


def _read_nnunet(root: Path, source: Path, content: Mapping[str, Any]) -> DatasetDescription:
    """``imagesTr/CASE_0000.END``, ``labelsTr/CASE.END``, or the files of each case under ``dataset``."""
    labels = read_labels(content, source)
    channel_names = _channel_names(content, source)
    ending = content["file_ending"]
    listed = content.get("dataset")
    if isinstance(listed, dict):
        training = [_listed_case(name, files, root) for name, files in listed.items()]
    else:
        training = [
            {**case, "label": str(root / "labelsTr" / f"{case['name']}{ending}")}
            for case in _nnunet_cases(root / "imagesTr", ending, len(channel_names))
        ]
    test = _nnunet_cases(root / "imagesTs", ending, len(channel_names))
    return DatasetDescription(
        task_name(root),
        channel_names,
        labels,
        _sorted(training, f"{source}"),
        _sorted(test, f"{source}"),
    )


def _listed_case(name: str, files: Mapping[str, Any], root: Path) -> Case:
    images = files["images"] if isinstance(files["images"], list) else [files["images"]]
    return {
        "image": [str(root / path) for path in images],
        "label": str(root / files["label"]),
        "name": name,
    }


def _nnunet_cases(folder: Path, ending: str, num_channels: int) -> list[Case]:
    if not folder.is_dir():
        return []
    files = [file for file in list_images(folder) if file.name.endswith(ending)]
    groups, _ = group_channels(files)
    rule = f"must be named CASE_0000{ending}, CASE_0001{ending}, ... without gaps"
    if files and not groups:
        raise DatasetError(f"the images in {folder} {rule}; {files[0].name} is not.")
    for name, channels in groups.items():
        missing = missing_channels(channels, num_channels)
        is_picture = list(channels) == [0] and is_whole_picture(channels[0])
        if (missing or len(channels) > num_channels) and not is_picture:
            lacks = f" {missing[0].name} is missing." if missing else ""
            raise DatasetError(
                f"case {name} has {counted(len(channels), 'image file')} in {folder}, dataset.json has "
                f"{counted(num_channels, 'channel')}.{lacks} The images in {folder} {rule}."
            )
    return [
        {"image": list(map(str, channels.values())), "name": name}
        for name, channels in groups.items()
    ]


def _read_plain(root: Path) -> DatasetDescription:
    """Two folders with files of the same names; the names of channels and labels are not known yet."""
    images, labels = root / "images", root / "labels"
    if images.is_dir() and labels.is_dir():
        return DatasetDescription(
            task_name(root), (), LabelScheme(()), _plain_pairs(images, labels), ()
        )
    if not any(root.iterdir()):
        fault = "is empty"
    elif list_images(root):
        fault = "has images, but no dataset.json and no folders images and labels"
    else:
        fault = "has no dataset.json, and no folders images and labels"
    raise DatasetError(f"{root} {fault}. Pass --dataset_dir with a folder that has {LAYOUTS}.")


def _plain_pairs(images: Path, labels: Path) -> tuple[Case, ...]:
    files, label_files = list_images(images), list_images(labels)
    require_unique([case_name(file) for file in label_files], str(labels))
    masks = {case_name(file): str(file) for file in label_files}
    groups, others = group_channels(files)
    # frame_0000, frame_0001, ... are channels of one case only if there is a mask with the name frame
    joined = {name: channels for name, channels in groups.items() if name in masks}
    others += [
        file for name, channels in groups.items() if name not in masks for file in channels.values()
    ]
    num_channels = max((max(channels) + 1 for channels in joined.values()), default=0)
    for name, channels in joined.items():
        for file in missing_channels(channels, num_channels):
            raise DatasetError(
                f"case {name} has no {file.name} in {images}; another case has {num_channels} channels. "
                "Add the missing file, or move the case away."
            )
    cases: list[Case] = [{"image": str(file)} for file in others]
    cases += [
        {"image": list(map(str, channels.values())), "name": name}
        for name, channels in joined.items()
    ]
    lacking = sorted({name_of(case) for case in cases} ^ set(masks))
    if lacking:
        raise DatasetError(
            f"{counted(len(lacking), 'file')} in {images} and {labels} without a partner of the same name: "
            f"{', '.join(lacking[:5])}. Files are paired by name; CASE_0000, CASE_0001, ... are the channels of the "
            "label CASE. Add the missing files, move these away, or list the pairs in a dataset.json."
        )
    return _sorted([{**case, "label": masks[name_of(case)]} for case in cases], str(images))


def _sorted(cases: Sequence[Case], where: str) -> tuple[Case, ...]:
    require_unique([name_of(case) for case in cases], where)
    return tuple(sorted(cases, key=name_of))


def _channel_names(content: Mapping[str, Any], source: Path) -> tuple[str, ...]:
    key = "channel_names" if "channel_names" in content else "modality"
    table = content[key]
    expected = [str(index) for index in range(len(table))]
    if sorted(table, key=lambda index: (len(index), index)) != expected:
        raise DatasetError(
            f'{source}: "{key}" must be numbered {expected[0]}..{expected[-1]} without gaps, '
            f"not {sorted(table)}."
        )
    return tuple(str(table[index]) for index in expected)
