"""Fetch a data set of the Medical Segmentation Decathlon (MSD); what was cut goes on where it stopped.

URLs and MD5s are those of MONAI's DecathlonDataset; the MD5 check and the extraction are MONAI's too. Its
``download_url`` is not used: it begins again after every cut (of archives of many GB), waits for a silent server for
ever, and says "Downloaded" after a PermissionError.

In the target folder, each only while it is needed::

    Task09_Spleen.tar.part        the bytes that came so far
    Task09_Spleen.tar.part.json   what they are bytes of: ETag, Last-Modified, size
    Task09_Spleen.tar             the archive, whole and of the right MD5
    .Task09_Spleen.extracting/    renamed to Task09_Spleen when it is whole
    .Task09_Spleen.lock           held by the command that works on this task
"""

import fcntl
import logging
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from monai.apps import DecathlonDataset
from monai.apps.utils import check_hash, extractall
from monai.apps.utils import logger as monai_logger

from dynunet_bundle.dataset.http_resume import complete
from dynunet_bundle.errors import ConfigError, DatasetError, OutputError, first_line

LICENCE = (
    "The data is licensed CC BY-SA 4.0 by the Medical Segmentation Decathlon "
    "(http://medicaldecathlon.com): https://creativecommons.org/licenses/by-sa/4.0/"
)
logger = logging.getLogger(__name__)


def find_task(text: str) -> str:
    """Full name of a task: ``9``, ``09``, ``Task09`` and ``Task09_Spleen`` are ``Task09_Spleen``, in any case.

    Raises:
        ConfigError: if the Decathlon has no such task; lists the ten.
    """
    wanted = text.strip().lower()
    for name in DecathlonDataset.resource:
        two_digits = name[4:6]
        number = str(int(two_digits))
        if wanted in (name.lower(), two_digits, number, f"task{two_digits}", f"task{number}"):
            return str(name)
    names = ", ".join(DecathlonDataset.resource)
    raise ConfigError(f"--task {text!r} is none of the ten: {names}.")


def download_task(
    task: str, out: str | os.PathLike[str], keep_archive: bool = False, base_url: str | None = None
) -> Path:
    """Leave the data set of a task in ``out``; does nothing where it is already.

    Args:
        task: as ``find_task`` takes it.
        out: folder that gets ``Task09_Spleen``; made if missing.
        keep_archive: keep ``Task09_Spleen.tar`` after extraction.
        base_url: folder of the archives on another server, for tests; may be plain HTTP.

    Returns:
        The folder of the data set.

    Raises:
        ConfigError: if there is no such task.
        DatasetError: if the server cannot be reached, or gives a wrong or unsafe archive.
        OutputError: if ``out`` cannot be written to, or another run works on the same task there.
    """
    name = find_task(task)
    url = f"{base_url}/{name}.tar" if base_url else DecathlonDataset.resource[name]
    if not base_url and urlsplit(url).scheme != "https":
        raise ConfigError(f"MONAI lists {url} for {name}; only https is safe. Use another MONAI.")
    folder = Path(out) / name
    with _output_errors(folder):
        if not _is_there(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _alone(folder.with_name(f".{name}.lock")):
                # the run that held the lock until now may have done it
                if not _is_there(folder):
                    _make(folder, url, DecathlonDataset.md5[name], keep_archive)
                    return folder
        logger.info("%s is there already: nothing to do", folder)
    return folder


def _is_there(folder: Path) -> bool:
    return (folder / "dataset.json").is_file()


@contextmanager
def _output_errors(folder: Path) -> Iterator[None]:
    """Every OSError inside is one of files: those of the network are translated where they arise."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write {error.filename or folder}: {error.strerror or error}. "
            "Free space, change permissions or choose another folder with --out; then run the same command again."
        ) from error


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold ``lock``: two runs that append to one file would spoil it. A killed run's lock is free."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(
                f"another run holds {lock}. Wait until it is done, or choose another folder with --out."
            ) from error
        except OSError:
            logger.debug("%s: this file system has no locks", lock)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


@contextmanager
def _quiet_monai() -> Iterator[None]:
    """MONAI logs to stdout what we say in the error, or need not say."""
    before, monai_logger.disabled = monai_logger.disabled, True
    try:
        yield
    finally:
        monai_logger.disabled = before


def _make(folder: Path, url: str, md5: str, keep_archive: bool) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(
            f"{folder} exists but holds no dataset.json. Move it away, or choose another folder with --out."
        )
    archive = folder.with_name(f"{folder.name}.tar")
    if not archive.exists():
        _fetch(url, md5, archive)
    elif not _has_md5(archive, md5):  # put there by someone else: not ours to remove
        raise DatasetError(
            f"{archive} is not the archive with MD5 {md5} that MONAI lists. Remove it and run again."
        )
    logger.info("extracting %s", archive.name)
    _extract(archive, folder)
    if not keep_archive:
        archive.unlink()


# --- download


def _fetch(url: str, md5: str, archive: Path) -> None:
    """Download ``archive``, or the rest of it; it appears when it is whole and its MD5 is right."""
    part = archive.with_name(f"{archive.name}.part")
    facts = part.with_name(f"{part.name}.json")
    complete(url, part, facts)
    logger.info("checking the MD5 of %s", archive.name)
    if not _has_md5(part, md5):
        part.unlink()
        facts.unlink(missing_ok=True)
        raise DatasetError(
            f"what came from {url} does not have the MD5 {md5}, and was removed. Run the same command again; "
            "if that does not help, a proxy or the server changes the archive."
        )
    os.replace(part, archive)
    facts.unlink(missing_ok=True)


def _has_md5(path: Path, md5: str) -> bool:
    with _quiet_monai():
        return bool(check_hash(path, md5, "md5"))


# --- extraction


def _extract(archive: Path, folder: Path) -> None:
    """Extract beside ``folder`` and rename: the folder is whole or absent."""
    temporary = folder.with_name(f".{folder.name}.extracting")
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.mkdir()
    try:
        try:
            with _quiet_monai():
                # refuses links, absolute paths and ".." with a ValueError
                extractall(archive, temporary, has_base=False)
        except (ValueError, tarfile.TarError, EOFError, zlib.error) as error:
            raise DatasetError(
                f"{archive} cannot be extracted: {first_line(error)}. "
                "Nothing of it was kept. Remove it and run again."
            ) from error
        if not _is_there(temporary / folder.name):
            raise DatasetError(
                f"{archive} holds no {folder.name}/dataset.json. Remove it and run again."
            )
        # else a power cut after the rename could leave empty files that look complete
        os.sync()
        os.rename(temporary / folder.name, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
