"""Predictions of parts of the cases: which cases, and one run.json that all of them write."""

import json
from pathlib import Path
from typing import Any

import pytest

from dynunet_bundle.commands.main import run_program
from dynunet_bundle.dataset.case_parts import cases_of_part, part_name
from dynunet_bundle.errors import ConfigError
from dynunet_bundle.inference.run_json import read_run_json
from dynunet_bundle.inference.run_parts import merged_run

CASES = [{"image": f"{name}.nii.gz"} for name in "abcde"]


def content(
    status: str, *names: str, made_by: str = "x", code: int | None = None
) -> dict[str, Any]:
    cases = {name: {"status": "done"} for name in names}
    error = "case b: bad" if status == "failed" else None
    return {
        "made_by": made_by,
        "status": status,
        "exit_code": code,
        "error": error,
        "cases": cases,
    }


def write(path: Path, own: dict[str, Any], names: str, number: int, num_parts: int = 2) -> dict:
    path.write_text(json.dumps(merged_run(path, own, list(names), (number, num_parts))))
    return read_run_json(path)


@pytest.mark.parametrize("num_parts", [1, 2, 3, 5])
def test_each_case_is_in_one_part_as_in_nnunet(num_parts: int) -> None:
    parts = [cases_of_part(CASES, (number, num_parts)) for number in range(num_parts)]
    assert parts == [CASES[number::num_parts] for number in range(num_parts)]
    assert cases_of_part(CASES, None) == CASES


@pytest.mark.parametrize(
    ("part", "message"), [((2, 2), "no part 2 of 2"), ((5, 6), "part 5 of 6 has no cases")]
)
def test_a_part_must_exist(part: tuple[int, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cases_of_part(CASES, part)


def test_parts_have_locks_of_their_own() -> None:
    assert part_name((0, 2)) == "part_0_of_2" != part_name((1, 2))


def test_one_file_tells_of_all_parts(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    assert write(path, content("running"), "ac", 0)["status"] == "running"
    assert write(path, content("running", "b"), "bd", 1)["exit_code"] is None
    run = write(path, content("finished", "a", "c", code=0), "ac", 0)
    assert (run["status"], sorted(run["cases"])) == ("running", ["a", "b", "c"])
    run = write(path, content("finished", "b", "d", code=0), "bd", 1)
    assert (run["status"], run["exit_code"], list(run["cases"])) == ("finished", 0, list("abcd"))


def test_the_whole_has_failed_if_a_part_has(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    run = write(path, content("failed", "b", code=1), "b", 1)
    assert run["status"] == "failed"
    run = write(path, content("finished", "a", code=0), "a", 0)
    assert (run["status"], run["exit_code"], run["error"]) == ("failed", 1, "case b: bad")
    run = write(path, content("finished", "b", code=0), "b", 1)
    assert (run["status"], run["exit_code"], run["error"]) == ("finished", 0, None)


def test_a_part_that_has_not_begun_is_not_finished(tmp_path: Path) -> None:
    run = write(tmp_path / "run.json", content("finished", "a", code=0), "a", 0)
    assert (run["status"], run["exit_code"]) == ("incomplete", None)


@pytest.mark.parametrize(("made_by", "num_parts"), [("y", 2), ("x", 3)])
def test_other_runs_are_not_mixed(made_by: str, num_parts: int, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write(path, content("finished", "a", code=0), "a", 0)
    own = content("finished", "b", made_by=made_by, code=0)
    run = write(path, own, "b", 1, num_parts)
    assert run["status"] == "incomplete" and list(run["parts"]["states"]) == ["1"]
    assert list(run["cases"]) == (["a", "b"] if made_by == "x" else ["b"])


def test_both_numbers_are_needed(tmp_path: Path) -> None:
    words = ["predict", "-i", str(tmp_path), "-o", str(tmp_path / "out"), "--num_parts", "2"]
    with pytest.raises(ConfigError, match="go together"):
        run_program(words)
