"""Reproducible archives: equal folders give equal bytes on every machine and at any time."""

import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dynunet_bundle.errors import OutputError
from dynunet_bundle.files import TEMPORARY_SUFFIX, atomic_write, ensure_writable, sha256_of
from dynunet_bundle.machine.locks import WAIT, exclusive

SUMS_NAME = "SHA256SUMS"
"""File of checksums of all files except Python, in the format of ``sha256sum --check``."""

CODE_SUMS_NAME = "SHA256SUMS_CODE"
"""The same for Python: a list of its own, since the hooks of the Model Zoo format Python."""

MAX_FILE_BYTES = 25 * 10**6
"""Largest file in the Model Zoo, in bytes; larger files are listed in ``large_files.yml``."""

OLDEST_TIME = (1980, 1, 1, 0, 0, 0)
"""Earliest time stamp that a zip can store."""

MODE = stat.S_IFREG | 0o644
UNIX = 3


def files_of(folder: Path) -> list[Path]:
    """All files of a folder, relative to it, in an order that does not depend on the file system."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(found, key=lambda path: path.as_posix())


def summed_files(folder: Path) -> dict[str, list[Path]]:
    """The files that each list of checksums names; together all except for the lists."""
    lists: dict[str, list[Path]] = {SUMS_NAME: [], CODE_SUMS_NAME: []}
    for name in files_of(folder):
        if name.as_posix() not in lists:
            lists[CODE_SUMS_NAME if name.suffix == ".py" else SUMS_NAME].append(name)
    return lists


def write_sums(folder: Path) -> None:
    """Write the SHA-256 of each file of a folder to the lists of checksums in it."""
    for sums, names in summed_files(folder).items():
        lines = [f"{sha256_of(folder / name)}  {name.as_posix()}\n" for name in names]
        (folder / sums).write_text("".join(lines), encoding="utf-8", newline="\n")


def write_zip(folder: Path, path: Path) -> None:
    """Write a folder as a zip with the folder itself as top level, atomically.

    Times, permissions and order are fixed. Nothing is compressed: weights do not shrink, and zlib's output changes
    between releases.

    Args:
        folder: the folder to pack.
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
    """Create an empty folder called ``name``, to be filled in the block and removed after it; see ``publish``.

    Args:
        output: folder of the final result; the staging folder is created in it, hence on the same disk.
        name: name of the folder.

    Raises:
        BusyError: if another process makes a package of that name there.
        OutputError: if ``output`` cannot be written to.
    """
    ensure_writable(output)
    with (
        exclusive(output / f".{name}.lock", "package", WAIT),
        tempfile.TemporaryDirectory(
            dir=output, prefix=f".{name}.", suffix=TEMPORARY_SUFFIX
        ) as stage,
    ):
        folder = Path(stage) / name
        folder.mkdir()
        yield folder


def require_replaceable(target: Path) -> None:
    """Refuse to replace something that is not a bundle.

    Raises:
        OutputError: if ``target`` exists and has no ``configs/metadata.json``.
    """
    if target.exists() and not (target / "configs" / "metadata.json").is_file():
        raise OutputError(
            f"{target} exists and is not a bundle. Choose another --output_dir, or remove it."
        )


def publish(folder: Path, target: Path) -> None:
    """Move a staged folder to its final path; if that fails, the old folder is restored.

    Args:
        folder: from ``staged``.
        target: the final path, on the same disk.

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
            f"cannot write {target}: {error.strerror}. Choose another --output_dir."
        ) from error
