"""Case records as JSON Lines: one file per worker, so that no process rewrites or waits for the file of another.

Stored on disk: ``.run_records`` in the folder of the masks, with one file per worker and ``merged.jsonl``. Each line
has ``name``, ``run`` (an id of the run), ``stamps`` (size and time of change of each file) and ``case``, the entry of
``run.json``.
"""

import json
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from dynunet_bundle.dataset.cases import Case, all_files
from dynunet_bundle.dicom_input.names import files_within, is_series_name, parse_name
from dynunet_bundle.errors import OutputError
from dynunet_bundle.files import atomic_write, json_sha256, parse_json, writer
from dynunet_bundle.inference.run_json import CASE_SCHEMA
from dynunet_bundle.shapes import OBJECT, TEXT, object_with

FOLDER = ".run_records"
MERGED = "merged.jsonl"
"""Records of earlier runs, one line per case."""

SUFFIX = ".jsonl"

MAX_OPEN = 64
"""Files of records that are open at a time."""

RECORD_SCHEMA = object_with(
    {"name": TEXT, "run": TEXT, "stamps": OBJECT, "case": CASE_SCHEMA},
    ("name", "run", "stamps", "case"),
)
"""Schema of a line."""


class Journal:
    """The file of one process.

    Args:
        output_dir: folder of the masks.
        run: id of the run.
    """

    def __init__(self, output_dir: Path, run: str) -> None:
        self.path = output_dir / FOLDER / f"{writer()}{SUFFIX}"
        self.run = run

    def add(self, name: str, entry: Mapping[str, Any], stamps: Mapping[str, Any]) -> None:
        """Append one case. The line is on the disk, and visible to other machines, when this returns.

        Raises:
            OutputError: if it cannot be written.
        """
        line = {"name": name, "run": self.run, "stamps": stamps, "case": entry}
        try:
            self.path.parent.mkdir(exist_ok=True)
            # network file systems show a file to other machines when it is closed
            with self.path.open("ab") as file:
                # one after a line that a process could not finish
                file.write(b"\n" + json.dumps(line).encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(
                f"cannot write {self.path}: {error.strerror}. Free space or choose another folder."
            ) from error


class RecordIndex:
    """Where the last record of each case is; it holds two numbers per case, not the records.

    Args:
        output_dir: folder of the masks.
        names: names of all cases, in the order of ``run.json``.
    """

    def __init__(self, output_dir: Path, names: Sequence[str]) -> None:
        self.folder = output_dir / FOLDER
        self.names = names
        self._number = {name: index for index, name in enumerate(names)}
        self._files: list[Path] = []
        self._file = array("i", [-1]) * len(names)
        self._offset = array("q", [0]) * len(names)
        self._is_final = bytearray(len(names))

    def __contains__(self, name: str) -> bool:
        """Whether a case has a record."""
        return self._file[self._number[name]] >= 0

    def is_merged(self) -> bool:
        """Whether the last run of the folder came to its end."""
        return all(path.name == MERGED for path in _files_of(self.folder))

    def lines(self) -> Iterator[tuple[dict[str, Any], tuple[Path, int]]]:
        """All records of the cases, older files first, each with its place; broken lines are left out."""
        for path in _files_of(self.folder):
            with path.open("rb") as file:
                offset = 0
                for line in file:
                    found = _parsed(line, path)
                    if found is not None and found["name"] in self._number:
                        yield found, (path, offset)
                    offset += len(line)

    def newest(self) -> int:
        """Time of the last record in nanoseconds; -1 if there are none."""
        return max((path.stat().st_mtime_ns for path in _files_of(self.folder)), default=-1)

    def keep(self, name: str, place: tuple[Path, int], is_final: bool = False) -> None:
        """Take the record at a place as that of a case.

        Args:
            name: of the case.
            place: file, and offset in it.
            is_final: whether no later record takes its place.
        """
        if self._is_final[self._number[name]]:
            return
        self._is_final[self._number[name]] = is_final
        path, offset = place
        if not self._files or self._files[-1] != path:
            self._files.append(path)
        number = self._number[name]
        self._file[number], self._offset[number] = len(self._files) - 1, offset

    def records(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Name and record of each case that has one, in the order of ``run.json``."""
        for name, line, path in self._kept_lines():
            found = _parsed(line, path)
            if found is not None:
                yield name, found

    def _kept_lines(self) -> Iterator[tuple[str, bytes, Path]]:
        """Name, line and file of each record that is kept."""
        opened: dict[int, BinaryIO] = {}
        try:
            for name, number, offset in zip(self.names, self._file, self._offset, strict=True):
                if number < 0:
                    continue
                if number not in opened:
                    if len(opened) >= MAX_OPEN:
                        opened.pop(next(iter(opened))).close()
                    opened[number] = self._files[number].open("rb")
                opened[number].seek(offset)
                yield name, opened[number].readline(), self._files[number]
        finally:
            for file in opened.values():
                file.close()

    def merge(self) -> None:
        """Write the records that are kept into one file, and remove the others."""
        before = _files_of(self.folder)
        if not before:
            return
        with atomic_write(self.folder / MERGED) as file:
            for _, line, _ in self._kept_lines():
                file.write(line.rstrip(b"\n") + b"\n")
        for path in before:
            if path.name != MERGED:
                path.unlink(missing_ok=True)


def remove_records(output_dir: Path) -> None:
    """Remove all records of a folder."""
    for path in _files_of(output_dir / FOLDER):
        path.unlink(missing_ok=True)


def stamps_of(case: Case, output_dir: Path, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Size and time of change of the files of a case and of its results; they tell whether a file was replaced."""
    inputs = [file for role, file in all_files(case).items() if role != "label"]
    results = [entry.get("mask"), *entry.get("objects", ())]
    return {
        "inputs": [_stamp_of_input(file) for file in inputs],
        "results": [_stamp(output_dir / name) for name in results if name],
    }


def _stamp_of_input(file: str) -> Any:
    if not is_series_name(file):
        return _stamp(Path(file))
    source = parse_name(file).source
    return _stamp_of_folder(str(source)) if source.is_dir() else _stamp(source)


@lru_cache(maxsize=64)
def _stamp_of_folder(folder: str) -> str:
    return json_sha256(
        sorted([str(path), *(_stamp(path) or ())] for path in files_within(Path(folder)))
    )


def _stamp(path: Path) -> list[int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _files_of(folder: Path) -> list[Path]:
    """The files of records; that of earlier runs first, then by the time of their last line."""
    found = [path for path in folder.glob(f"*{SUFFIX}") if path.is_file()]
    return sorted(found, key=lambda path: (path.name != MERGED, path.stat().st_mtime_ns, path.name))


def _parsed(line: bytes, path: Path) -> dict[str, Any] | None:
    """A record; None for an empty line, and for one that its process did not finish."""
    if line.isspace():
        return None
    try:
        found: dict[str, Any] = parse_json(line, path, OutputError, RECORD_SCHEMA)
    except OutputError:
        return None
    return found
