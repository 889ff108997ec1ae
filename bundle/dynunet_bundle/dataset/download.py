"""Fetch a data set of the Medical Segmentation Decathlon (MSD) with MONAI's ``download_url`` and ``extractall``.

URLs and MD5s are those of MONAI's DecathlonDataset. An interrupted download starts again from the beginning. An archive
that is already in the target folder, from ``curl -C -`` for example, is used if its MD5 is correct.

Files in the target folder, the last two temporary::

    Task09_Spleen.tar             the complete archive, with the correct MD5
    .Task09_Spleen.work/          files being downloaded, then extracted; renamed to Task09_Spleen when complete
    .Task09_Spleen.lock           held by the command that works on this task
"""

import logging
import os
import shutil
import socket
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener, install_opener

from monai.apps import DecathlonDataset
from monai.apps.utils import HashCheckError, download_url, extractall
from monai.apps.utils import logger as monai_logger

from dynunet_bundle.errors import ConfigError, DatasetError, OutputError, first_line
from dynunet_bundle.machine.locks import WAIT, exclusive

LICENCE = (
    "The data is licensed CC BY-SA 4.0 by the Medical Segmentation Decathlon "
    "(http://medicaldecathlon.com): https://creativecommons.org/licenses/by-sa/4.0/"
)
TIMEOUT_S = 60.0
"""Longest silence of a server."""

logger = logging.getLogger(__name__)


class _SameScheme(HTTPRedirectHandler):
    """Follows redirects only within the same scheme; urllib would also follow them from https to http and ftp."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        if urlsplit(newurl).scheme != req.type:
            raise URLError(f"the server redirects to {newurl}, which is not {req.type}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def find_task(text: str) -> str:
    """Full name of a task: ``Task09_Spleen`` for ``9``, ``09``, ``Task09`` and ``Task09_Spleen``, in any case.

    Raises:
        ConfigError: if the Decathlon has no such task; it lists the ten tasks.
    """
    wanted = text.strip().lower()
    for name in DecathlonDataset.resource:
        two_digits = name[4:6]
        number = str(int(two_digits))
        if wanted in (name.lower(), two_digits, number, f"task{two_digits}", f"task{number}"):
            return str(name)
    names = ", ".join(DecathlonDataset.resource)
    raise ConfigError(f"--task {text!r} is not a task of the Decathlon. Pass one of: {names}.")


def download_task(
    task: str, out: str | os.PathLike[str], keep_archive: bool = False, base_url: str | None = None
) -> Path:
    """Download the data set of a task into ``out``, unless it is already there.

    Args:
        task: number or name, see ``find_task``.
        out: parent folder of ``Task09_Spleen``; created if missing.
        keep_archive: whether to keep ``Task09_Spleen.tar`` after extraction.
        base_url: folder of the archives on another server, for tests; may be plain HTTP.

    Returns:
        The folder of the data set.

    Raises:
        ConfigError: if there is no such task.
        DatasetError: if the server cannot be reached, or the archive is wrong or unsafe.
        OutputError: if ``out`` cannot be written to, or another run works on the same task there.
    """
    name = find_task(task)
    url = f"{base_url}/{name}.tar" if base_url else DecathlonDataset.resource[name]
    if not base_url and urlsplit(url).scheme != "https":
        raise ConfigError(
            f"MONAI lists {url} for {name}, which is not https. Install another version of MONAI."
        )
    folder = Path(out) / name
    with _output_errors(folder):
        if not _is_there(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            # two runs would corrupt each other's files
            with exclusive(folder.with_name(f".{name}.lock"), "download", WAIT):
                # another run may have completed it while it held the lock
                if not _is_there(folder):
                    _make(folder, url, DecathlonDataset.md5[name], keep_archive)
                    return folder
        logger.info("%s already exists: nothing to do", folder)
    return folder


def _is_there(folder: Path) -> bool:
    return (folder / "dataset.json").is_file()


@contextmanager
def _output_errors(folder: Path) -> Iterator[None]:
    """Translate OSErrors of files; those of the network are translated in ``_fetch``."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write {error.filename or folder}: {error.strerror or error}. "
            "Free disk space, change permissions or pass another --output_dir. Then run the same command again."
        ) from error


