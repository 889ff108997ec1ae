"""The command line of ``python -m monai.bundle``, read as MONAI reads it, with the files of ``--args_file``.

Fire accepts ``--config_file x``, ``--config-file=x``, repeated options and positional arguments. A parser of our own
would differ from it somewhere, and would then check other files than those that MONAI merges. So Fire itself parses
the arguments here, and calls a stand-in that only records them.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import fire
from fire.decorators import SetParseFn
from fire.parser import DefaultParseValue, SeparateFlagArgs
from monai import bundle
from monai.bundle.scripts import update_kwargs

from dynunet_bundle.errors import ConfigError
from dynunet_bundle.shapes import excerpt

COMMANDS = ("run", "run_workflow", "create_workflow")
"""Functions of ``monai.bundle`` that take a whole config with its overrides."""


class CommandLine(NamedTuple):
    """What a command line of ``monai.bundle`` gives to MONAI."""

    texts: Mapping[str, str]
    """Texts of the command line itself by argument or id, as they were typed."""

    settings: Mapping[str, Any]
    """Values by argument or id; the command line takes precedence over the files of ``--args_file``."""

    @property
    def config_files(self) -> list[str]:
        """Files of ``--config_file``: one path, a list, or paths separated by commas, as MONAI takes them."""
        files = self.settings.get("config_file") or []
        if isinstance(files, str):
            return [files] if Path(files).is_file() else files.split(",")
        return list(map(str, files))

    @property
    def is_trusted(self) -> bool:
        """Whether the command line has ``--trust``, ``--trust True`` or ``--trust=1``.

        An overlay cannot set it, nor can an args file: they may be what is not to be trusted.
        """
        return self.texts.get("trust") in ("", "1", "True", "true")


def read_command_line(arguments: Sequence[str]) -> CommandLine:
    """Read a command line.

    Args:
        arguments: command line after the program name; the name of the command may be left out.

    Raises:
        ConfigError: if a file of ``--args_file`` is missing or malformed.
    """
    texts = _recorded(arguments)
    values = {name: DefaultParseValue(text) for name, text in texts.items()}
    try:
        settings = update_kwargs(args=values.pop("args_file", None), **values)
        # MONAI gives back a content that is not an object as it is
        return CommandLine(texts, dict(settings.items()))
    except Exception as error:  # MONAI, json and yaml raise many kinds
        raise ConfigError(
            f"--args_file {texts['args_file']} cannot be read: {excerpt(str(error))}. "
            "Pass a JSON file with an object: the arguments and ids by name."
        ) from error


def _recorded(arguments: Sequence[str]) -> dict[str, str]:
    """Arguments by name, as texts; empty for a command that is not among ``COMMANDS``."""
    found: dict[str, str] = {}

    def stand_in(function: Callable[..., Any]) -> Callable[..., None]:
        @SetParseFn(str)
        @wraps(function)
        def record(*values: str | None, **named: str) -> None:
            given = signature(function).bind(*values, **named).arguments
            given |= given.pop("override", None) or given.pop("kwargs", None) or {}
            found.update({name: text for name, text in given.items() if isinstance(text, str)})

        return record

    command, _ = SeparateFlagArgs(list(arguments))
    if not command or command[0].startswith("-"):
        command = ["run", *command]
    functions = {name: stand_in(getattr(bundle, name)) for name in COMMANDS}
    # Fire prints help or a complaint and exits, which is the matter of the real command
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), suppress(SystemExit):
        fire.Fire(functions, command=command)
    return found


def runs_as_command(arguments: Sequence[str]) -> bool:
    """Whether this process is ``python -m monai.bundle``, not a server that imported the bundle.

    Args:
        arguments: ``sys.argv``.
    """
    return Path(arguments[0]).parts[-3:] == ("monai", "bundle", "__main__.py")
