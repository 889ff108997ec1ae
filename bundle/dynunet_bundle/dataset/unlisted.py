"""Files of a data set that its dataset.json does not list, and numbers in it that are wrong."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dynunet_bundle.dataset.cases import Case, image_files, list_images
from dynunet_bundle.errors import counted, some_of
from dynunet_bundle.shapes import excerpt

IMAGES_DIR = "imagesTr"
"""Folder of the training images, in the Decathlon's layout and in nnU-Net's."""

NUMBERS = {"numTraining": "training", "numTest": "test"}
"""Keys of dataset.json for the number of cases, with the cases that they count."""


def dataset_notes(
    root: Path, content: Mapping[str, Any], training: Sequence[Case], test: Sequence[Case]
) -> tuple[tuple[str, str], ...]:
    """What is wrong with the list of cases without making it unusable: problems, each with its remedy.

    Args:
        root: folder of the data set.
        content: its dataset.json.
        training: labelled cases.
        test: unlabelled cases.
    """
    return (
        *_wrong_numbers(content, {"training": len(training), "test": len(test)}),
        *_unlisted(root, training, test),
    )


def _wrong_numbers(
    content: Mapping[str, Any], found: Mapping[str, int]
) -> Iterator[tuple[str, str]]:
    for key, section in NUMBERS.items():
        number = content.get(key, found[section])
        if number != found[section]:
            listed = counted(found[section], f"{section} case")
            yield (
                f'"{key}" is {excerpt(repr(number))}, but it lists {listed}',
                (f"Correct the number, or check that no {section} case is missing."),
            )


def _unlisted(
    root: Path, training: Sequence[Case], test: Sequence[Case]
) -> Iterator[tuple[str, str]]:
    """Files beside listed images or labels; not in folders with both, as of a patient."""
    images = {Path(file) for case in (*training, *test) for file in image_files(case)}
    labels = {Path(case["label"]) for case in training}
    image_dirs = {file.parent for file in images} | {root / IMAGES_DIR}
    label_dirs = {file.parent for file in labels}
    for folders, listed, what in (
        (image_dirs - label_dirs, images, "image"),
        (label_dirs - image_dirs, labels, "label"),
    ):
        for folder in sorted(folder for folder in folders if folder.is_dir()):
            others = [file.name for file in list_images(folder) if file not in listed]
            if others:
                yield (
                    f"{folder.name} has {counted(len(others), f'unlisted {what}')}: {some_of(others)}",
                    "They are not used. List them as pairs of image and label, or move them away.",
                )
