"""Records of cases as JSON Lines: broken lines, later lines, one file in the end; and the costs of 100,000 cases."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import BUNDLE

from dynunet_bundle.cluster.journal import FOLDER, MERGED, Journal, RecordIndex, stamps_of

NAMES = ("a", "b", "c")


def journal(folder: Path, name: str, run: str = "one") -> Journal:
    made = Journal(folder, run)
    made.path = made.path.with_name(f"{name}.jsonl")
    return made


def index_of(folder: Path) -> RecordIndex:
    index = RecordIndex(folder, NAMES)
    for record, place in index.lines():
        index.keep(record["name"], place, is_final=record["case"]["status"] == "done")
    return index


def cases_of(index: RecordIndex) -> dict[str, str]:
    return {name: record["case"]["status"] for name, record in index.records()}


def test_records_of_several_workers_are_in_the_order_of_the_cases(tmp_path: Path) -> None:
    journal(tmp_path, "one").add("c", {"status": "done"}, {})
    journal(tmp_path, "two").add("a", {"status": "failed"}, {})
    index = index_of(tmp_path)
    assert list(cases_of(index).items()) == [("a", "failed"), ("c", "done")]
    assert "b" not in index and "c" in index


def test_a_done_case_outlasts_its_failure(tmp_path: Path) -> None:
    journal(tmp_path, "one").add("a", {"status": "done"}, {})
    os.utime(tmp_path / FOLDER / "one.jsonl", (1, 1))
    journal(tmp_path, "two").add("a", {"status": "failed"}, {})
    assert cases_of(index_of(tmp_path)) == {"a": "done"}


@pytest.mark.parametrize(
    "broken", [b'\n{"name": "b", "ru', b"\nnull", b'\n{"name": "b"}', b"\n\xff"]
)
def test_a_line_that_was_not_finished_is_left_out(broken: bytes, tmp_path: Path) -> None:
    ours = journal(tmp_path, "one")
    ours.add("a", {"status": "done"}, {})
    with ours.path.open("ab") as file:
        file.write(broken)
    ours.add("c", {"status": "done"}, {})
    assert cases_of(index_of(tmp_path)) == {"a": "done", "c": "done"}


def test_a_merge_leaves_one_file_with_the_same_records(tmp_path: Path) -> None:
    for number, name in enumerate("abca"):
        journal(tmp_path, str(number)).add(name, {"status": "done"}, {"number": number})
    index = index_of(tmp_path)
    before = dict(index.records())
    assert not index.is_merged()
    index.merge()
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == [MERGED]
    again = index_of(tmp_path)
    assert again.is_merged() and dict(again.records()) == before


def test_stamps_change_with_the_files(tmp_path: Path) -> None:
    image, mask = tmp_path / "a.nii.gz", tmp_path / "mask.nii.gz"
    image.write_bytes(b"1")
    mask.write_bytes(b"2")

    def stamps() -> dict[str, Any]:
        return stamps_of({"image": str(image)}, tmp_path, {"mask": mask.name})

    before = stamps()
    assert before == json.loads(json.dumps(before)) == stamps()
    mask.write_bytes(b"33")
    assert stamps() != before
    mask.unlink()
    assert stamps()["results"] == [None]


@pytest.mark.parametrize(
    "count", [500, pytest.param(100_000, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_what_the_books_of_many_cases_cost(count: int, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("many_cases.py"), tmp_path, str(count)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(BUNDLE)},
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["left_after_restart"] == count - count // 2
    assert told["status"] == "finished" and told["in_order"]
    print(told)
    assert told["memory_mib"] < 50
    if count > 1000:
        # of a run of hours; a few cases pay for imports
        assert told["ms_per_case"] < 5 and told["resume_cpu_s"] < 30
