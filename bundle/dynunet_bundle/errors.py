"""Errors that a user can correct, printed as one line without a traceback, with exit code 2 or 1."""

import errno
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from types import TracebackType
from typing import NoReturn

from dynunet_bundle.terminal import (
    NO_ROOM,
    ClosedStreamError,
    flush_quietly,
    printable,
    protect_terminal,
)

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_STOPPED = 75
"""Stopped by a signal and resumable; EX_TEMPFAIL of sysexits.h."""

EXIT_INTERRUPTED = 130
"""Ctrl-C where nothing can be resumed; 128 + SIGINT, as shells have it."""

EXIT_CLOSED_PIPE = 141
"""The reader of the output is gone, as in ``| head``; 128 + SIGPIPE, as shells have it."""

REFUSED_PATHS = (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EISDIR)
"""Reasons for which the system refuses a path: too long, a loop of links, no permission, a folder for a file."""

STOP_SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1")
"""Signals on which a training saves and stops; some systems lack some of them."""

MAX_SHOWN = 5
"""Names listed in a message; the rest is counted."""

MAX_MESSAGE = 4000
"""Characters of a message, of which a value from a file may be too many."""

OUT_OF_MEMORY = ("out of memory", "allocate memory", "bad_alloc", "bad allocation")
"""Texts of errors, in lower case, that libraries raise when memory runs out."""


def in_label_server() -> bool:
    """Whether MONAI Label runs this process: its server, or a process that the server started."""
    return "monailabel" in sys.modules


def _answers() -> tuple[type, ...]:
    """The base by which MONAI Label's server answers with the text of an error; of others its clients see no text."""
    if not in_label_server():
        return ()
    from starlette.exceptions import HTTPException

    class Answer(HTTPException):
        headers = None

        @property
        def status_code(self) -> int:
            return 400 if getattr(self, "exit_code", EXIT_FAILED) == EXIT_BAD_INPUT else 500

        @property
        def detail(self) -> str:
            return str(self)

    return (Answer,)


class BundleError(ValueError, *_answers()):  # type: ignore[misc]
    """Base of all errors that a user can correct; the text says what is wrong and what to do."""

    exit_code = EXIT_BAD_INPUT
    layout = ""
    """Control characters that are part of the layout of a class's messages; all others are escaped."""

    def __str__(self) -> str:
        """The message; control characters in names from files are escaped, and a text of a whole file is cut."""
        message = printable(ValueError.__str__(self), self.layout)
        if len(message) <= MAX_MESSAGE:
            return message
        # the end says what to do
        return f"{message[: MAX_MESSAGE // 2]} ... {message[-MAX_MESSAGE // 4 :]}"


class DatasetError(BundleError):
    """The data set as a whole is malformed: dataset.json, missing files, an impossible split."""


class CaseError(DatasetError):
    """One case cannot be used.

    Args:
        case: name of the case, as in its file name.
        problem: what is wrong, with the offending value.
        remedy: what the user can do about it.
    """

    def __init__(self, case: str, problem: str, remedy: str) -> None:
        super().__init__(f"case {case}: {problem}. {remedy}")
        self.case = case
        self.problem = problem
        self.remedy = remedy

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        """Keep the three parts when the error crosses a process border."""
        return type(self), (self.case, self.problem, self.remedy)


class FailedStepError(CaseError):
    """An unexpected failure of a transform on a case. The text of the exception may name a patient and is left out."""

    exit_code = EXIT_FAILED


class PlanError(BundleError):
    """No plan can be made from the data, or plan and data do not belong together."""


class ConfigError(BundleError):
    """An override or a combination of config files that cannot work."""


class WeightsError(BundleError):
    """Model weights are missing, damaged, or belong to another plan."""


class OutputError(BundleError):
    """Results cannot be written where they should go."""


class ObjectError(OutputError):
    """A DICOM object cannot be made from its series or mask. Other objects and cases are not affected."""


class BusyError(OutputError):
    """Another process works in the folder."""


class TrainingError(BundleError):
    """A training cannot continue with its settings although its input is valid: a NaN loss, too little memory."""

    exit_code = EXIT_FAILED


class PredictionError(BundleError):
    """Some cases of a prediction failed; the others are done. The message has one line per failed case."""

    exit_code = EXIT_FAILED
    layout = "\n"


