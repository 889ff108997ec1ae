"""Zip archives from a portal, extracted into a private folder that is removed when the process ends.

The folder is also removed when a signal ends the process. The next run removes the folder of a process that was killed.

MONAI's ``extractall`` refuses names that lead out of the folder, but has no size limit and keeps file names, which
often include the patient's name.
"""

import io
import logging
import lzma
import os
import shutil
import signal
import stat
import tempfile
import zipfile
import zlib
from contextlib import suppress
from functools import cache
from multiprocessing.util import Finalize
from pathlib import Path, PurePosixPath
from types import FrameType
from typing import NamedTuple

from dynunet_bundle.errors import DatasetError, OutputError
from dynunet_bundle.files import is_gone, is_inside, writer
from dynunet_bundle.machine.limits import GIB
from dynunet_bundle.terminal import NO_ROOM

PREFIX = "dynunet-dicom-"
"""Start of the folders' names; the id of the process follows, see ``files.writer``."""

ENDING_SIGNALS = ("SIGTERM", "SIGHUP")
"""Signals that end a process without its exit handlers. SIGINT is an exception in Python."""

CHUNK_BYTES = 1 << 20  # extracted at a time
ENTRY_BYTES = 512
"""Largest average size of an entry in an archive's directory; a path of three UIDs takes 300."""

ENCRYPTED = 0x1
"""Flag of an encrypted entry, bit 0 (APPNOTE.TXT of PKWARE, section 4.4.4)."""

DAMAGES = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(EOFError, NotImplementedError, RuntimeError),
)
"""Exceptions of zipfile for archives that are damaged, encrypted, or compressed by an unknown method."""

logger = logging.getLogger(__name__)


class Limits(NamedTuple):
    """Limits of an archive's content.

    Attributes:
        files: number of entries; extracting one and reading its header takes 0.3 ms.
        total_bytes: extracted size of all files.
        ratio: extracted size over the archive's size; about 2 for CT images, much higher for blank ones.
        free_bytes: extracted size up to which the ratio is not checked.
    """

    files: int = 20_000
    total_bytes: int = 16 * GIB
    ratio: int = 200
    free_bytes: int = GIB // 4


LIMITS = Limits()


class _Archive(io.BufferedReader):
    """An archive file that refuses to read an excessive directory, before zipfile makes an object of each entry."""

    def __init__(self, path: Path, limits: Limits) -> None:
        super().__init__(io.FileIO(path))
        self.limits = limits

    def read(self, size: int | None = -1) -> bytes:
        if (size or 0) > max(self.limits.files * ENTRY_BYTES, CHUNK_BYTES):
            raise DatasetError(_refusal(f"contains more than {self.limits.files} files"))
        return super().read(size)


def extracted(
    archive: Path,
    limits: Limits = LIMITS,
    wanted: frozenset[str] | None = None,
    keep_names: bool = False,
) -> Path:
    """Extract an archive once per process.

    The files are named by numbers, unless their names are kept, in a folder that only this user can read. It is removed
    when the process ends, also in workers of a data loader, and on SIGTERM, SIGHUP and SIGINT. Only a killed process
    leaves it behind, as ``dynunet-dicom-*`` in the system's temporary folder, see ``remove_dead_extractions``.

    Args:
        archive: a zip file.
        limits: limits of its content.
        wanted: names of the files to extract, without folders; they keep their paths. None extracts all.
        keep_names: whether all files keep their paths.

    Returns:
        The folder.

    Raises:
        DatasetError: if it is not a zip file, is damaged, encrypted or larger than the limits, or contains links or
            unsafe names.
        OutputError: if the temporary folder has no space.
    """
    status = archive.stat()
    has_names = keep_names or wanted is not None
    state = (status.st_size, status.st_mtime_ns)
    return _extract(archive.resolve(), *state, limits, wanted, has_names)


def remove_dead_extractions() -> None:
    """Remove the folders of processes of this machine that were killed."""
    try:
        place = Path(tempfile.gettempdir())
    except FileNotFoundError:  # Python tries to write there: the disk is full
        return
    for folder in place.glob(f"{PREFIX}*"):
        if is_gone(folder.name.removeprefix(PREFIX).rpartition("-")[0]):
            shutil.rmtree(folder, ignore_errors=True)


def remove_extractions() -> None:
    """Remove the folders of this process, before an end without exit handlers."""
    while _removals:
        # in a fork, those of the parent do nothing
        _removals.pop()()


def name_in_archive(file: Path) -> str:
    """Name of an extracted file in its archive; the path of any other file."""
    return _names.get(file, str(file))


