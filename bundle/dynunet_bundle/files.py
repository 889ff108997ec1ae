"""Files that are whole or absent: atomic writes, JSON, hashes, case names."""

import errno
import glob
import hashlib
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO

from dynunet_bundle import __version__
from dynunet_bundle.errors import BundleError, OutputError
from dynunet_bundle.shapes import Schema, excerpt, require_shape, unique_keys
from dynunet_bundle.terminal import NO_ROOM

NIFTI_SUFFIXES = (".nii.gz", ".nii")
VOLUME_SUFFIXES = (*NIFTI_SUFFIXES, ".nrrd", ".nhdr", ".mha", ".mhd")
PICTURE_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
"""Lossless formats; JPEG would blur the borders of a label."""

IMAGE_SUFFIXES = (*VOLUME_SUFFIXES, *PICTURE_SUFFIXES)

CHANNEL_SUFFIX = re.compile(r"^(?P<name>.+)_(?P<channel>\d{4})$")
"""nnU-Net's name of one channel of a case, without the suffix of the image: ``liver_12_0000``."""

TEMPORARY_SUFFIX = ".part"

MAX_NAME_BYTES = 255  # longest file name on all common file systems, NAME_MAX of Linux

TEMPORARY_BYTES = 48
"""Most bytes that ``atomic_write`` adds to a name: dots, machine, process and its start, 8 random letters, suffix."""

PROBE_BYTES = 4096  # a block of common file systems, written to find out whether a disk is full

MAX_JSON_DEPTH = 100
"""Levels of a JSON file; the configs of this bundle have 9."""


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path`` that takes its place when the block ends without an exception.

    The data is flushed to disk before the rename, so a crash leaves the old file or the new one, never half.

    Args:
        path: the file to write; its folder must exist.

    Yields:
        A binary file open for writing.

    Raises:
        OutputError: if the folder cannot be written to, or the disk is full, also if torch raises another error for it.
    """
    path = Path(path)
    temporary: str | None = None
    try:
        descriptor, temporary = tempfile.mkstemp(
            dir=path.parent,
            prefix=f".{fitting_name(path.name, TEMPORARY_BYTES)}.{writer()}.",
            suffix=TEMPORARY_SUFFIX,
        )
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; a result is as readable as any other file of this user
        Path(temporary).chmod(0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
    except Exception as error:
        cause = _failed_write(error)
        if cause is None:
            raise
        raise OutputError(_explanation(path, temporary, cause)) from error
    finally:
        _remove(temporary)


def _failed_write(error: Exception) -> OSError | None:
    """The write failure that caused an error; torch.save raises a RuntimeError after it."""
    if isinstance(error, OSError):
        return error
    before = error.__cause__ or error.__context__
    return before if isinstance(before, OSError) and before.errno in NO_ROOM else None


def _explanation(path: Path, temporary: str | None, error: OSError) -> str:
    # numpy counts what it could not write, without saying why
    reason = error.strerror or "not all of it could be written"
    sizes = ""
    if temporary is not None and error.errno in (None, *NO_ROOM):
        with suppress(OSError):
            needed = max(file.stat().st_size for file in (Path(temporary), path) if file.exists())
            _remove(temporary)
            free = shutil.disk_usage(path.parent).free
            sizes = (
                f" It needs more than {needed / 1e6:.1f} MB; the disk has {free / 1e6:.1f} MB free."
            )
    return f"cannot write {path}: {reason}.{sizes} Free space or choose another folder."


def _remove(temporary: str | None) -> None:
    if temporary is not None:
        with suppress(OSError):
            os.unlink(temporary)


def remove_leftovers(folder: Path, prefix: str) -> None:
    """Remove temporary files whose name starts with ``prefix`` and whose writer was killed.

    Files of other machines stay: their processes cannot be seen from here.
    """
    for leftover in folder.glob(f".{glob.escape(prefix)}*{TEMPORARY_SUFFIX}"):
        if is_gone(leftover.name.removesuffix(TEMPORARY_SUFFIX).split(".")[-2]):
            with suppress(OSError):
                leftover.unlink()


def writer() -> str:
    """This process as part of a file name: numbers for the machine, the process and its start time."""
    return f"{_host()}-{os.getpid()}-{_start_of(os.getpid()) or 0}"


def is_gone(process: str) -> bool:
    """Whether a process has ended.

    Args:
        process: name by ``writer``. A process of another machine cannot be seen and counts as running.
    """
    host, _, numbers = process.partition("-")
    number, _, start = numbers.partition("-")
    if host != _host() or not number.isdigit():
        return False
    found = _start_of(int(number))
    # process numbers are reused; another process has another start time
    return found is None or (bool(found) and start.isdigit() and int(start) not in (0, found))


def is_of_this_machine(process: str) -> bool:
    """Whether a process that ``writer`` named is one of this machine, and of this container on it."""
    return process.partition("-")[0] == _host()


def _host() -> str:
    """A short hash of the host name: file names must not reveal the name itself.

    Containers may share the name of a host, but each counts its processes by itself.
    """
    name = platform.node()
    with suppress(OSError):
        name += os.readlink("/proc/self/ns/pid")
    return f"{zlib.crc32(name.encode()):08x}"


def _start_of(process: int) -> int | None:
    """Start time of a process in clock ticks, 0 if the system does not report it, None if it has ended."""
    with suppress(OSError, ValueError):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        # a zombie has ended, but its parent has not read the exit code
        return None if fields[0] in "ZX" else int(fields[19])
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:
        return 0
    return 0


def _umask() -> int:
    """The umask. Linux reports it; elsewhere it can only be read by setting it."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write ``content`` as indented JSON with a final newline, atomically."""
    with atomic_write(path) as file:
        file.write(json_bytes(content))


