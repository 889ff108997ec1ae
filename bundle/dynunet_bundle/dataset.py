"""A data set in MSD layout: dataset.json -> cases, checks, folds.

The layout is the Medical Segmentation Decathlon's: ``dataset.json`` with ``modality``, ``labels``, ``training``
(pairs of image and label) and ``test`` (images), paths relative to the folder.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import Dataset

from dynunet_bundle.errors import BundleError, CaseError, DatasetError, PlanError, first_line
from dynunet_bundle.files import IMAGE_SUFFIXES, case_name, read_json

Case = dict[str, str]
"""One case: ``{"image": path}`` or ``{"image": path, "label": path}``, absolute paths of raw files."""

MAX_SHOWN = 5
MIN_FOLDS = 2

DEFAULT_SPLIT_SEED = 12345
"""The seed's and nnU-Net's random state for the five folds."""


@dataclass(frozen=True)
class MsdDataset:
    """What dataset.json says.

    Attributes:
        name: folder name of the data set, e.g. ``Task04_Hippocampus``.
        channel_names: one name a channel of the images, e.g. ``("FLAIR", "T1w")``.
        label_names: names by label value; index 0 is the background.
        training: labelled cases, sorted by name.
        test: unlabelled cases, sorted by name.
    """

    name: str
    channel_names: tuple[str, ...]
    label_names: tuple[str, ...]
    training: tuple[Case, ...]
    test: tuple[Case, ...]


def load_dataset(dataset_dir: str | os.PathLike[str]) -> MsdDataset:
    """Read and check ``dataset.json``.

    Args:
        dataset_dir: folder that holds dataset.json.

    Returns:
        The data set, with absolute paths.

    Raises:
        DatasetError: if dataset.json is missing or malformed, or files that it lists are missing.
    """
    root = Path(dataset_dir).resolve()
    source = root / "dataset.json"
    if not source.is_file():
        raise DatasetError(
            f"{root} has no dataset.json. Pass --dataset_dir with a folder in MSD layout."
        )
    content = read_json(source, DatasetError)
    if not isinstance(content, dict):
        raise DatasetError(f"{source} must hold a JSON object, not {type(content).__name__}.")
    channel_names = _names_by_index(content, "modality", source)
    label_names = _names_by_index(content, "labels", source)
    training = _cases(content.get("training"), root, source, "training", ("image", "label"))
    test = _cases(content.get("test", []), root, source, "test", ("image",))
    if not training:
        raise DatasetError(f"{source} lists no training cases.")
    _require_files(training + test)
    return MsdDataset(root.name, channel_names, label_names, training, test)


def _names_by_index(content: Mapping[str, Any], key: str, source: Path) -> tuple[str, ...]:
    """``{"0": "background", "1": "liver"}`` -> ``("background", "liver")``."""
    table = content.get(key)
    if not isinstance(table, dict) or not table:
        raise DatasetError(
            f'{source} needs "{key}", an object such as {{"0": "name"}}; it has {table!r}.'
        )
    expected = [str(index) for index in range(len(table))]
    if sorted(table, key=lambda index: (len(index), index)) != expected:
        raise DatasetError(
            f'{source}: "{key}" must be numbered {expected[0]}..{expected[-1]} without gaps, '
            f"not {sorted(table)}. Renumber the labels in the files and in dataset.json."
        )
    return tuple(str(table[index]) for index in expected)


def _cases(
    entries: Any, root: Path, source: Path, section: str, keys: tuple[str, ...]
) -> tuple[Case, ...]:
    if not isinstance(entries, list):
        raise DatasetError(f'{source} needs "{section}", a list of cases; it has {entries!r}.')
    cases = []
    for entry in entries:
        files = {"image": entry} if isinstance(entry, str) else entry
        if not isinstance(files, dict) or any(not isinstance(files.get(key), str) for key in keys):
            raise DatasetError(
                f'{source}: each "{section}" case needs {" and ".join(keys)} as paths, not {entry!r}.'
            )
        cases.append({key: str(root / files[key]) for key in keys})
    names = [case_name(case["image"]) for case in cases]
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        raise DatasetError(f'{source}: "{section}" lists {", ".join(doubles)} more than once.')
    return tuple(sorted(cases, key=lambda case: case_name(case["image"])))


def _require_files(cases: Sequence[Case]) -> None:
    missing = [path for case in cases for path in case.values() if not Path(path).is_file()]
    if missing:
        shown = ", ".join(missing[:MAX_SHOWN])
        if len(missing) > MAX_SHOWN:
            shown += f" and {len(missing) - MAX_SHOWN} more"
        raise CaseError(
            case_name(missing[0]),
            f"{len(missing)} file(s) listed in dataset.json do not exist: {shown}",
            "Restore the files or take the cases out of dataset.json.",
        )


def names_for(name: str, facts: Mapping[str, Any]) -> MsdDataset:
    """A data set without cases, to plan from saved facts: names where they were saved, else numbers.

    Args:
        name: name of the data set.
        facts: a saved fingerprint; ours has ``channel_names`` and ``label_names``, nnU-Net's facts have ``modality``,
            ``num_channels`` and ``num_classes_with_background``.

    Raises:
        PlanError: if the facts tell neither names nor numbers.
    """
    try:
        channels = facts.get("channel_names") or [str(facts["modality"])] * int(
            facts["num_channels"]
        )
        labels = facts.get("label_names") or [
            "background",
            *(f"class_{value}" for value in range(1, int(facts["num_classes_with_background"]))),
        ]
    except (KeyError, ValueError, TypeError) as error:
        raise PlanError(f"the fingerprint tells no channels or labels ({error!r}).") from error
    return MsdDataset(name, tuple(channels), tuple(labels), (), ())


def split_folds(num_cases: int, num_folds: int, seed: int = DEFAULT_SPLIT_SEED) -> list[np.ndarray]:
    """Indices of the validation cases of each fold, as scikit-learn's ``KFold(shuffle=True)`` draws them.

    Restated from its rule so that folds equal those of the seed and of nnU-Net: shuffle 0..n-1 with the legacy
    generator, cut into folds of which the first ``n % k`` have one case more, sort each.

    Args:
        num_cases: number of cases, in sorted order.
        num_folds: number of folds, at least 2.
        seed: state of the legacy numpy generator.

    Returns:
        ``num_folds`` sorted int arrays that together hold 0..num_cases-1 once.

    Raises:
        DatasetError: if there are fewer cases than folds.
    """
    if num_folds < MIN_FOLDS or num_cases < num_folds:
        raise DatasetError(
            f"{num_cases} case(s) cannot be split into {num_folds} folds. "
            "Pass a --num_folds from 2 to the number of cases."
        )
    order = np.arange(num_cases)
    np.random.RandomState(seed).shuffle(order)
    return [np.sort(part) for part in np.array_split(order, num_folds)]


def select_cases(
    dataset_dir: str,
    part: str,
    channel_names: Sequence[str],
    label_names: Sequence[str],
    fold: int = 0,
    num_folds: int = 5,
    seed: int = DEFAULT_SPLIT_SEED,
) -> list[Case]:
    """Raw cases of one part of a data set, for ``train#dataset#data`` and ``validate#dataset#data``.

    Args:
        dataset_dir: folder that holds dataset.json.
        part: ``"training"`` or ``"validation"`` of the fold.
        channel_names: the plan's channels, to catch a plan that belongs to another data set.
        label_names: the plan's labels, likewise.
        fold: index of the validation fold.
        num_folds: number of folds.
        seed: seed of the split.

    Returns:
        ``[{"image": path, "label": path}, ...]``.

    Raises:
        DatasetError: if the data set is malformed or the fold does not exist.
        PlanError: if the plan's channels or labels are not the data set's.
    """
    dataset = load_dataset(dataset_dir)
    for what, planned, found in (
        ("channels", tuple(channel_names), dataset.channel_names),
        ("labels", tuple(label_names), dataset.label_names),
    ):
        if planned != found:
            raise PlanError(
                f"the plan's {what} are {list(planned)}, those of {dataset.name} are {list(found)}. "
                f"Run scripts/plan.py --dataset_dir {dataset_dir} and pass its overlay as second config file."
            )
    if part not in ("training", "validation"):
        raise DatasetError(f'part must be "training" or "validation", not "{part}".')
    folds = split_folds(len(dataset.training), num_folds, seed)
    if not 0 <= fold < num_folds:
        raise DatasetError(f"there is no fold {fold}. Pass a --fold from 0 to {num_folds - 1}.")
    held_out = set(folds[fold].tolist())
    wanted = part == "validation"
    return [case for index, case in enumerate(dataset.training) if (index in held_out) == wanted]


def find_images(source: str | os.PathLike[str]) -> list[Case]:
    """Images to predict: one file, or all images directly in a folder.

    Args:
        source: a NIfTI file or a folder of them.

    Returns:
        ``[{"image": path}, ...]`` sorted by name.

    Raises:
        DatasetError: if nothing is there.
    """
    path = Path(source)
    if path.is_file():
        if not path.name.lower().endswith(IMAGE_SUFFIXES):
            raise CaseError(
                case_name(path),
                f"{path.name} is not a NIfTI file",
                f"Convert it to one of {', '.join(IMAGE_SUFFIXES)}.",
            )
        return [{"image": str(path.resolve())}]
    if not path.is_dir():
        raise DatasetError(f"{path} does not exist. Pass --input with an image or a folder.")
    # a leading dot hides temporary files and the "._x" files that macOS leaves in archives
    images = sorted(
        file
        for file in path.iterdir()
        if file.name.lower().endswith(IMAGE_SUFFIXES)
        and not file.name.startswith(".")
        and file.is_file()
    )
    if not images:
        raise DatasetError(f"{path} holds no image ({', '.join(IMAGE_SUFFIXES)}).")
    names = [case_name(file) for file in images]
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        raise DatasetError(f"{path} holds {', '.join(doubles)} more than once.")
    return [{"image": str(file.resolve())} for file in images]


def apply_to_case(
    case: Mapping[str, Any], transform: Callable[[Mapping[str, Any]], Any]
) -> dict[str, Any]:
    """Run the preprocessing on one case; a file that cannot be read becomes an error that names the case.

    Args:
        case: paths of the raw files.
        transform: the composed preprocessing.

    Returns:
        The transformed dictionary.

    Raises:
        CaseError: if a file is damaged, or whatever user error the transforms found.
    """
    try:
        return transform(case)
    except BundleError:
        raise
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, BundleError):
            raise cause from None
        if "LoadImaged" in str(error):
            files = ", ".join(Path(str(path)).name for path in case.values())
            raise CaseError(
                case_name(str(case["image"])),
                f"cannot read {files} ({type(cause).__name__}: {first_line(cause)})",
                "Replace the damaged file.",
            ) from error
        raise


class RawDataset(Dataset):
    """MONAI's Dataset of raw cases whose errors name the case (``monai.data.Dataset`` wraps them in its own)."""

    def _transform(self, index: int) -> Any:
        return apply_to_case(self.data[index], self.transform)