_names: dict[Path, str] = {}
"""Names of extracted files in their archives."""

_removals: list[Finalize] = []
"""Functions that remove the folders of this process."""


def _end(number: int, frame: FrameType | None) -> None:
    """Remove the folders, then end the process by the same signal."""
    remove_extractions()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _catch_signals() -> None:
    """Catch the signals that are neither caught nor ignored yet."""
    for name in ENDING_SIGNALS:
        number = getattr(signal, name)
        if signal.getsignal(number) is signal.SIG_DFL:
            # only the main thread may
            with suppress(ValueError):
                signal.signal(number, _end)


@cache
def _extract(
    archive: Path,
    size: int,
    time: int,
    limits: Limits,
    wanted: frozenset[str] | None,
    has_names: bool,
) -> Path:
    try:
        with _Archive(archive, limits) as source, zipfile.ZipFile(source) as file:
            entries = [
                entry
                for entry in file.infolist()
                if not entry.is_dir()
                and (wanted is None or PurePosixPath(entry.filename).name in wanted)
            ]
            _require_safe(entries, size, limits)
            folder = private_folder()
            try:
                _write(file, entries, folder, limits, has_names=has_names)
            except BaseException:
                _removals[-1]()
                raise
    except DAMAGES as error:
        raise DatasetError(
            f"the zip archive cannot be read ({type(error).__name__}). Send it again, complete and without a password."
        ) from None
    except OSError as error:
        raise OutputError(
            f"the zip archive cannot be extracted to {tempfile.gettempdir()}: {error.strerror}. "
            "Free disk space, or set TMPDIR to another folder."
        ) from None
    logger.info("extracted %d files of a zip archive to a temporary folder", len(entries))
    return folder


def private_folder() -> Path:
    """A new folder that only this user can read, removed as ``extracted`` says.

    Raises:
        OSError: if the temporary folder has no space.
    """
    remove_dead_extractions()
    _catch_signals()
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{writer()}-"))
    # unlike atexit, Finalize also runs in multiprocessing workers, and only in the process that registered it
    _removals.append(Finalize(None, shutil.rmtree, (folder, True), exitpriority=10))
    return folder


def _require_safe(entries: list[zipfile.ZipInfo], size: int, limits: Limits) -> None:
    """Check an archive's directory before anything is extracted."""
    total = sum(entry.file_size for entry in entries)
    problem = None
    if len(entries) > limits.files:
        problem = f"contains {len(entries)} files; {limits.files} are allowed"
    elif total > limits.total_bytes:
        problem = f"would extract to {total / GIB:.1f} GiB; {limits.total_bytes / GIB:.1f} GiB are allowed"
    elif total > limits.free_bytes and total > limits.ratio * size:
        problem = f"would grow {total // max(size, 1)}-fold; {limits.ratio}-fold is allowed"
    elif any(stat.S_ISLNK(entry.external_attr >> 16) for entry in entries):
        problem = "contains a symbolic link"
    elif not all(is_inside(entry.filename) for entry in entries):
        problem = "contains a file name that leads out of its folder"
    elif any(entry.flag_bits & ENCRYPTED for entry in entries):
        problem = "is encrypted"
    if problem:
        raise DatasetError(_refusal(problem))


def _refusal(problem: str) -> str:
    return f"the zip archive {problem}. Extract it yourself and pass the folder."


def _write(
    file: zipfile.ZipFile,
    entries: list[zipfile.ZipInfo],
    folder: Path,
    limits: Limits,
    has_names: bool,
) -> None:
    """Extract files by their names or numbers, counting the actual bytes; the sizes in the directory may be false."""
    left = min(limits.total_bytes, sum(entry.file_size for entry in entries))
    for number, entry in enumerate(entries):
        if PurePosixPath(entry.filename).name.startswith("."):
            continue
        suffix = ".dcm" if entry.filename.lower().endswith(".dcm") else ""
        path = folder / f"{number:06d}{suffix}"
        if has_names:
            path = _named(folder, entry.filename)
        _names[path] = entry.filename
        with file.open(entry) as source, path.open("wb") as target:
            while chunk := source.read(CHUNK_BYTES):
                left -= len(chunk)
                if left < 0:
                    raise zipfile.BadZipFile
                target.write(chunk)


def _named(folder: Path, name: str) -> Path:
    """A new file by the name that an archive gives it, in its folders."""
    path = folder / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(exist_ok=False)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise
        # two files of one name, a file as a folder, a name that is too long
        raise zipfile.BadZipFile from error
    return path
