"""The request of a dynunet-bundle train command line, checked before anything runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynunet_bundle.configs.command import read_texts, require_plan
from dynunet_bundle.configs.overrides import check_overrides
from dynunet_bundle.configs.usage import Usage
from dynunet_bundle.errors import ConfigError, counted

ALL = "all"
FOLD_IDS = {
    "bundle_root": "the bundle beside scripts/",
    "ckpt_dir": "--output_dir",
    "config_file": "--config_file",
    "fold": "--fold or --folds",
    "masks_dir": "--output_dir",
    "output_dir": "--output_dir",
    "rank": "--processes",
    "weights_file": "--output_dir",
    "world_size": "--processes",
}
"""Ids that dynunet-bundle train sets for each fold, with the option that determines each."""


@dataclass(frozen=True)
class FoldsRequest:
    """Folds to train, and how.

    Attributes:
        bundle: the bundle folder.
        dataset_dir: folder of the data set.
        out: the run folder.
        overlays: task overlay and recipes; later ones override earlier ones.
        folds: numbers of folds, or ``["all"]`` for every fold.
        fold: one number, or ``"all"`` to train on every case; takes precedence over ``folds``.
        num_processes: number of GPUs, or of CPU processes, that train one model.
        numa_binding: binds each process to cores near its GPU, as torchrun's ``--numa-binding``; None: not bound.
        settings: ids set by dedicated options.
        overrides: further ``--id value`` pairs in command-line form.
        collect_only: train nothing; only score finished folds and summarise.
        trust: accept code in overlays and overrides.
    """

    bundle: Path
    dataset_dir: Path
    out: Path
    overlays: tuple[Path, ...] = ()
    folds: tuple[str, ...] = (ALL,)
    fold: str | None = None
    num_processes: int = 1
    numa_binding: str | None = None
    settings: Mapping[str, Any] | None = None
    overrides: tuple[str, ...] = ()
    collect_only: bool = False
    trust: bool = False


def chosen_folds(fold: str | None, folds: Sequence[str], num_folds: int) -> list[int]:
    """Numbers of the folds to train.

    Args:
        fold: one number, or None.
        folds: numbers, or ``["all"]``; not used if ``fold`` is given.
        num_folds: number of folds.

    Raises:
        ConfigError: for a fold that does not exist.
    """
    wanted = list(folds) if fold is None else [fold]
    if wanted == [ALL]:
        return list(range(num_folds))
    numbers = sorted({int(text) for text in wanted if text.isdecimal()})
    unknown = [text for text in wanted if not text.isdecimal() or int(text) >= num_folds]
    if unknown:
        raise ConfigError(
            f"there is no fold {unknown[0]}, only {counted(num_folds, 'fold')}. "
            f"Pass numbers from 0 to {num_folds - 1}, or all."
        )
    return numbers


def parse_overrides(
    words: Sequence[str],
    known: set[str],
    own: Mapping[str, str] = FOLD_IDS,
    usages: Sequence[Usage] = (),
) -> dict[str, Any]:
    """Parse ``--id value`` pairs as MONAI's command line does.

    Args:
        words: ``["--epochs", "3", "--amp=False", ...]``.
        known: top-level ids of the configs.
        own: ids that must not be given, each with the option that sets it.
        usages: the runs that get them; each id is for one of these at least.

    Returns:
        Values by id, each of the type that the id holds.

    Raises:
        ConfigError: for an unknown id, one of ``own``, one that no run uses, a value without an id, one of a wrong type
            or out of range, or a plan whose ids do not fit each other.
    """
    line = check_overrides(["run", *words], known)
    if "run_id" in line.texts:
        raise ConfigError(
            f'"{line.texts["run_id"]}" does not follow an option. Pass ids as --id value.'
        )
    for name in line.texts:
        if name in own:
            raise ConfigError(f"{name} is set by {own[name]}. Leave out --{name}.")
    values = read_texts(line.texts, usages)
    require_plan(usages[0].config if usages else {}, values)
    return values
