"""``run.json`` of a prediction on a cluster: workers append records of cases, the command joins them at the end."""

import json
import logging
import textwrap
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from dynunet_bundle.cluster.journal import Journal, RecordIndex, remove_records, stamps_of
from dynunet_bundle.dataset.cases import Case, image_files, name_of
from dynunet_bundle.dicom_input.names import files_within, is_series_name, parse_name
from dynunet_bundle.errors import EXIT_FAILED
from dynunet_bundle.files import atomic_write
from dynunet_bundle.inference.run_record import RunRecord

CASES = '"cases": {}'
"""End of the head of ``run.json``, where the cases are put in."""

INDENT = 4 * " "
"""That of ``write_json``."""

logger = logging.getLogger(__name__)


class WorkerRecord(RunRecord):
    """The record of a worker: it appends each case to the file of this process, and forgets it.

    Args:
        run: id of the run.
        **settings: as for ``RunRecord``.
    """

    def __init__(self, run: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.journal = Journal(self.path.parent, run)
        self.entry: dict[str, Any] | None = None

    def take(self, case: Case) -> None:
        """The next case."""
        self.cases, self.entry = {name_of(case): case}, None

    def note_failure(self, message: str) -> None:
        """Record that the case failed, unless it has a record."""
        if self.entry is None:
            (name,) = self.cases
            self._content["cases"][name] = self._failed(name, message)
            self._write()

    def _start(self) -> None:
        # the weights are hashed once
        if not self._content:
            super()._start()

    def _fail(self, error: BaseException) -> None:
        raise error

    def _write(self) -> None:
        entries: dict[str, Any] = self._content["cases"]
        for name, entry in entries.items():
            self.entry = entry
            self.journal.add(name, entry, stamps_of(self.cases[name], self.path.parent, entry))
        entries.clear()


class ClusterRecord(RunRecord):
    """The record of the command. It keeps a place in a file for each case, not its content.

    ``run.json`` is written as the run begins and as it ends.

    Args:
        **settings: as for ``RunRecord``.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.run = uuid4().hex
        self.index = RecordIndex(self.path.parent, list(self.cases))
        self._journal = Journal(self.path.parent, self.run)

    def remaining(self) -> list[Case]:
        """The cases that still have to be predicted, the largest first.

        Raises:
            ConfigError: if run.json is malformed.
        """
        if self.resume:
            self._take_run_json()
            made_by = self.made_by()
            for record, place in self.index.lines():
                if self._stands(record, made_by):
                    self.index.keep(record["name"], place)
        else:
            remove_records(self.path.parent)
        left = [case for name, case in self.cases.items() if name not in self.index]
        if len(left) < len(self.cases):
            number = len(self.cases) - len(left)
            logger.info("%d of %d cases are already done", number, len(self.cases))
        return sorted(left, key=_size_of, reverse=True)

    def begin(self, device: str) -> None:
        """Write ``run.json`` with the cases that are done.

        Args:
            device: of the workers.
        """
        self.device = device
        self._start()

    def note_lost(self, name: str, message: str) -> None:
        """Record a case whose workers died."""
        self._journal.add(name, self._failed(name, message), {})

    def complete(self, has_failures: bool) -> None:
        """Write ``run.json`` with all cases.

        Args:
            has_failures: whether a case failed.
        """
        self._collect()
        self._finish("failed" if has_failures else "finished", EXIT_FAILED if has_failures else 0)
        self.index.merge()

    def stop(self, error: BaseException) -> None:
        """Write ``run.json`` with the cases that were done before an error or a stop signal, and raise it."""
        if self._content:
            self._collect()
        try:
            self._fail(error)
        finally:
            # after run.json, which is then not newer than the records
            self.index.merge()

    def _take_run_json(self) -> None:
        """Make records of a ``run.json`` that a prediction without a cluster wrote."""
        newest = self.index.newest()
        if not self.path.is_file() or self.path.stat().st_mtime_ns <= newest:
            return
        super().remaining()
        for name, entry in self._kept.items():
            stamps = stamps_of(self.cases[name], self.path.parent, entry)
            self._journal.add(name, entry, stamps)
        self._kept = {}

    def _stands(self, record: Mapping[str, Any], made_by: str) -> bool:
        """Whether a record is that of files that are there; files are read only if one was touched."""
        entry, case = record["case"], self.cases[record["name"]]
        if entry.get("status") != "done" or entry.get("made_by") != self._of_case(made_by, case):
            return False
        stamps = stamps_of(case, self.path.parent, entry)
        same = record["stamps"] == stamps and None not in stamps["results"]
        return same or self._is_done(entry, case, made_by)

    def _collect(self) -> None:
        """Find the records of this run; one of a finished case counts more than one of a failure."""
        for record, place in self.index.lines():
            if record["run"] == self.run:
                is_done = record["case"].get("status") == "done"
                self.index.keep(record["name"], place, is_final=is_done)

    def _write(self) -> None:
        self._content["seconds"] = round(time.monotonic() - self._begun, 3)
        head = json.dumps({**self._content, "cases": {}}, indent=len(INDENT))
        before, _, after = head.rpartition(CASES)
        with atomic_write(self.path) as file:
            file.write(before.encode() + b'"cases": {')
            separator = "\n"
            for name, record in self.index.records():
                entry = json.dumps(record["case"], indent=len(INDENT))
                text = f"{json.dumps(name)}: {entry}"
                file.write((separator + textwrap.indent(text, 2 * INDENT)).encode())
                separator = ",\n"
            end = f"\n{INDENT}}}" if separator != "\n" else "}"
            file.write(f"{end}{after}\n".encode())


def _size_of(case: Case) -> int:
    """Bytes of the images of a case, which tell the time that it takes; a folder of series counts for each of them."""
    return sum(map(_bytes_of, image_files(case)))


@lru_cache(maxsize=1024)
def _bytes_of(image: str) -> int:
    source = parse_name(image).source if is_series_name(image) else Path(image)
    files = files_within(source) if source.is_dir() else (source,)
    return sum(file.stat().st_size for file in files if file.is_file())
