"""Text that leaves the program: escaped control characters, quiet ends of streams, progress of long jobs."""

import atexit
import errno
import io
import logging
import os
import re
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

T = TypeVar("T")

logger = logging.getLogger(__name__)

LINE_INTERVAL_S = 10.0
"""Time between the first two lines of progress. It doubles up to ``MAX_INTERVAL_S``: logs of long jobs stay short."""

MAX_INTERVAL_S = 80.0

COLOURS = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}
"""Yellow and red, by the level that a line begins with."""

RESET = "\x1b[0m"
LEVEL = re.compile(rf"(\d\d:\d\d:\d\d )?({'|'.join(COLOURS)})\b", re.IGNORECASE)
"""Start of a line of a log, with its time or without."""

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


def say(template: str, *values: object) -> None:
    """Print a result; names and paths in it stay on their line.

    Args:
        template: text for ``str.format``.
        *values: its values, whose control characters are escaped.
    """
    print(template.format(*map(printable, values)))


def tell_start(work: str, **facts: object) -> None:
    """Log the header of a long job: on what it works, where, and where its results go.

    Args:
        work: the job.
        **facts: what a person checks first; a list is shown with commas, sizes with crosses, nothing is left out.
    """
    logger.info(
        "%s: %s", work, "; ".join(f"{name} {_fact(value)}" for name, value in facts.items())
    )


def _fact(value: object) -> str:
    if isinstance(value, (list, tuple)):
        is_size = all(isinstance(part, int) for part in value)
        return (" x " if is_size else ", ").join(map(str, value))
    return str(value)


def next_command(name: str, *words: object, **options: object) -> str:
    """The line that tells a user how to go on.

    Args:
        name: name of the command.
        *words: its arguments by position.
        **options: its options.
    """
    parts = ["dynunet-bundle", name, *(shlex.quote(str(word)) for word in words)]
    parts += [f"--{option} {shlex.quote(str(value))}" for option, value in options.items()]
    return printable(f"next: {' '.join(parts)}")


def clock(seconds: float | None) -> str:
    """``3661.2`` -> ``1:01:01``; ``unknown`` for None."""
    if seconds is None:
        return "unknown"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


class LevelFormatter(logging.Formatter):
    """The message of a log record; that of a warning or an error begins with its level."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        text = super().format(record)
        is_plain = record.levelno < logging.WARNING
        return text if is_plain else f"{record.levelname.lower()}: {text}"


class ClosedStreamError(BrokenPipeError):
    """The reader of a standard stream is gone; a BrokenPipeError may also be about a process that died."""


class PrintableStream(io.TextIOWrapper):
    """A text stream that escapes control characters; line breaks, tabs and progress bars remain."""

    original: io.TextIOWrapper | None = None
    is_broken = False
    has_colours = False
    """Whether lines of warnings and errors are coloured."""

    def write(self, text: str) -> int:
        """Write ``text``; a progress bar starts with a carriage return."""
        start = "\r" if text.startswith("\r") else ""
        with self._watched():
            return super().write(
                start + self._coloured(printable(text.removeprefix(start), LAYOUT))
            )

    def _coloured(self, text: str) -> str:
        level = LEVEL.match(text) if self.has_colours else None
        if level is None:
            return text
        line = text.rstrip("\n")
        return f"{COLOURS[level[2].lower()]}{line}{RESET}{text[len(line) :]}"

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
    # Python 3.13 and later colour tracebacks and help by control characters, which would be escaped
    os.environ.setdefault("PYTHON_COLORS", "0")
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
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    protected.has_colours = stream.name == "<stderr>" and stream.isatty() and not is_plain
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


def progress(
    items: Iterable[T],
    what: str,
    total: int,
    unit: str = "case",
    size: Callable[[T], int] = lambda item: 1,
    has_rate: bool = False,
) -> Iterator[T]:
    """Yield ``items`` and show the progress and the time left: a bar on a terminal, elsewhere a line now and then.

    Args:
        items: anything to iterate over.
        what: short name of the job.
        total: number of units.
        unit: what is counted.
        size: number of units in an item.
        has_rate: whether lines tell the units per hour, as a bar does.
    """
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(desc=what, total=total, unit=unit) as bar:
            for item in items:
                yield item
                bar.update(size(item))
        return
    begun = last = time.monotonic()
    interval, count = LINE_INTERVAL_S, 0
    for item in items:
        yield item
        count += size(item)
        now = time.monotonic()
        if count < total and now - last >= interval:
            left = (now - begun) / count * (total - count)
            rate = f"{count / (now - begun) * 3600:.0f} per hour, " * has_rate
            logger.info("%s: %d of %d, %s%s left", what, count, total, rate, clock(left))
            last, interval = now, min(2 * interval, MAX_INTERVAL_S)
    if count:
        logger.info("%s: %d of %d", what, count, total)
