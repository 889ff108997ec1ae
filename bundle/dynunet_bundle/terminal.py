"""Text that leaves the program: escaped control characters, quiet ends of streams, progress of long jobs."""

import atexit
import errno
import io
import logging
import os
import shlex
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

T = TypeVar("T")

logger = logging.getLogger(__name__)

LINE_INTERVAL_S = 10.0  # seconds between two lines of progress

PACKAGE = __name__.partition(".")[0]
LAYOUT = "\n\t"
"""Control characters that a text of several lines may contain."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""A full disk, a full quota, a limit of the process."""


def printable(text: object, keep: str = "") -> str:
    r"""Escape what ``str.isprintable`` refuses, as ``repr`` does: ``"a\x1b[2J"`` becomes ``r"a\x1b[2J"``.

    These are control characters, line breaks, marks that reverse the direction of text, and the surrogates that stand
    for bytes of a file name outside UTF-8. A name with them could clear a terminal or forge a line of a log.

    Args:
        text: a name, or anything that can be shown as text.
        keep: characters that stay as they are.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or character in keep
        else character.encode("unicode_escape").decode()
        for character in text
    )


def next_command(name: str, **options: object) -> str:
    """The line that tells a user how to go on.

    Args:
        name: name of the command.
        options: its options.
    """
    words = [f"--{option} {shlex.quote(str(value))}" for option, value in options.items()]
    return f"next: {' '.join(['dynunet-bundle', name, *words])}"


class ClosedStreamError(BrokenPipeError):
    """The reader of a standard stream is gone; a BrokenPipeError may also be about a process that died."""


class PrintableStream(io.TextIOWrapper):
    """A text stream that escapes control characters; line breaks, tabs and progress bars remain."""

    original: io.TextIOWrapper | None = None
    is_broken = False

    def write(self, text: str) -> int:
        """Write ``text``; a progress bar starts with a carriage return."""
        start = "\r" if text.startswith("\r") else ""
        with self._watched():
            return super().write(start + printable(text.removeprefix(start), LAYOUT))

    def flush(self) -> None:
        """Flush; this tells of a closed pipe also where argparse has ignored it."""
        with self._watched():
            if self.is_broken:
                raise BrokenPipeError
            super().flush()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError as error:
            self.is_broken = True
            raise ClosedStreamError(*error.args) from error


class PrintableRecord(logging.LogRecord):
    """A log record whose message has no control characters; arguments of this package's messages fit on a line."""

    def getMessage(self) -> str:  # noqa: N802 - the name is logging's
        """Merge the arguments into the message."""
        if self.args and self.name.partition(".")[0] == PACKAGE:
            if isinstance(self.args, tuple):
                self.args = tuple(map(_printable_argument, self.args))
        return printable(super().getMessage(), LAYOUT)


def _printable_argument(argument: Any) -> Any:
    is_text = isinstance(argument, (str, os.PathLike, BaseException))
    return printable(argument) if is_text else argument


def protect_terminal() -> None:
    """Prepare the standard streams and the logs of this process; for commands, not for servers that import the bundle.

    Control characters are escaped, characters outside the encoding of the terminal are replaced, and a closed or full
    stream causes no traceback: a log line is lost, and the work goes on.
    """
    logging.setLogRecordFactory(PrintableRecord)
    logging.raiseExceptions = False
    threading.excepthook = _thread_failed
    # Python 3.13 and later colour tracebacks and help by control characters
    os.environ.setdefault("NO_COLOR", "1")
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        # a test or a server may have replaced it, or this function may have
        if type(stream) is io.TextIOWrapper:
            setattr(sys, name, _protected(stream))
    atexit.register(flush_quietly)


def _protected(stream: io.TextIOWrapper) -> PrintableStream:
    stream.flush()
    protected = PrintableStream(
        stream.buffer,
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
    # it would close the buffer that both have when it goes
    protected.original = stream
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is stream:
            handler.setStream(protected)
    return protected


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    """Report a failed thread, unless it could not write: TensorBoard raises that error again in the main thread."""
    error = failure.exc_value
    if not (isinstance(error, OSError) and error.errno in NO_ROOM):
        threading.__excepthook__(failure)


def flush_quietly() -> None:
    """Flush the standard streams; what a closed or full one cannot take is dropped, else Python reports it at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)
            if isinstance(stream, PrintableStream):
                stream.is_broken = False


def progress(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """Yield ``items`` and show the progress: a bar on a terminal, a plain line every few seconds elsewhere.

    Args:
        items: anything to iterate over.
        what: short name of the job.
        total: number of items.
    """
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, desc=what, total=total, unit="case")
        return
    last = time.monotonic()
    for count, item in enumerate(items, start=1):
        now = time.monotonic()
        if now - last >= LINE_INTERVAL_S or count == total:
            logger.info("%s: %d of %d", what, count, total)
            last = now
        yield item
