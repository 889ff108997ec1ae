"""Locks between processes: one training a folder, one writer of a store, of run.json or of a package.

A lock is a file that says who holds it. ``flock`` decides, and the system releases it when the process ends, in any
way. On a file system without ``flock``, e.g. some network disks, the file itself is the lock: it is created with
``O_EXCL``, and a file of a dead process of this machine is taken over. A process of another machine cannot be checked.

filelock, which torch brings, takes ENOLCK for an error, does not tell who holds a lock, and writes the host's name.
"""

import atexit
import fcntl
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from dynunet_bundle.errors import BusyError, OutputError
from dynunet_bundle.files import is_gone, is_of_this_machine, writer

MAX_HOLDER_BYTES = 1000
"""Bytes of a lock file that are read; ours have about 100."""

HOLDER = re.compile(
    r"(?P<process>[0-9a-f]{8}-\d+-\d+)\t(?P<since>[-\d: UTC]+)\t(?P<kind>[\w ]+)\n", re.ASCII
)
"""Content of a lock file: the process as ``files.writer`` names it, time and work."""

POLL_S = 0.2
"""Seconds between two looks at a lock that another process holds."""

NUM_LOOKS = 5
"""Looks at the name of a holder before it counts as unknown."""

WAIT = "Wait until it ends, stop it, or choose another folder."

logger = logging.getLogger(__name__)


class ProcessLock:
    """A lock file that one process holds.

    Args:
        path: the file; its folder must exist. It is there while the lock is held, and after a crash.
        kind: name of the holder's work, e.g. ``"training"``.
    """

    def __init__(self, path: Path, kind: str) -> None:
        self.path = path
        self.kind = kind
        self._descriptor: int | None = None

    def acquire(self, remedy: str = WAIT) -> None:
        """Take the lock at once, or refuse.

        Args:
            remedy: advice to the user if another process holds it.

        Raises:
            BusyError: naming the holder.
            OutputError: if the file cannot be written.
        """
        try:
            while self._descriptor is None:
                self._descriptor = self._try(remedy)
        except OSError as error:
            raise OutputError(
                f"cannot write {self.path}: {error.strerror or error}. Free space, change its permissions or choose "
                "another folder."
            ) from error
        _held.add(self)

    def release(self) -> None:
        """Remove the file, then give the lock back: nobody else can hold the file that is removed."""
        descriptor = self._forget()
        if descriptor is not None:
            if _is_same_file(descriptor, self.path):
                self.path.unlink(missing_ok=True)
            os.close(descriptor)

    def close_copy(self) -> None:
        """Close the copy that a forked process has got: the lock is its parent's."""
        descriptor = self._forget()
        if descriptor is not None:
            os.close(descriptor)

    def _forget(self) -> int | None:
        _held.discard(self)
        descriptor, self._descriptor = self._descriptor, None
        return descriptor

    def _try(self, remedy: str) -> int | None:
        """The open file, locked; None where the file has changed hands meanwhile."""
        try:
            descriptor, is_new = _open(self.path)
        except FileNotFoundError:
            if self.path.parent.is_dir():
                return None
            raise
        taken = False
        try:
            is_locked = _flock(descriptor)
            holder = _parse(os.pread(descriptor, MAX_HOLDER_BYTES, 0))
            if is_locked is None and not is_new:
                if not is_gone(holder.get("process", "")):
                    hint = f"If that process is gone, remove {self.path}."
                    raise self._busy(holder, f"{remedy} {hint}".lstrip())
                self._move_away(holder)
            elif is_locked is False:
                raise self._busy(_holder_of(descriptor), remedy)
            elif _is_same_file(descriptor, self.path):
                self._write_holder(descriptor)
                taken = True
        finally:
            if not taken:
                os.close(descriptor)
        return descriptor if taken else None

    def _write_holder(self, descriptor: int) -> None:
        since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{writer()}\t{since}\t{self.kind}\n".encode(), 0)
            os.fsync(descriptor)
        except OSError:
            self.path.unlink(missing_ok=True)
            raise

    def _move_away(self, dead: dict[str, str]) -> None:
        """Take the file of a dead process away; of several processes that try, one does."""
        aside = self.path.with_name(f"{self.path.name}.{writer()}")
        with suppress(FileNotFoundError):
            os.rename(self.path, aside)
            if _parse(aside.read_bytes()) != dead:
                # another process was faster, and this is its lock
                os.rename(aside, self.path)
            aside.unlink(missing_ok=True)

    def _busy(self, holder: dict[str, str], remedy: str) -> BusyError:
        process = holder.get("process", "")
        who = "another run"
        # with flock the file names a dead holder until the new one has written its name
        if process.count("-") and not is_gone(process):
            host, number = process.split("-")[:2]
            where = "this machine" if is_of_this_machine(process) else f"another machine ({host})"
            who = f"process {number} of {where}, since {holder.get('since')}"
        kind = holder.get("kind", self.kind)
        return BusyError(f"{self.path.parent} is in use by a {kind}: {who}. {remedy}")


