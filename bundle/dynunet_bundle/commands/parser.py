"""The parser of a command: argparse with old names of options, a data set by position, and ids of configs.

typer and click load more than the 0.15 s of ``--help`` allow, and neither passes unknown options on in pairs.
"""

import argparse
import importlib
import logging
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from dynunet_bundle.errors import ConfigError
from dynunet_bundle.machine.places import BUNDLE, in_work_folder
from dynunet_bundle.shapes import NUMBER, POSITIVE, number_option

logger = logging.getLogger(__name__)

SHIPPED = BUNDLE / "models" / "model.pt"
OVERLAYS = "overlays, i.e. JSON files of ids and values; later ones win"
UNRECOGNIZED = "unrecognized arguments: "
"""Start of argparse's message about options that a command does not have."""

MISSPELT = 0.8
"""Likeness of a word to an option, as of ``difflib``, from which it counts as that option misspelt."""

TRUST = "accept code in overlays from outside bundle/configs"


def command_module(name: str) -> ModuleType:
    """The module of a command."""
    return importlib.import_module(f"dynunet_bundle.commands.{name.replace('-', '_')}")


def command_parser(name: str, program: str) -> "CommandParser":
    """The parser of a command.

    Args:
        name: name of the command.
        program: how the user calls it.
    """
    module = command_module(name)
    parser = CommandParser(
        prog=program,
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    return parser


def fold_name(text: str) -> str:
    """A fold of the command line as the configs name it: ``full`` is ``all``, every case."""
    return "all" if text == "full" else text


def overlay_file(text: str) -> str:
    """The path of an overlay; a name that no file has is that of a config in the bundle, if there is such a config."""
    shipped = BUNDLE / "configs" / text
    is_name = text == Path(text).name and shipped.is_file() and not Path(text).exists()
    return str(shipped) if is_name else text


class CommandParser(argparse.ArgumentParser):
    """argparse's parser without abbreviations, with the options that several commands share.

    Attributes:
        takes_ids: options that are not known are ids of configs with a value each, in ``arguments.overrides``.
        takes_rest: what is not known is for another command, in ``arguments.rest``.
    """

    takes_ids = False
    takes_rest = False

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._new_names: dict[str, str] = {}
        self._by_position = False
        self.add_argument(
            "--verbose", action="store_true", help="show all messages of MONAI and torch"
        )

    def add_dataset_dir(self, required: bool = True) -> None:
        """The data set, by position or as ``--dataset_dir``.

        Args:
            required: whether the command needs one.
        """
        self._by_position = True
        self._needs_dataset = required
        self.add_argument(
            "dataset",
            nargs="?",
            metavar="DATASET_DIR",
            help="folder of the data set: MSD or nnU-Net layout, or images/ and labels/",
        )
        self.add_argument("--dataset_dir", help="the same as an option")

    def add_config_files(self, what: str = OVERLAYS) -> None:
        """Overlays: ``-c``, ``--config_file``."""
        self.add_argument(
            "-c",
            "--config_file",
            action="extend",
            nargs="+",
            default=[],
            type=overlay_file,
            help=f"{what}; also the name of one in the bundle, e.g. quick.json",
            metavar="FILE",
        )

    def add_trust(self) -> None:
        """The switch for own code."""
        self.add_argument("--trust", action="store_true", help=TRUST)

    def add_training_source(self) -> None:
        """The data set, and what the config of its training is made from, see ``training_workflow``."""
        self.add_dataset_dir()
        self.add_config_files()
        self.add_model("model whose plan and recipe are used", default=None)
        self.add_trust()

    def add_picture(self) -> None:
        """The picture to write: ``-o``, ``--output``."""
        self.add_old_names(out="output")
        self.add_argument("-o", "--output", type=Path, required=True, help="PNG file to write")

    def add_prepared_dir(self) -> None:
        """The folder of the prepared cases."""
        self.add_argument(
            "--prepared_dir",
            default=str(in_work_folder("eval/prepared")),
            help="folder for prepared cases (default: %(default)s)",
        )

    def add_num_workers(self) -> None:
        """Threads of a survey."""
        self.add_argument(
            "--num_workers",
            type=number_option(POSITIVE),
            default=4,
            help="threads that read cases (default: 4)",
        )

    def add_ray(self) -> None:
        """Work on the machines of a Ray cluster, see ``cluster_of``."""
        group = self.add_argument_group("cluster of machines (docs/cluster.md)")
        group.add_argument(
            "--ray",
            metavar="ADDRESS",
            help="Ray cluster that does the work: auto, local for this machine alone, or e.g. ray://HOST:10001",
        )
        group.add_argument(
            "--workers",
            type=number_option(POSITIVE),
            help="number of workers (default: as many as the cluster has room for)",
        )
        group.add_argument(
            "--gpus_per_worker",
            type=number_option(NUMBER),
            help="GPUs of a worker, also a part of one (default: 1 if the cluster has GPUs)",
        )
        group.add_argument(
            "--cpus_per_worker",
            type=number_option(POSITIVE),
            help="cores of a worker (default: 1)",
        )

    def add_device(self) -> None:
        """Where the network runs."""
        self.add_argument(
            "--device", help="device, e.g. cpu or cuda:0 (default: a GPU if there is one)"
        )

    def add_restart(self, what: str) -> None:
        """``--restart``; going on is the default, and ``--continue``, which was an option, says the same.

        Args:
            what: the effect, for the help.
        """
        group = self.add_mutually_exclusive_group()
        group.add_argument("--restart", action="store_true", help=what)
        group.add_argument("--continue", action="store_true", help=argparse.SUPPRESS)

    def add_model(
        self, what: str, default: Path | None = SHIPPED, nargs: str | None = None
    ) -> None:
        """The model: ``-m``, ``--model``.

        Args:
            what: kinds of models, for the help.
            default: the model if the user names none.
            nargs: as for ``add_argument``; None takes one model.
        """
        told = f"{what} (default: the model of the bundle)" if default else what
        self.add_argument("-m", "--model", type=Path, default=default, nargs=nargs, help=told)

    def add_output_dir(self, what: str, default: Path | None = None, required: bool = True) -> None:
        """The folder of results: ``-o``, ``--output_dir``.

        Args:
            what: the files in it, for the help.
            default: the folder if the user names none.
            required: whether the option is required if there is no default.
        """
        self.add_argument(
            "-o",
            "--output_dir",
            type=Path,
            required=required and default is None,
            default=default,
            help=what,
        )

    def add_old_names(self, **new_by_old: str) -> None:
        """Options that had another name; they are taken with a note.

        Args:
            new_by_old: for each old name, without its dashes, the new one.
        """
        self._new_names |= {f"--{old}": f"--{new}" for old, new in new_by_old.items()}

    def old_values(self, **new_by_old: str) -> Callable[[str], str]:
        """A ``type`` for an option whose values had other names; they are taken with a note.

        Args:
            new_by_old: the new value for each old one.
        """

        def read(text: str) -> str:
            new = new_by_old.get(text, text)
            if new != text:
                logger.info("note: %s is now %s", text, new)
            return new

        return read

    def parse_words(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse the arguments of the command.

        Args:
            words: the arguments.

        Returns:
            The values by name; with ``overrides``, the pairs of ids and values, if the command takes ids.
        """
        words = self._renamed(words)
        if self.takes_rest:
            arguments, rest = self.parse_known_args(words)
            arguments.rest = rest
            return arguments
        words, overrides = self._split(words) if self.takes_ids else (words, [])
        # argparse tells of a missing option first, even if the user misspelt its name
        unknown = [name for name in self._option_names(words) if not self._has(name)]
        unknown += [name for name in self._option_names(overrides) if self._is_misspelt(name)]
        if unknown:
            self.error(f"{UNRECOGNIZED}{' '.join(unknown)}")
        arguments = self.parse_args(words)
        if self.takes_ids:
            arguments.overrides = overrides
        if self._by_position:
            self._settle_dataset(arguments)
        return arguments

    def error(self, message: str) -> NoReturn:
        """Refuse the arguments in one line, with the nearest option for one that does not exist.

        Args:
            message: argparse's.

        Raises:
            ConfigError: always.
        """
        unknown = message.partition(UNRECOGNIZED)[2].split()
        names = [word.partition("=")[0] for word in unknown if word.startswith("-")]
        known = self._known() + [f"--{name}" for name in self._ids()]
        close = [near for name in names for near in get_close_matches(name, known, 1)]
        hint = f"Did you mean {close[0]}? " if close else ""
        raise ConfigError(f"{message.rstrip('.')}. {hint}{self.prog} --help lists the options.")

    def _known(self) -> list[str]:
        """Options of the command, those without help excepted."""
        shown = [action for action in self._actions if action.help != argparse.SUPPRESS]
        return [option for action in shown for option in action.option_strings]

    def _has(self, name: str) -> bool:
        return name in self._option_string_actions

    def _ids(self) -> set[str]:
        """Ids that the command takes."""
        if not self.takes_ids:
            return set()
        from dynunet_bundle.configs.overrides import known_ids

        return known_ids(BUNDLE / "configs")

    def _is_misspelt(self, name: str) -> bool:
        """Whether an option that is not an id of the configs looks like one of the command."""
        if not get_close_matches(name, self._known(), 1, MISSPELT):
            return False
        from dynunet_bundle.configs.overrides import top_level

        return top_level(name.removeprefix("--")) not in self._ids()

    @staticmethod
    def _option_names(words: Sequence[str]) -> list[str]:
        """The long options among arguments, without their values."""
        options = words[: words.index("--")] if "--" in words else words
        return [word.partition("=")[0] for word in options if word.startswith("--")]

    def _renamed(self, words: Sequence[str]) -> list[str]:
        renamed = []
        for word in words:
            name, equals, value = word.partition("=")
            new = self._new_names.get(name, name)
            if new != name:
                logger.info("note: %s is now %s", name, new)
            renamed.append(f"{new}{equals}{value}")
        return renamed

    def _split(self, words: Sequence[str]) -> tuple[list[str], list[str]]:
        """Own arguments, and the ids with their values."""
        own: list[str] = []
        ids: list[str] = []
        waiting = list(words)
        while waiting:
            word = waiting.pop(0)
            name = word.partition("=")[0]
            if not word.startswith("--") or name in self._option_string_actions:
                own.append(word)
                continue
            ids.append(word)
            if "=" not in word and waiting and not waiting[0].startswith("--"):
                ids.append(waiting.pop(0))
        return own, ids

    def _settle_dataset(self, arguments: argparse.Namespace) -> None:
        given = [
            folder for folder in (arguments.dataset, arguments.dataset_dir) if folder is not None
        ]
        if len(given) > 1:
            raise ConfigError(
                f"two data sets are given, {given[0]} and {given[1]}. Pass the folder once."
            )
        if not given and self._needs_dataset:
            self.error("the data set is missing: pass its folder")
        arguments.dataset_dir = given[0] if given else None
        del arguments.dataset
