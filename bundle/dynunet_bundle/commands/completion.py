"""Completion of commands and options in a shell, by argcomplete.

pip install argcomplete
eval "$(register-python-argcomplete dynunet-bundle)"
"""

import argparse

from dynunet_bundle.commands.main import COMMANDS, PROGRAM
from dynunet_bundle.commands.parser import CommandParser, command_module


def complete_line() -> None:
    """Answer a shell that asks for completions and end; return at once if argcomplete is not installed."""
    try:
        import argcomplete
    except ImportError:
        return
    parser = argparse.ArgumentParser(prog=PROGRAM)
    parser.add_argument("--version", action="store_true")
    commands = parser.add_subparsers(parser_class=CommandParser)
    for name, text in COMMANDS.items():
        command_module(name).add_arguments(commands.add_parser(name, help=text))
    argcomplete.autocomplete(parser)
