"""Checks before a config runs: overlays, overrides, folders, the package, the number of processes."""

import ast
import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import dynunet_bundle
from dynunet_bundle.configs.code_check import require_safe
from dynunet_bundle.configs.command import corrected_texts
from dynunet_bundle.configs.command_line import runs_as_command
from dynunet_bundle.configs.overrides import check_overrides, known_ids
from dynunet_bundle.dataset.case_parts import Part, part_name
from dynunet_bundle.dicom_input.archives import remove_dead_extractions
from dynunet_bundle.errors import ConfigError, install_excepthook
from dynunet_bundle.files import ensure_writable
from dynunet_bundle.machine.locks import claim
from dynunet_bundle.machine.places import BUNDLE
from dynunet_bundle.terminal import tell_start


def check_command() -> None:
    """Check the command line and the overlays: ``preflight#command`` of train.json, evaluate.json and inference.json.

    It refers to no id, and is in the list ``initialize``, so that MONAI builds it before all other components.

    A value that MONAI has read as a text, such as ``--restart false``, is read as what the id holds. The command then
    runs again with it, in this process.

    Raises:
        ConfigError: for an override of an unknown id or one that this run does not use, a value of a wrong type or out
            of range, or an overlay with code of its own (``code_check.py``) without ``--trust``.
    """
    if not runs_as_command(sys.argv):
        return
    install_excepthook()
    configs = BUNDLE / "configs"
    known = known_ids(configs)
    line = check_overrides(sys.argv[1:], known)
    require_safe(line.config_files, configs, trust=line.is_trusted)
    texts = corrected_texts(line, known)
    if texts:
        # of two equal options, the last one counts
        sys.argv += [f"--{name}={text}" for name, text in texts.items()]
        runpy.run_module("monai.bundle", run_name="__main__")
        raise SystemExit(0)


def preflight(
    bundle_root: str,
    folders: Sequence[str] = (),
    world_size: int = 1,
    device: torch.device | str = "cpu",
    command: None = None,
    claims: Sequence[str] = (),
    kind: str = "training",
    plan: Mapping[str, Any] | None = None,
    part: Part | None = None,
    search_path: None = None,
) -> None:
    """Find faults that would appear late or never: ``preflight`` of train.json, evaluate.json and inference.json.

    It is the first step of every ``run`` list.

    Args:
        bundle_root: the bundle folder.
        folders: folders for results; they are created.
        world_size: number of processes that the config expects.
        device: device of the network.
        command: result of ``check_command``, which MONAI builds first.
        claims: folders that only one run may use at a time; the first process of a run claims them.
        kind: name of the work; claims of different kinds are independent.
        plan: ids of the plan, for the header in the log.
        part: number of a part of the cases, and the number of parts; parts may work in a folder at the same time.
        search_path: result of the expression that adds the bundle to ``sys.path``: the first item of ``initialize``.
            MONAI itself adds it only in ``run``, so its ``load`` and ``create_workflow`` would find no component.

    Raises:
        BusyError: if another process works in one of the folders.
        ConfigError: for another copy of the package in this process, torchrun without the multi-GPU overlay, or a GPU
            that this machine lacks.
        OutputError: if a folder cannot be written to.
    """
    require_own_package(bundle_root)
    num_processes = int(os.environ.get("WORLD_SIZE", "1"))
    if num_processes != world_size:
        raise ConfigError(
            f"torchrun started {num_processes} processes, but this config works in one: each would work alone and "
            "overwrite the others' files. To train, pass --config_file "
            "\"['configs/train.json','configs/multi_gpu_train.json']\"; else run it without torchrun."
        )
    require_device(device)
    # a run that was killed may have left images of a patient
    remove_dead_extractions()
    for folder in folders:
        ensure_writable(folder)
    if int(os.environ.get("RANK", "0")) == 0:
        for folder in claims:
            claim(folder, kind if part is None else f"{kind}_{part_name(part)}")
        if plan is not None:
            # names alone: the path of a folder may name a patient, and logs are sent around
            places = [Path(folder).resolve().name for folder in folders]
            task, patch = plan["task_name"], list(plan["patch_size"])
            tell_start(kind, task=task, patch=patch, device=device, folders=places)


def require_device(device: torch.device | str) -> None:
    """Refuse a device that this machine lacks; torch would print a page of calls.

    Raises:
        ConfigError: for a name that torch does not know, or a GPU that is not there.
    """
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f'device is "{device}". Pass "cpu", or a GPU as "cuda:0".') from error
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    # torch keeps 8 bits of the number: 999 is -25
    if wanted.type == "cuda" and not 0 <= (wanted.index or 0) < found:
        raise ConfigError(
            f'device is "{device}", but this machine has {found} GPUs that torch can use. Pass --device cpu, or '
            "another GPU."
        )


def require_own_package(bundle_root: str) -> None:
    """Refuse to run with another version's code, e.g. when two bundles are loaded by one server."""
    imported = Path(dynunet_bundle.__file__).resolve().parent
    own = Path(bundle_root).resolve() / "dynunet_bundle"
    if own == imported or not own.is_dir():
        return
    version = _version_in(own / "__init__.py")
    if version != dynunet_bundle.__version__:
        raise ConfigError(
            f"this process uses dynunet_bundle {dynunet_bundle.__version__} from {imported}, but the bundle "
            f"contains {version} in {own}. Run the two in separate processes."
        )


def _version_in(path: Path) -> str | None:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__version__":
            return str(ast.literal_eval(node.value))
    return None