def json_bytes(content: Any) -> bytes:
    """The bytes that ``write_json`` writes: indented by four, as the Model Zoo's hooks require."""
    return (json.dumps(content, indent=4) + "\n").encode()


def read_json(path: str | os.PathLike[str], error_type: type[BundleError], schema: Schema) -> Any:
    """Read a JSON file in UTF-8, with or without a byte order mark.

    Args:
        path: the file.
        error_type: error for a missing or malformed file.
        schema: the shape of its content, see ``parse_json``.

    Raises:
        BundleError: of type ``error_type``, in one line, see ``parse_json``.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise error_type(f"{path} does not exist.") from error
    except OSError as error:
        raise error_type(f"{path} cannot be read: {error.strerror or error}.") from error
    return parse_json(data, path, error_type, schema)


def parse_json(
    data: bytes,
    where: str | os.PathLike[str],
    error_type: type[BundleError],
    schema: Schema,
) -> Any:
    """Parse JSON data and check its shape.

    Args:
        data: the content of a file.
        where: the file, for messages.
        error_type: error for malformed data.
        schema: the shape, see ``shapes.py``.

    Raises:
        BundleError: of type ``error_type``, in one line that names the file and the wrong line or field.
    """
    try:
        text = str(data, "utf-8-sig")
        content = json.loads(text, object_pairs_hook=unique_keys)
        if "\\ud" in text.lower():
            # half of a surrogate pair is not a text, unless it stands for a byte of a file name outside UTF-8
            json.dumps(content, ensure_ascii=False).encode(errors="surrogateescape")
    except (ValueError, RecursionError) as error:
        # a number of too many digits is a ValueError, too much nesting a RecursionError
        reason = excerpt(str(error))
        raise error_type(f"{where} is not valid JSON: {reason}. Repair the file.") from error
    if _depth(content) > MAX_JSON_DEPTH:
        raise error_type(f"{where} is nested deeper than {MAX_JSON_DEPTH} levels. Repair the file.")
    require_shape(content, schema, where, error_type)
    return content


def _depth(content: Any) -> int:
    """Levels of lists and objects, counted without recursion."""
    depth, level = 0, [content]
    while level := [item for item in level if isinstance(item, (dict, list))]:
        depth += 1
        if depth > MAX_JSON_DEPTH:
            break
        level = [
            inner for item in level for inner in (item.values() if isinstance(item, dict) else item)
        ]
    return depth


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Hex SHA-256 of a file's content."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_sha256(
    content: Any, ordered: bool = False, default: Callable[[Any], Any] | None = None
) -> str:
    """Hex SHA-256 of a JSON value.

    Args:
        content: the value.
        ordered: whether the order of keys counts.
        default: turns other values into JSON data, see ``json.dumps``; None refuses it.
    """
    text = json.dumps(content, sort_keys=not ordered, default=default)
    return hashlib.sha256(text.encode()).hexdigest()


def versions(*packages: str) -> dict[str, str]:
    """Versions of this package and of others, by the names that pip knows."""
    return {"dynunet_bundle": __version__, **{name: _version_of(name) for name in packages}}


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # MONAI's weekly builds have another name for pip
        return str(getattr(sys.modules.get(package), "__version__", "unknown"))


def is_inside(name: str) -> bool:
    """Whether a file name from outside stays in the folder it is joined to, on POSIX and on Windows."""
    windows = PureWindowsPath(name)
    is_absolute = PurePosixPath(name).is_absolute() or bool(windows.drive or windows.root)
    return not is_absolute and ".." not in windows.parts


def fitting_name(name: str, reserve: int = 0) -> str:
    """A file name within the length limit: ``name``, or its start and a hash if it is too long.

    Args:
        name: a file name or the start of one.
        reserve: bytes that the caller will add to it.
    """
    encoded = os.fsencode(name)
    most = MAX_NAME_BYTES - reserve
    if len(encoded) <= most:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:16]
    start = encoded[: most - len(digest) - 1].decode(errors="ignore")
    return f"{start}~{digest}"


def case_name(path: str | os.PathLike[str]) -> str:
    """File name without folder and image suffix: ``a/b/hippocampus_003.nii.gz`` -> ``hippocampus_003``."""
    name = Path(path).name
    for suffix in IMAGE_SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return Path(name).stem


def ensure_writable(folder: str | os.PathLike[str]) -> Path:
    """Create ``folder`` if it is missing and check that a file can be written there.

    Raises:
        OutputError: if it cannot be created or written to.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(buffering=0, dir=folder, suffix=TEMPORARY_SUFFIX) as file:
            # an empty file fits on a full disk
            if file.write(bytes(PROBE_BYTES)) < PROBE_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise OutputError(
            f"cannot write to {folder}: {error.strerror or error}. "
            "Choose another folder (--output, --output_dir, --ckpt_dir, --prepared_dir, --cache_dir) or change its "
            "permissions."
        ) from error
    return folder