_held: set[ProcessLock] = set()
"""All locks of this process."""

_claims: dict[Path, ProcessLock] = {}
"""Those that are held until the end of a run, by their files."""


def claim(folder: str | os.PathLike[str], kind: str) -> None:
    """Hold a folder for one kind of work until ``release_claims`` or the end of the process.

    A second claim of the same process is granted, so that a server may run the same config again.

    Args:
        folder: must exist.
        kind: name of the work; claims of different kinds are independent.

    Raises:
        BusyError: if another process holds it.
        OutputError: if the lock file cannot be written.
    """
    path = Path(folder).resolve() / f".{kind}.lock"
    if path not in _claims:
        lock = ProcessLock(path, kind)
        lock.acquire()
        _claims[path] = lock


def release_claims() -> None:
    """Give all claims back: ``finalize`` of train.json."""
    while _claims:
        _claims.popitem()[1].release()


@contextmanager
def exclusive(path: Path, kind: str, remedy: str | None = None) -> Iterator[None]:
    """Hold a lock for the length of the block.

    Args:
        path: the lock file.
        kind: name of the work in the block.
        remedy: advice to the user if another process holds the lock; None waits for that process instead.

    Raises:
        BusyError: if another process holds it, and there is a remedy.
        OutputError: if the lock file cannot be written.
    """
    lock = ProcessLock(path, kind)
    said = False
    while True:
        try:
            lock.acquire(remedy or "")
            break
        except BusyError as error:
            if remedy is not None:
                raise
            if not said:
                logger.info("%s; waiting for it", str(error).rstrip(". "))
                said = True
            time.sleep(POLL_S)
    try:
        yield
    finally:
        lock.release()


def _open(path: Path) -> tuple[int, bool]:
    """Open a lock file; whether it is new."""
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)
    with suppress(FileExistsError):
        return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666), True
    return os.open(path, flags), False


def _flock(descriptor: int) -> bool | None:
    """Whether the file is locked now; False where another process has it, None where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_same_file(descriptor: int, path: Path) -> bool:
    """Whether a path still leads to an open file."""
    with suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    return False


def _holder_of(descriptor: int) -> dict[str, str]:
    """The living holder of a locked file, which may write its name a moment after it has got the lock."""
    for _ in range(NUM_LOOKS):
        holder = _parse(os.pread(descriptor, MAX_HOLDER_BYTES, 0))
        if holder and not is_gone(holder["process"]):
            break
        time.sleep(POLL_S)
    return holder


def _parse(content: bytes) -> dict[str, str]:
    """The holder of a lock from its file; empty if the file is not ours or not whole."""
    found = HOLDER.fullmatch(content.decode("ascii", errors="replace"))
    return found.groupdict() if found else {}


def _forget_copies() -> None:
    _claims.clear()
    for lock in list(_held):
        lock.close_copy()


# a worker that is forked must not keep the lock of a process that was killed
os.register_at_fork(after_in_child=_forget_copies)
atexit.register(release_claims)
