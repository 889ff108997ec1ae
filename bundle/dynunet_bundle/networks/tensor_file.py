"""Files of torch from others: only tensors and plain values, and no more memory than the file has bytes.

torch's ``weights_only`` reader runs no code, but a file of 200 bytes may ask it for any amount of memory or time: by a
compressed entry, a ``bytearray`` of a length, a tensor that repeats one number, or lists that contain each other.
"""

import pickle  # noqa: S403 - for the name of its exception only
import pickletools
import re
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

ALLOWED = re.compile(
    r"(torch\._utils\._rebuild_(tensor(_v[23])?|parameter(_with_state)?|qtensor|sparse_tensor)"
    r"|torch\._utils\._rebuild_meta_tensor_no_storage|torch\.serialization\._get_layout"
    r"|torch\.(Size|device|[a-z]+[0-9]+\w*|bool|per_\w+|[A-SV-Z]\w*Storage)"
    r"|collections\.OrderedDict|_codecs\.encode)"
)
"""Names that files of weights and states use. Of those that torch allows, the missing ones take memory by a number."""

LEGACY_PICKLES = 4
"""Pickles of a file of torch before 1.6: two marks, the system, and the content; the keys of the storages follow."""

MAX_ITEMS = 1_000_000
"""Most values in a file; the state of a large training has some 10,000."""

MAX_DEPTH = 50
"""Most levels of lists and dictionaries; a state of ours has 6."""

MAX_SHARING = 16
"""How often all tensors together may use the bytes of a file: nnU-Net lists a weight up to four times."""


def load_tensors(path: Path, more: Mapping[str, Any] | None = None, mmap: bool = False) -> Any:
    """Load a file on the CPU. Nothing in it is executed.

    Args:
        path: a file of ``torch.save``.
        more: harmless stand-ins for further names that a file may hold, by name.
        mmap: read tensors when they are used, not now.

    Raises:
        pickle.UnpicklingError: if it names something else; the text has ``GLOBAL`` and the name.
        Exception: of many kinds, if it is damaged, or asks for more memory than it has bytes.
    """
    more = more or {}
    with path.open("rb") as file:
        for name in _names(file):
            if not ALLOWED.fullmatch(name) and name not in more:
                raise pickle.UnpicklingError(f"Unsupported GLOBAL {name}")
    with torch.serialization.safe_globals([(value, name) for name, value in more.items()]):
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    require_bounded(content, path.stat().st_size)
    return content


def _names(file: BinaryIO) -> Iterator[str]:
    """All names that the pickles of a file look up."""
    if file.read(4) != b"PK\x03\x04":
        file.seek(0)
        for _ in range(LEGACY_PICKLES):
            yield from names_in_pickle(file)
        return
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        _require_plain(entries, file.seek(0, 2))
        for entry in entries:
            if entry.filename.lower().endswith(".pkl"):
                yield from names_in_pickle(archive.read(entry))


def _require_plain(entries: Collection[zipfile.ZipInfo], size: int) -> None:
    """Refuse what torch never writes: compression, entries that overlap, two of one name, something before the zip."""
    if (
        any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        or sum(entry.file_size for entry in entries) > size
        or len({entry.filename.lower() for entry in entries}) < len(entries)
        or min((entry.header_offset for entry in entries), default=0) > 0
    ):
        raise ValueError("its zip is compressed, or not as torch writes it")


def names_in_pickle(data: bytes | BinaryIO) -> Iterator[str]:
    """Names that a pickle looks up, found without running it; ``the stack`` if they are not in the file as such.

    Raises:
        ValueError: if it is damaged, or a tuple in it would have more than ``MAX_ITEMS`` values, counted as often as
            they occur. A tuple of tuples of tuples as a key keeps a reader busy for years.
    """
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[Any, int] = {}
    argument: Any
    for code, argument, _ in pickletools.genops(data):
        if code.name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", ".", 1)
        elif code.name == "STACK_GLOBAL":
            yield "the stack"
        if code.name == "MARK":
            marks.append(len(stack))
        elif "PUT" in code.name or code.name == "MEMOIZE":
            memo[len(memo) if argument is None else argument] = stack[-1] if stack else 1
        elif "GET" in code.name:
            stack.append(memo.get(argument, 1))
        else:
            _count(code, stack, marks)


def _count(code: pickletools.OpcodeInfo, stack: list[int], marks: list[int]) -> None:
    """Replace the counts of values that an operation takes from the stack by the count of its result."""
    num_taken = len(code.stack_before)
    if pickletools.markobject in code.stack_before:
        num_taken = code.stack_before.index(pickletools.markobject)
        num_taken += len(stack) - (marks.pop() if marks else 0)
    start = max(len(stack) - num_taken, 0)
    count = 1 + sum(stack[start:])
    del stack[start:]
    stack += [count] * len(code.stack_after)
    if count > MAX_ITEMS:
        raise ValueError(f"it has more than {MAX_ITEMS} values")


def require_bounded(content: Any, size: int) -> None:
    """Refuse what a pickle may contain but no file of ours does.

    Args:
        content: what was read.
        size: bytes of the file.

    Raises:
        ValueError: if it has too many values or levels, or tensors of more bytes than the file.
    """
    num_items, num_bytes, level = 0, 0, [content]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, Mapping):
                found = [*item.keys(), *item.values()]
            elif isinstance(item, (list, tuple, set)):
                found = list(item)
            else:
                num_bytes += _bytes_of(item)
                continue
            num_items += len(found)
            inner += found
            if num_items > MAX_ITEMS:
                raise ValueError(f"it has more than {MAX_ITEMS} values")
        if not inner:
            break
        level = inner
    else:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
    if num_bytes > MAX_SHARING * size:
        raise ValueError("its tensors are larger than the file")


def _bytes_of(item: Any) -> int:
    """Bytes of the numbers of a tensor, also of those that share memory; 0 of anything else, which has none."""
    if not isinstance(item, torch.Tensor) or item.is_meta or item.layout != torch.strided:
        return 0
    return item.numel() * item.element_size()
