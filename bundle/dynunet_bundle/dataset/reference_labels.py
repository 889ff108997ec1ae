"""The label of each case, for masks that are scored: a folder of masks, or a data set."""

import logging
from pathlib import Path

from dynunet_bundle.dataset.cases import Case, absolute, list_images, name_of, require_unique
from dynunet_bundle.dataset.layouts import DATASET_NAME, read_layout
from dynunet_bundle.errors import DatasetError
from dynunet_bundle.files import case_name

logger = logging.getLogger(__name__)


def masks_by_name(folder: Path, option: str) -> dict[str, str]:
    """Masks directly in a folder, or one mask, by file name without suffix.

    Args:
        folder: the folder, or a file.
        option: option of the command line, for messages.

    Raises:
        DatasetError: if it does not exist or has no masks, or a name occurs twice.
    """
    if not folder.exists():
        raise DatasetError(f"{folder} does not exist. Pass {option} with a folder of masks.")
    files = [folder] if folder.is_file() else list_images(folder)
    if not files:
        raise DatasetError(f"{folder} contains no image. Pass {option} with a folder of masks.")
    require_unique([case_name(file) for file in files], str(folder))
    return {case_name(file): str(absolute(file)) for file in files}


def labels_by_case(source: Path) -> dict[str, str]:
    """Labels by the name of their case.

    Args:
        source: a data set's folder or dataset.json, or a folder of masks. If a dataset.json beside that folder lists
            its files, they have the names of their cases; other files have their own names.

    Raises:
        DatasetError: if the data set is malformed, or there are no labels.
    """
    root = dataset_root(source)
    if root is not None:
        return {name: str(case["label"]) for name, case in cases_by_name(root).items()}
    files = masks_by_name(source, "--labels")
    folder = absolute(source)
    if folder.is_dir() and (folder.parent / DATASET_NAME).is_file():
        try:
            listed = cases_by_name(folder.parent)
        except DatasetError as error:
            logger.warning("labels are paired by file name: %s", error)
            return files
        inside = set(folder.iterdir())
        labels = {name: str(case["label"]) for name, case in listed.items()}
        files |= {name: label for name, label in labels.items() if Path(label) in inside}
    return files


def dataset_root(source: Path) -> Path | None:
    """The folder of the data set that a path means; None if it is not a data set.

    nnU-Net puts a dataset.json into folders of masks, which are not data sets.
    """
    path = absolute(source)
    if path.name == DATASET_NAME and path.is_file():
        return path.parent
    if not path.is_dir() or list_images(path):
        return None
    is_plain = (path / "images").is_dir() and (path / "labels").is_dir()
    return path if is_plain or (path / DATASET_NAME).is_file() else None


def cases_by_name(root: Path) -> dict[str, Case]:
    """Labelled cases of a data set, whose files need not exist, by name."""
    return {name_of(case): case for case in read_layout(root, complete=False).training}
