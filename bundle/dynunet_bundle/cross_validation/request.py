"""The request of a scripts/train.py command line, checked before anything runs."""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynunet_bundle.configs.overrides import check_overrides
from dynunet_bundle.errors import ConfigError

ALL = "all"
FOLD_IDS = {
    "bundle_root": "the bundle beside scripts/",
    "ckpt_dir": "--out",
    "config_file": "--task_config",
    "fold": "--fold or --folds",
    "masks_dir": "--out",
    "output_dir": "--out",
    "rank": "--gpus",
    "weights_file": "--out",
    "world_size": "--gpus",
}
"""Ids that scripts/train.py sets for each fold, with the option that determines each."""


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
            f"there is no fold {unknown[0]}, only {num_folds} folds. "
            f"Pass numbers from 0 to {num_folds - 1}, or all."
        )
    return numbers


def parse_overrides(
    arguments: Sequence[str], known: set[str], own: Mapping[str, str] = FOLD_IDS
) -> dict[str, Any]:
    """Parse ``--id value`` pairs as MONAI's command line does.

    Args:
        arguments: ``["--epochs", "3", "--amp=False", ...]``.
        known: top-level ids of the configs.
        own: ids that must not be given, each with the option that sets it.

    Returns:
        Values by id; a value that is not a Python literal is text.

    Raises:
        ConfigError: for an unknown id, one of ``own``, or a value without an id.
    """
    check_overrides(arguments, known)
    values: dict[str, Any] = {}
    name = None
    for argument in arguments:
        if argument.startswith("--"):
            name, has_value, value = argument[2:].partition("=")
            name = name.replace("-", "_")
            if name in own:
                raise ConfigError(f"{name} is set by {own[name]}. Leave out --{name}.")
            values[name] = _literal(value) if has_value else True
            name = None if has_value else name
        elif name is None:
            raise ConfigError(f'"{argument}" does not follow an option. Pass ids as --id value.')
        else:
            values[name], name = _literal(argument), None
    return values


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
