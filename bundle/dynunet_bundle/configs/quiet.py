"""``python -m monai.bundle`` without messages that a user cannot act on: ``python -m dynunet_bundle.configs.quiet``.

MONAI warns of each config that it parses, whoever wrote it, and repeats its arguments; SECURITY.md says how configs are
checked here. The commands hide these messages and say so once; ``--verbose`` shows them.
"""

import logging
import os
import runpy
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

VERBOSE = "DYNUNET_BUNDLE_VERBOSE"
"""Environment variable that shows all messages, also of processes that a command starts."""

TOLD = "DYNUNET_BUNDLE_TOLD"
"""Environment variable of the processes that a command starts: the command tells that messages are hidden."""

WARNINGS = (
    "parsing config_file",
    "NvImgCodecPydicomReader",
    "Grad strides do not match bucket view strides",
    "Detected call of `lr_scheduler.step",
    "torch.searchsorted(): input value tensor is non-contiguous",
)
"""Starts of warnings of MONAI and torch that need no action."""

LINES = (
    "Setting logging properties",
    "Not all config files are in",
    "--- input summary",
    "> ",
    "---",
)
"""Starts of log lines of MONAI's bundle commands that need no action."""

MONAI_LOGGERS = ("monai.bundle.scripts", "monai.bundle.workflows")

logger = logging.getLogger("dynunet_bundle.configs.quiet")

_HIDDEN: list["HiddenMessages"] = []  # of this process, until it is told


class HiddenMessages(logging.Filter):
    """What is hidden of a process: a filter of log records, and of warnings.

    Attributes:
        count: number of hidden messages.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self._show = warnings.showwarning
        warnings.showwarning = self._warn
        handler = logging.StreamHandler(sys.stderr)
        handler.addFilter(self)
        for name in MONAI_LOGGERS:
            # MONAI gives a logger a handler only if nobody has made the logger
            logging.getLogger(name).addHandler(handler)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is shown."""
        is_noise = record.getMessage().startswith(LINES) and record.levelno <= logging.WARNING
        self.count += is_noise
        return not is_noise

    def _warn(self, message: Warning | str, *arguments: Any, **more: Any) -> None:
        if str(message).startswith(WARNINGS):
            self.count += 1
        else:
            self._show(message, *arguments, **more)


def hide_noise() -> HiddenMessages | None:
    """Hide such messages in this process, unless the environment asks for all."""
    return None if os.environ.get(VERBOSE) else HiddenMessages()


def tell_hidden() -> None:
    """Tell once that messages were hidden: before the last result of a command, else at its end."""
    hidden, _HIDDEN[:] = list(_HIDDEN), []
    if any(one.count for one in hidden) and not os.environ.get(TOLD):
        logger.info("messages of MONAI and torch are not shown; --verbose shows all")


@contextmanager
def hidden_noise() -> Iterator[None]:
    """Hide such messages during the block, and tell it by its end."""
    hidden = hide_noise()
    _HIDDEN[:] = [] if hidden is None else [hidden]
    try:
        yield
    finally:
        tell_hidden()


if __name__ == "__main__":
    with hidden_noise():
        runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
