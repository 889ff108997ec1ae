"""``dynunet-bundle COMMAND ...``: find the command, parse its options, run it, end with its exit code.

Only the module of the command is imported. A script in ``scripts/`` calls ``run_script`` with the name of its command.
"""

import os
import sys
from collections.abc import Sequence

from dynunet_bundle.errors import ConfigError, user_errors_exit

PROGRAM = "dynunet-bundle"

COMMANDS = {
    "download": "fetch a data set of the Medical Segmentation Decathlon",
    "phantom": "write a small synthetic data set, to try the other commands",
    "check": "report all problems of a data set",
    "plan": "analyse a data set and write its task overlay",
    "draw-plan": "draw a plan as a picture",
    "prepare": "prepare all cases of a data set; training does it as well",
    "preview": "draw training patches as a picture",
    "train": "train one model or the folds of a cross-validation",
    "status": "show the state of trainings",
    "find-best": "find the best configuration and its rules for components",
    "predict": "predict one mask per image",
    "ensemble": "average the probabilities of several models",
    "postprocess": "apply rules for components to masks that exist",
    "evaluate": "score masks against reference masks",
    "report": "write a page with pictures of masks, their flags and scores",
    "compare": "compare two evaluations case by case",
    "export": "write a model as TorchScript, ONNX, a TensorRT engine or for nnU-Net",
    "package": "package a model as a standalone MONAI bundle",
    "install": "install a package from its zip, for predict --model NAME",
    "verify": "check that a bundle is ready for its clients",
    "import-nnunet": "make a package of a model that was trained with nnU-Net v2",
    "federate": "write the job of a federated training for NVFlare",
    "slurm": "print an sbatch script for a training; slurm predict, for a prediction",
}
"""Commands in the order of their use, with one line of help. A command is the module of its name in this room."""

SECOND_WORDS = {("slurm", "predict"): "slurm-predict"}
"""Commands of two words, with their modules. A data set of the name of the second word is ``./NAME``."""


def overview() -> str:
    """The help of the program: its usage, and the commands with what they do."""
    width = max(map(len, COMMANDS)) + 2
    rows = (f"  {name:{width}}{text}" for name, text in COMMANDS.items())
    return "\n".join(
        [
            f"usage: {PROGRAM} [-h] [--version] COMMAND ...",
            "",
            "Segmentation of medical images with a MONAI bundle that configures itself to a data set.",
            "",
            "commands:",
            *rows,
            "",
            f"{PROGRAM} COMMAND --help describes a command.",
        ]
    )


def run_command(name: str, words: Sequence[str], program: str | None = None) -> int:
    """Parse the options of a command and run it.

    Args:
        name: a key of ``COMMANDS``.
        words: its arguments.
        program: what its help shows as the program; ``dynunet-bundle NAME`` by default.

    Returns:
        The exit code.

    Raises:
        BundleError: for errors that the user can correct.
        SystemExit: for wrong arguments, and for ``--help``.
    """
    import logging

    from dynunet_bundle.commands.parser import command_module, command_parser
    from dynunet_bundle.configs.quiet import VERBOSE, hidden_noise
    from dynunet_bundle.terminal import LevelFormatter

    handler = logging.StreamHandler()
    handler.setFormatter(LevelFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    program = program or f"{PROGRAM} {name}"
    if (name, *words[:1]) in SECOND_WORDS:
        name, program, words = SECOND_WORDS[name, words[0]], f"{program} {words[0]}", words[1:]
    arguments = command_parser(name, program).parse_words(words)
    if vars(arguments).pop("verbose"):
        os.environ[VERBOSE] = "1"
    with hidden_noise():
        return command_module(name).run(arguments) or 0


def run_program(words: Sequence[str] | None = None) -> int:
    """Run ``dynunet-bundle`` with arguments; those of the process by default. Returns the exit code.

    Raises:
        ConfigError: for an unknown command.
    """
    name, *rest = words or sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(overview())
        return 0
    if name == "--version":
        from dynunet_bundle import __version__

        print(__version__)
        return 0
    if name.replace("_", "-") not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise ConfigError(
            f'there is no command "{name}". {hint}{PROGRAM} --help lists the commands.'
        )
    return run_command(name.replace("_", "-"), rest)


def console() -> None:
    """The console script ``dynunet-bundle``."""
    with user_errors_exit():
        if "_ARGCOMPLETE" in os.environ:
            from dynunet_bundle.commands.completion import complete_line

            complete_line()
        sys.exit(run_program())


def run_script(name: str) -> None:
    """A script of ``scripts/``: one command."""
    with user_errors_exit():
        code = run_command(name, sys.argv[1:], sys.argv[0].rpartition("/")[2])
        if code:
            sys.exit(code)
