"""A folder as an archive that is the same to the byte wherever and whenever it is made."""

import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dynunet_bundle.errors import OutputError
from dynunet_bundle.files import TEMPORARY_SUFFIX, atomic_write, ensure_writable, sha256_of

SUMS_NAME = "SHA256SUMS"
"""In the format that ``sha256sum --check`` reads."""

MAX_FILE_BYTES = 25 * 10**6
"""Of a file in the Model Zoo; larger ones are named in ``large_files.yml``."""

OLDEST_TIME = (1980, 1, 1, 0, 0, 0)
"""The first moment that a zip can tell."""

MODE = stat.S_IFREG | 0o644
UNIX = 3


def files_of(folder: Path) -> list[Path]:
    """All files of a folder, relative to it, in an order that no file system changes."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(found, key=lambda path: path.as_posix())


def write_sums(folder: Path) -> None:
    """Write the SHA-256 of each file of a folder to ``SHA256SUMS`` in it."""
    lines = [f"{sha256_of(folder / name)}  {name.as_posix()}\n" for name in files_of(folder)]
    (folder / SUMS_NAME).write_text("".join(lines), encoding="utf-8", newline="\n")


def write_zip(folder: Path, path: Path) -> None:
    """Write a folder as a zip with the folder itself at its top, atomically.

    Times, permissions and order are fixed, and nothing is compressed: weights do not shrink, and each release of zlib
    packs text a little differently.

    Args:
        folder: what to pack.
        path: the zip; its folder must exist.
    """
    with atomic_write(path) as target, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name in files_of(folder):
            entry = zipfile.ZipInfo(f"{folder.name}/{name.as_posix()}", OLDEST_TIME)
            entry.create_system = UNIX
            entry.external_attr = MODE << 16
            entry.file_size = (folder / name).stat().st_size
            with (folder / name).open("rb") as source, archive.open(entry, "w") as sink:
                shutil.copyfileobj(source, sink)


@contextmanager
def staged(output: Path, name: str) -> Iterator[Path]:
    """An empty folder called ``name`` that is filled in the block and removed after it; see ``publish``.

    Args:
        output: where the result will go; the staging folder is made there, on the same disk.
        name: name of the folder.

    Raises:
        OutputError: if ``output`` cannot be written to.
    """
    ensure_writable(output)
    with tempfile.TemporaryDirectory(
        dir=output, prefix=f".{name}.", suffix=TEMPORARY_SUFFIX
    ) as stage:
        folder = Path(stage) / name
        folder.mkdir()
        yield folder


def require_replaceable(target: Path) -> None:
    """Refuse to replace what is not a bundle.

    Raises:
        OutputError: if ``target`` exists and has no ``configs/metadata.json``.
    """
    if target.exists() and not (target / "configs" / "metadata.json").is_file():
        raise OutputError(f"{target} exists and is no bundle. Choose another --out, or remove it.")


def publish(folder: Path, target: Path) -> None:
    """Move a staged folder to its place; an older one is there until the new one is.

    Args:
        folder: from ``staged``.
        target: its place, on the same disk.

    Raises:
        OutputError: if it cannot be moved.
    """
    old = folder.parent / "replaced"
    try:
        if target.exists():
            target.rename(old)
        folder.rename(target)
    except OSError as error:
        if old.exists() and not target.exists():
            old.rename(target)
        raise OutputError(
            f"cannot write {target}: {error.strerror}. Choose another --out."
        ) from error