def failed_cases(messages: Sequence[str], total: int) -> str:
    """The message for a run in which some cases failed, one line per case.

    Args:
        messages: one per failed case.
        total: number of all cases.
    """
    shown = [f"  {printable(message)}" for message in messages[:MAX_SHOWN]]
    if len(messages) > MAX_SHOWN:
        shown.append(f"  and {len(messages) - MAX_SHOWN} more")
    others = ", the others are done" * (len(messages) < total)
    return "\n".join([f"{len(messages)} of {counted(total, 'case')} failed{others}:", *shown])


def find_user_error(error: BaseException | None) -> BundleError | None:
    """Find the BundleError behind ``error``; MONAI and Ignite wrap exceptions on their way up.

    Args:
        error: any exception, or None.

    Returns:
        The first BundleError in the chain of causes, an OutputError for a full disk, a ConfigError for a path that the
        system refuses, or None.
    """
    for one in _chain(error):
        if isinstance(one, BundleError):
            return one
        if isinstance(one, OSError) and one.errno in NO_ROOM:
            # of a copy, the second one is what is written
            target = one.filename2 or one.filename or "all output"
            return OutputError(
                f"cannot write {target}: {one.strerror}. Free space and run the same command again."
            )
        if isinstance(one, OSError) and one.errno in REFUSED_PATHS and one.filename is not None:
            return ConfigError(
                f'cannot use the path "{printable(str(one.filename))}": {one.strerror}. Pass another path, or ask for '
                "the permission."
            )
    return None


def ran_out_of_memory(error: BaseException | None) -> bool:
    """Whether memory ran out, of a GPU or of the machine, for an exception or one behind it.

    torch on a CPU, ONNX Runtime and SimpleITK say so only in the text of a RuntimeError.
    """
    return any(
        isinstance(one, MemoryError)
        or (
            isinstance(one, (RuntimeError, OSError))
            and any(text in str(one).lower() for text in OUT_OF_MEMORY)
        )
        for one in _chain(error)
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and its causes."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or error.__context__


def first_line(error: BaseException) -> str:
    """First line of the text of an exception, or its type if it has no text."""
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def place_of(error: BaseException) -> str:
    """Type of an exception and where it was raised, for exceptions whose text may name a patient."""
    frames = traceback.extract_tb(error.__traceback__)
    where = (
        f" in {os.path.basename(frames[-1].filename)}, line {frames[-1].lineno}" if frames else ""
    )
    return f"{type(error).__name__}{where}"


def some_of(names: Iterable[object], most: int = MAX_SHOWN) -> str:
    """Names for a message: the first ones, and the number of the others.

    Args:
        names: values that can be shown as text.
        most: maximum number of names.
    """
    shown = list(map(printable, names))
    more = len(shown) - most
    return ", ".join(shown[:most]) + (f" and {more} more" if more > 0 else "")


def counted(count: int, noun: str) -> str:
    """A number with its noun: ``1 case``, ``2 cases``, ``2 classes``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}{'es' if noun[-1] == 's' else 's'}"


def _exit_with(code: int, line: str) -> NoReturn:
    flush_quietly()
    if line:
        with suppress(OSError):
            print(line, file=sys.stderr, flush=True)
    flush_quietly()
    raise SystemExit(code)


def _exit_for(error: BaseException | None) -> None:
    """End the process with one line if the user can correct or caused the end; else return.

    Raises:
        SystemExit: with the exit code.
    """
    if any(isinstance(one, KeyboardInterrupt) for one in _chain(error)):
        # an import in C may turn it into an ImportError
        _exit_with(EXIT_INTERRUPTED, "stopped by Ctrl-C")
    user_error = find_user_error(error)
    if user_error is not None:
        _exit_with(user_error.exit_code, f"error: {user_error}")
    if any(isinstance(one, ClosedStreamError) for one in _chain(error)):
        _exit_with(EXIT_CLOSED_PIPE, "")


@contextmanager
def user_errors_exit() -> Iterator[None]:
    """Run a script: a BundleError inside the block becomes one line on stderr and exit code 2.

    Ctrl-C ends with code 130 and a closed pipe with 141, both without a traceback; output is printable.
    """
    protect_terminal()
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        _exit_for(error)
        raise


def install_excepthook() -> None:
    """Do the same in a process with a foreign main function (``python -m monai.bundle``).

    CPython takes the exit code from a SystemExit that the hook raises. All other exceptions go to the
    hook that was installed before.
    """
    protect_terminal()
    previous, stream = sys.excepthook, sys.stderr

    def hook(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        # torch.distributed (2.10) has a hook around this one that collects stderr, and drops it at a SystemExit
        with redirect_stderr(stream):
            _exit_for(error)
        previous(kind, error, traceback)

    sys.excepthook = hook