@contextmanager
def _work_folder(folder: Path) -> Iterator[Path]:
    """An empty folder beside ``folder`` for unfinished files; removed at exit, as is that of a killed run."""
    work = folder.with_name(f".{folder.name}.work")
    if work.exists():
        shutil.rmtree(work)
    work.mkdir()
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _careful_monai(work: Path) -> Iterator[None]:
    """Let MONAI download through ``work`` instead of /tmp, with a timeout and without its log lines on stdout."""
    before = tempfile.tempdir, socket.getdefaulttimeout(), monai_logger.disabled
    tempfile.tempdir, monai_logger.disabled = str(work), True
    socket.setdefaulttimeout(TIMEOUT_S)
    install_opener(build_opener(_SameScheme))
    try:
        yield
    finally:
        install_opener(None)  # urllib creates its default opener again
        tempfile.tempdir, timeout, monai_logger.disabled = before
        socket.setdefaulttimeout(timeout)


def _make(folder: Path, url: str, md5: str, keep_archive: bool) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(
            f"{folder} exists but has no dataset.json. Move it away, or choose another folder with --output_dir."
        )
    archive = folder.with_name(f"{folder.name}.tar")
    with _work_folder(folder) as work, _careful_monai(work):
        _fetch(url, md5, archive)
        logger.info("extracting %s", archive.name)
        _extract(archive, work, folder)
    if not keep_archive:
        archive.unlink()


def fetch_checked(url: str, sha256: str, archive: Path) -> None:
    """Download a file whose SHA-256 is known; it only appears when complete and correct.

    Args:
        url: its address; redirects to another scheme are refused.
        sha256: its SHA-256.
        archive: the file, which does not exist yet, in a folder for temporary files.

    Raises:
        DatasetError: if the server cannot be reached, or sends another file.
    """
    with _careful_monai(archive.parent):
        _fetch(url, sha256, archive, "sha256")


def _fetch(url: str, md5: str, archive: Path, kind: str = "md5") -> None:
    """Download ``archive`` and check its MD5, or check the existing one; it only appears when complete and correct."""
    name = {"md5": "MD5", "sha256": "SHA-256"}[kind]
    resume = f"curl -C - -o {archive} {url}"
    was_there = archive.exists()
    logger.info("checking the MD5 of %s" if was_there else "downloading %s", archive.name)
    try:
        download_url(url, archive, md5, kind, progress=sys.stderr.isatty())
    except HashCheckError as error:
        if was_there:  # the user's file: not ours to remove
            raise DatasetError(
                f"{archive} does not have the MD5 {md5} that MONAI lists. If its download was interrupted, finish it: "
                f"{resume}; otherwise remove it. Then run the same command again."
            ) from error
        raise DatasetError(
            f"the download from {url} does not have the {name} {md5} and was removed. Run the same command again. "
            "If this does not help, a proxy or the server changes the archive."
        ) from error
    except (URLError, ConnectionError, TimeoutError, HTTPException) as error:
        raise DatasetError(
            f"cannot download {url}: {_reason(error)}. Check the network and the proxy, and run the same command "
            f"again; it starts from the beginning. For a download that can be resumed, run this first: {resume}"
        ) from error
    if not archive.exists():  # MONAI raises nothing if it may not write to the folder
        raise PermissionError(None, "Permission denied", str(archive))


def _reason(error: Exception) -> str:
    """``<urlopen error [Errno 111] Connection refused>`` -> ``Connection refused``."""
    if isinstance(error, HTTPError):
        return str(error)
    cause = getattr(error, "reason", error)
    if isinstance(cause, Exception):
        return getattr(cause, "strerror", None) or first_line(cause)
    return str(cause)


def _extract(archive: Path, work: Path, folder: Path) -> None:
    """Extract to ``work`` and rename, so that the folder is complete or absent."""
    try:
        # refuses links, absolute paths and ".." with a ValueError
        extractall(archive, work, has_base=False)
    except (ValueError, tarfile.TarError, EOFError, zlib.error) as error:
        raise DatasetError(
            f"{archive} cannot be extracted: {first_line(error)}. "
            "Nothing was extracted. Remove it and run again."
        ) from error
    if not _is_there(work / folder.name):
        raise DatasetError(
            f"{archive} contains no {folder.name}/dataset.json. Remove it and run again."
        )
    # without this, a power cut after the rename could leave empty files that look complete
    os.sync()
    os.rename(work / folder.name, folder)
