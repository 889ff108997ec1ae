"""What is checked before a config runs: overrides, folders, the right package, the number of processes."""

import ast
import difflib
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

import dynunet_bundle
from dynunet_bundle.errors import ConfigError, install_excepthook
from dynunet_bundle.files import ensure_writable, read_json

RUN_ARGUMENTS = (
    "run_id",
    "init_id",
    "final_id",
    "meta_file",
    "config_file",
    "logging_file",
    "tracking",
    "tracking_uri",
    "experiment_name",
    "run_name",
    "save_execute_config",
    "args_file",
)
"""Arguments of ``monai.bundle run`` itself, and the ids that its tracking adds."""


def preflight(
    bundle_root: str,
    folders: Sequence[str] = (),
    world_size: int = 1,
    device: torch.device | str = "cpu",
) -> None:
    """Check what would otherwise fail late or silently; the first step of every ``run`` list.

    Args:
        bundle_root: the bundle folder.
        folders: folders that results go to; they are created.
        world_size: number of processes that the config is made for.
        device: where the network is.

    Raises:
        ConfigError: for an override of an unknown id, another copy of the package in this process, torchrun without
            the multi-GPU overlay, or a GPU that is not there.
        OutputError: if a folder cannot be written to.
    """
    if _runs_as_command(sys.argv):
        install_excepthook()
        check_overrides(sys.argv[1:], known_ids(Path(bundle_root) / "configs"))
    require_own_package(bundle_root)
    num_processes = int(os.environ.get("WORLD_SIZE", "1"))
    if num_processes != world_size:
        raise ConfigError(
            f"torchrun started {num_processes} processes, but this config works in one: each would work alone and "
            "overwrite the others' files. To train, pass --config_file "
            "\"['configs/train.json','configs/multi_gpu_train.json']\"; else run it without torchrun."
        )
    require_device(device)
    for folder in folders:
        ensure_writable(folder)


def require_device(device: torch.device | str) -> None:
    """Refuse a device that this machine lacks; torch does so with a page of its own calls.

    Raises:
        ConfigError: for a name that torch does not know, or a GPU that is not there.
    """
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f'device is "{device}". Pass "cpu", or a GPU as "cuda:0".') from error
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted.type == "cuda" and (wanted.index or 0) >= found:
        raise ConfigError(
            f'device is "{wanted}", but this machine has {found} GPUs that torch can use. Pass --device cpu, or '
            "another GPU."
        )


def _runs_as_command(arguments: Sequence[str]) -> bool:
    """Whether this process is ``python -m monai.bundle``, not a server that imported the bundle."""
    return Path(arguments[0]).parts[-3:] == ("monai", "bundle", "__main__.py")


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
            f"brings {version} in {own}. Run them in processes of their own."
        )


def _version_in(path: Path) -> str | None:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__version__":
            return str(ast.literal_eval(node.value))
    return None


def known_ids(config_dir: Path) -> set[str]:
    """Top-level ids of all configs that the bundle ships."""
    files = (file for file in sorted(config_dir.glob("*.json")) if file.name != "metadata.json")
    return {top_level(key) for file in files for key in read_json(file, ConfigError)}


def check_overrides(arguments: Sequence[str], known: set[str]) -> None:
    """Refuse ids that no config has; MONAI adds a misspelt one silently, and it changes nothing.

    Args:
        arguments: command line after the program name.
        known: top-level ids of the configs.

    Raises:
        ConfigError: naming the nearest known id; or for a value of None, which MONAI leaves out without a word.
    """
    _require_values(arguments)
    flags = [argument for argument in arguments if argument.startswith("--")]
    ids = [flag[2:].split("=", 1)[0].replace("-", "_") for flag in flags]
    _require_known((name for name in ids if name not in RUN_ARGUMENTS), known, "the command line")
    for file in _config_files(arguments):
        if Path(file).is_file():
            _require_known(read_json(file, ConfigError), known, file)


def _require_values(arguments: Sequence[str]) -> None:
    pairs = [argument.partition("=")[::2] for argument in arguments]
    for (name, value), (following, _) in zip(pairs, [*pairs[1:], ("", "")], strict=False):
        is_id = name.startswith("--") and name[2:] not in RUN_ARGUMENTS
        if is_id and (value or following) in ("None", "null"):
            raise ConfigError(
                f"{name} {value or following} would change nothing. Pass {name} '$None'."
            )


def _require_known(ids: Iterable[str], known: set[str], where: str) -> None:
    for name in map(top_level, ids):
        if name not in known and name != "_meta_":
            close = difflib.get_close_matches(name, sorted(known), n=1)
            hint = f'did you mean "{close[0]}"?' if close else "see configs/train.json for the ids."
            raise ConfigError(f'{where} sets "{name}", which no config has; {hint}')


def top_level(key: str) -> str:
    """The top-level id that a key of a config or an override belongs to: ``+train#handlers`` -> ``train``."""
    return key.lstrip("+").split("#")[0].split("::")[0]


def _config_files(arguments: Sequence[str]) -> list[str]:
    """Files given by ``--config_file``, as one path or as a list literal."""
    for index, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name == "--config_file":
            text = value or (arguments[index + 1] if index + 1 < len(arguments) else "")
            return list(map(str, ast.literal_eval(text))) if text.startswith(("[", "(")) else [text]
    return []
