"""Zip archives as they come from a portal: extracted into a private folder that is gone when the process ends.

MONAI's ``extractall`` refuses names that lead out of the folder, but has no limit of size, and keeps names, which
portals make of the patient's.
"""

import io
import logging
import lzma
import shutil
import stat
import tempfile
import zipfile
import zlib
from functools import cache
from multiprocessing.util import Finalize
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from dynunet_bundle.errors import DatasetError, OutputError
from dynunet_bundle.files import is_inside
from dynunet_bundle.limits import GIB

CHUNK_BYTES = 1 << 20
ENTRY_BYTES = 512
"""Most bytes of an entry in an archive's directory, on average; a path of three UIDs takes 300."""

ENCRYPTED = 0x1
"""Bit 0 of an entry's flags (APPNOTE.TXT of PKWARE, section 4.4.4)."""

DAMAGES = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(EOFError, NotImplementedError, RuntimeError),
)
"""What zipfile raises for archives that are damaged, or packed or encrypted in ways it does not know."""

logger = logging.getLogger(__name__)


class Limits(NamedTuple):
    """What an archive may hold.

    Attributes:
        files: entries; zipfile, a new file for each and a look at its header take 0.3 ms together.
        total_bytes: of all files when extracted.
        ratio: of the extracted size to that of the archive; images of CT shrink to a half, blank ones much more.
        free_bytes: up to this extracted size the ratio does not matter.
    """

    files: int = 20_000
    total_bytes: int = 16 * GIB
    ratio: int = 200
    free_bytes: int = GIB // 4


LIMITS = Limits()


class _Archive(io.BufferedReader):
    """A file whose directory is not read if it is too long: zipfile makes objects of all entries first."""

    def __init__(self, path: Path, limits: Limits) -> None:
        super().__init__(io.FileIO(path))
        self.limits = limits

    def read(self, size: int | None = -1) -> bytes:
        if (size or 0) > max(self.limits.files * ENTRY_BYTES, CHUNK_BYTES):
            raise DatasetError(_refusal(f"holds more than {self.limits.files} files"))
        return super().read(size)


def extracted(archive: Path, limits: Limits = LIMITS) -> Path:
    """Extract an archive once for each process.

    The files get numbers for names, in a folder that only this user can read. It is removed when the process ends,
    also that of a data loader's worker; only a process that is killed leaves it, under the system's temporary folder as
    ``dynunet-dicom-*``.

    Args:
        archive: a zip file.
        limits: what it may hold.

    Returns:
        The folder.

    Raises:
        DatasetError: if it is no zip file, damaged, encrypted, larger than the limits, or holds links or unsafe names.
        OutputError: if the temporary folder has no room.
    """
    status = archive.stat()
    return _extract(archive.resolve(), status.st_size, status.st_mtime_ns, limits)


@cache
def _extract(archive: Path, size: int, time: int, limits: Limits) -> Path:
    try:
        with _Archive(archive, limits) as source, zipfile.ZipFile(source) as file:
            entries = [entry for entry in file.infolist() if not entry.is_dir()]
            _require_safe(entries, size, limits)
            folder = Path(tempfile.mkdtemp(prefix="dynunet-dicom-"))
            # unlike atexit, it also runs in workers of multiprocessing, and only where it was registered
            remove = Finalize(None, shutil.rmtree, (folder, True), exitpriority=10)
            try:
                _write(file, entries, folder, limits)
            except BaseException:
                remove()
                raise
    except DAMAGES as error:
        raise DatasetError(
            f"the zip archive cannot be read ({type(error).__name__}). Send it again, whole and without a password."
        ) from None
    except OSError as error:
        raise OutputError(
            f"the zip archive cannot be extracted to {tempfile.gettempdir()}: {error.strerror}. "
            "Free space, or let TMPDIR name another folder."
        ) from None
    logger.info("extracted %d files of a zip archive to a temporary folder", len(entries))
    return folder


def _require_safe(entries: list[zipfile.ZipInfo], size: int, limits: Limits) -> None:
    """Refuse an archive by its directory, before anything is extracted."""
    total = sum(entry.file_size for entry in entries)
    problem = None
    if len(entries) > limits.files:
        problem = f"holds {len(entries)} files; {limits.files} are allowed"
    elif total > limits.total_bytes:
        problem = (
            f"would extract to {total / GIB:.1f} GiB; {limits.total_bytes / GIB:.1f} are allowed"
        )
    elif total > limits.free_bytes and total > limits.ratio * size:
        problem = f"would grow {total // max(size, 1)}-fold; {limits.ratio}-fold is allowed"
    elif any(stat.S_ISLNK(entry.external_attr >> 16) for entry in entries):
        problem = "holds a symbolic link"
    elif not all(is_inside(entry.filename) for entry in entries):
        problem = "holds a file name that leads out of its folder"
    elif any(entry.flag_bits & ENCRYPTED for entry in entries):
        problem = "is encrypted"
    if problem:
        raise DatasetError(_refusal(problem))


def _refusal(problem: str) -> str:
    return f"the zip archive {problem}. Extract it yourself and pass the folder."


def _write(
    file: zipfile.ZipFile, entries: list[zipfile.ZipInfo], folder: Path, limits: Limits
) -> None:
    """Extract under numbers, counting what really comes: an archive's directory may lie."""
    left = min(limits.total_bytes, sum(entry.file_size for entry in entries))
    for number, entry in enumerate(entries):
        if PurePosixPath(entry.filename).name.startswith("."):
            continue
        suffix = ".dcm" if entry.filename.lower().endswith(".dcm") else ""
        with file.open(entry) as source, (folder / f"{number:06d}{suffix}").open("wb") as target:
            while chunk := source.read(CHUNK_BYTES):
                left -= len(chunk)
                if left < 0:
                    raise zipfile.BadZipFile
                target.write(chunk)
