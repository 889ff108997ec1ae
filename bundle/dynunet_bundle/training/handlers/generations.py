"""The last two states of a training on disk: after a crash during a save, the other one can still be read.

MONAI's CheckpointSaver writes in place, so such a crash destroys the last good file.
"""

import logging
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from dynunet_bundle.errors import OutputError, WeightsError, first_line
from dynunet_bundle.files import atomic_write, remove_leftovers
from dynunet_bundle.networks.model_json import CHECKPOINTS
from dynunet_bundle.networks.tensor_file import load_tensors

LAST, PREVIOUS_NAME = CHECKPOINTS

logger = logging.getLogger(__name__)


def save_generation(folder: Path, state: Mapping[str, Any]) -> None:
    """Write the newest state; the one before becomes the previous generation.

    Raises:
        OutputError: if the disk is full or the folder is not writable; both generations then stay unchanged.
    """
    last = folder / LAST
    with atomic_write(last) as file:
        torch.save(dict(state), file)
        file.flush()
        # some file systems report a full disk only here
        os.fsync(file.fileno())
        if last.exists():
            os.replace(last, folder / PREVIOUS_NAME)


def load_generation(folder: Path, is_main: bool = True) -> dict[str, Any] | None:
    """The newest readable state, on the CPU, or None without any file.

    Args:
        folder: the folder of the checkpoints.
        is_main: whether this process may move a damaged file aside; the others only read.

    Raises:
        WeightsError: if there are files, but none can be read.
    """
    if is_main:
        for name in (LAST, PREVIOUS_NAME):
            remove_leftovers(folder, f"{name}.")
    damaged: dict[Path, str] = {}
    for path in (folder / LAST, folder / PREVIOUS_NAME):
        if not path.is_file():
            continue
        try:
            state = dict(load_tensors(path))
        except Exception as error:  # noqa: BLE001 - torch raises many kinds for a damaged file
            damaged[path] = first_line(error)
            continue
        for bad, reason in damaged.items():
            logger.warning("%s is damaged (%s); loading the previous state instead", bad, reason)
            if is_main:
                # otherwise it would replace the good generation at the next save
                with suppress(OSError):
                    os.replace(bad, bad.with_suffix(".damaged"))
        return state
    if damaged:
        faults = "; ".join(f"{path} ({reason})" for path, reason in damaged.items())
        raise WeightsError(
            f"no state of the training can be read: {faults}. Restore one of the files, or start over with "
            "--restart True, which keeps them."
        )
    return None


def set_aside(files: list[Path], folder: Path, keep: tuple[str, ...] = ()) -> Path | None:
    """Move the files of an earlier run into the first free ``earlier_run_N`` of a folder.

    Args:
        files: files of the run; missing ones are skipped.
        folder: parent of the new folder.
        keep: names of files to copy instead of move: weights may be in use.

    Returns:
        The new folder, or None if all files are missing.

    Raises:
        OutputError: if the files cannot be moved.
    """
    present = [file for file in files if file.is_file()]
    if not present:
        return None
    number = 1
    while (folder / f"earlier_run_{number}").exists():
        number += 1
    aside = folder / f"earlier_run_{number}"
    try:
        aside.mkdir(parents=True)
        for file in present:
            # the folders may be on different disks
            (shutil.copy2 if file.name in keep else shutil.move)(file, aside / file.name)
    except OSError as error:
        raise OutputError(
            f"cannot move the earlier run to {aside}: {error.strerror or error}. "
            "Free space, or choose other folders."
        ) from error
    return aside
