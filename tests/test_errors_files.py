"""Errors reach the user as one line and exit code 2; files are whole or absent; progress lines."""

import errno
import logging
import os
import pickle
import re
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import BUNDLE

from dynunet_bundle.errors import (
    BundleError,
    CaseError,
    ConfigError,
    DatasetError,
    OutputError,
    PlanError,
    WeightsError,
    find_user_error,
    install_excepthook,
    user_errors_exit,
)
from dynunet_bundle.files import (
    atomic_write,
    case_name,
    ensure_writable,
    read_json,
    remove_leftovers,
    sha256_of,
    write_json,
)
from dynunet_bundle.terminal import progress


def raised(action) -> BaseException:
    """The exception that ``action`` raises."""
    with pytest.raises(BaseException) as info:
        action()
    return info.value


def test_a_message_with_a_whole_file_is_cut_and_says_what_to_do() -> None:
    assert str(PlanError("x" * 4000)) == "x" * 4000
    shown = str(ConfigError(f"the value is {'x' * 10**6}. Write a number."))
    assert len(shown) < 4000 and shown.startswith("the value is x")
    assert shown.endswith("x. Write a number.")


def wrap_twice() -> None:
    """As MONAI's Compose and then Ignite do."""
    try:
        try:
            raise PlanError("the plan")
        except PlanError as error:
            raise RuntimeError("applying transform") from error
    except RuntimeError as error:
        raise KeyError("engine") from error


def fail_while_handling() -> None:
    try:
        raise DatasetError("the data set")
    except DatasetError:
        raise RuntimeError("in the except block")  # noqa: B904 - the implicit context is the point


# --- errors


@pytest.mark.parametrize("kind", [DatasetError, PlanError, ConfigError, WeightsError, OutputError])
def test_all_user_errors_share_one_base(kind: type[BundleError]):
    error = kind("text")
    assert find_user_error(error) is error
    assert isinstance(error, ValueError)


SERVER = """
import pickle, sys
from types import ModuleType

class HTTPException(Exception):
    def __init__(self, status_code, detail=None, headers=None):
        self.status_code, self.detail, self.headers = status_code, detail, headers
    def __str__(self):
        return f"{self.status_code}: {self.detail}"

for name in ("monailabel", "starlette", "starlette.exceptions"):
    sys.modules[name] = ModuleType(name)
sys.modules["starlette.exceptions"].HTTPException = HTTPException

from dynunet_bundle.errors import CaseError, ConfigError, PredictionError
for error in (CaseError("a", "it is empty", "Remove it."), ConfigError("b\x07"), PredictionError("c")):
    error = pickle.loads(pickle.dumps(error))
    assert isinstance(error, HTTPException) and isinstance(error, ValueError)
    print(error.status_code, error.headers, error.detail, "|", error)
"""


def test_monai_label_answers_with_the_text_of_a_user_error() -> None:
    """Its server answers with the text of an HTTPException alone."""
    done = subprocess.run(
        [sys.executable, "-c", SERVER], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == [
        "400 None case a: it is empty. Remove it. | case a: it is empty. Remove it.",
        "400 None b\\x07 | b\\x07",
        "500 None c | c",
    ], done.stderr


def test_a_user_error_is_found_through_causes_and_contexts():
    assert str(find_user_error(raised(wrap_twice))) == "the plan"
    assert str(find_user_error(raised(fail_while_handling))) == "the data set"


def test_the_outermost_user_error_wins():
    inner, outer = DatasetError("inner"), ConfigError("outer")
    outer.__cause__ = inner
    assert find_user_error(outer) is outer


def test_other_errors_are_not_user_errors():
    one, other = RuntimeError("one"), KeyError("other")
    one.__cause__, other.__cause__ = other, one  # a ring must not hang the search
    assert find_user_error(one) is None
    assert find_user_error(None) is None


@pytest.mark.parametrize("name", ["x" * 5000, "a" * 300])
def test_a_path_that_the_system_refuses_is_a_user_error(tmp_path: Path, name: str):
    with pytest.raises(OSError, match="too long") as caught:
        (tmp_path / name).is_dir()
    error = find_user_error(caught.value)
    assert isinstance(error, ConfigError)
    assert str(error).startswith(f'cannot use the path "{tmp_path}')
    assert "too long. Pass another path" in str(error)


def test_case_error_says_what_and_survives_a_process_border():
    error = CaseError("case_7", "it is flat", "Blow it up.")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(copy) is CaseError
    assert str(copy) == str(error) == "case case_7: it is flat. Blow it up."
    assert (copy.case, copy.problem, copy.remedy) == ("case_7", "it is flat", "Blow it up.")


def test_user_errors_exit_gives_one_line_and_code_2(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as info, user_errors_exit():
        wrap_twice()
    assert info.value.code == 2
    captured = capsys.readouterr()
    assert captured.err == "error: the plan\n"
    assert captured.out == ""


def test_user_errors_exit_lets_other_errors_pass():
    with pytest.raises(ZeroDivisionError), user_errors_exit():
        _ = 1 / 0


HOOKED = """
from dynunet_bundle.errors import CaseError, install_excepthook
install_excepthook()
print("working")
try:
    {statement}
except ValueError as error:
    raise RuntimeError("engine broke") from error
"""


def run_hooked(statement: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", HOOKED.format(statement=statement)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_excepthook_turns_a_wrapped_user_error_into_one_line():
    result = run_hooked("raise CaseError('case_7', 'it is flat', 'Blow it up.')")
    assert result.returncode == 2
    assert result.stdout == "working\n"
    assert result.stderr == "error: case case_7: it is flat. Blow it up.\n"


def test_the_excepthook_leaves_other_errors_their_traceback():
    result = run_hooked("raise ValueError('not ours')")
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "RuntimeError: engine broke" in result.stderr


def test_the_excepthook_passes_other_errors_to_the_hook_before(monkeypatch: pytest.MonkeyPatch):
    seen: list[BaseException] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, traceback: seen.append(error))
    install_excepthook()
    other = KeyError("other")
    sys.excepthook(KeyError, other, None)
    assert seen == [other]
    with pytest.raises(SystemExit):
        sys.excepthook(PlanError, PlanError("ours"), None)
    assert seen == [other]


# --- files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_atomic_write_replaces_the_old_file(tmp_path: Path):
    path = tmp_path / "model.pt"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"  # until the block has ended
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["model.pt"]


@pytest.mark.parametrize("error", [RuntimeError("bug"), KeyboardInterrupt()])
def test_a_failed_atomic_write_leaves_the_old_file_alone(tmp_path: Path, error: BaseException):
    path = tmp_path / "model.pt"
    path.write_bytes(b"old")
    with pytest.raises(type(error)), atomic_write(path) as file:
        file.write(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["model.pt"]


def test_a_full_disk_is_an_output_error_and_leaves_nothing(tmp_path: Path):
    with pytest.raises(OutputError, match=r"cannot write .*model\.pt.*No space left"):
        with atomic_write(tmp_path / "model.pt"):
            raise OSError(28, "No space left on device")
    assert names(tmp_path) == []


def test_atomic_write_into_a_folder_that_is_not_there(tmp_path: Path):
    with pytest.raises(OutputError, match=r"nowhere.*No such file"):
        with atomic_write(tmp_path / "nowhere" / "model.pt"):
            pass


def test_written_files_follow_the_umask_of_the_process(tmp_path: Path):
    before = os.umask(0o027)
    try:
        write_json(tmp_path / "a.json", {})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o640


def test_threads_that_write_at_once_keep_the_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # the store writes from several threads, and a umask belongs to the whole process
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # slow, and not what is tested
    before, interval = os.umask(0o022), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda index: write_json(tmp_path / f"{index}.json", {}), range(4000)))
    finally:
        sys.setswitchinterval(interval)
        after = os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o644}
    assert after == 0o022


def test_json_comes_back_as_written(tmp_path: Path):
    content = {"label_names": ["background", "Läsion"], "spacing": [1.0, None]}
    write_json(tmp_path / "plan.json", content)
    assert read_json(tmp_path / "plan.json", PlanError, {}) == content
    assert (tmp_path / "plan.json").read_text().endswith("}\n")


def test_unreadable_json_is_the_callers_error_and_names_the_file(tmp_path: Path):
    path = tmp_path / "plan.json"
    with pytest.raises(PlanError, match=r"plan\.json does not exist"):
        read_json(path, PlanError, {})
    path.write_text('{\n  "a": 1,\n  oops\n}')
    with pytest.raises(ConfigError, match=r"plan\.json is not valid JSON: .*line 3"):
        read_json(path, ConfigError, {})
    path.write_bytes(b'"\xff"')
    with pytest.raises(ConfigError, match=r"plan\.json is not valid JSON"):
        read_json(path, ConfigError, {})
    with pytest.raises(ConfigError, match="cannot be read"):
        read_json(tmp_path, ConfigError, {})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[" * 200 + "]" * 200, "nested deeper than 100 levels"),
        ("[" * 100_000 + "]" * 100_000, "not valid JSON|nested deeper"),
        ("1" * 100_000, "not valid JSON: .*digits"),
        ("{", "not valid JSON"),
        ("", "not valid JSON"),
        (r'"\ud800"', "not valid JSON: .*surrogates not allowed"),
    ],
)
def test_odd_json_is_refused_in_one_line(tmp_path: Path, text: str, problem: str):
    path = tmp_path / "odd.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=problem) as caught:
        read_json(path, ConfigError, {})
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400 + len(str(path))


def test_a_byte_order_mark_is_read_over(tmp_path: Path):
    (tmp_path / "bom.json").write_bytes(b"\xef\xbb\xbf" + b'{"a": 1}')
    assert read_json(tmp_path / "bom.json", ConfigError, {}) == {"a": 1}


SHAPE = {
    "type": "object",
    "required": ["cases"],
    "properties": {
        "cases": {"type": "object", "additionalProperties": {"type": "array"}},
        "mean": {"type": ["number", "null"]},
    },
}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([], "the whole content: .* is not of type 'object'"),
        ({}, "'cases' is a required property"),
        ({"cases": {"a": [1], "b": 3}}, "cases.b: 3 is not of type 'array'"),
        ({"cases": {}, "mean": "x" * 9999}, "mean: "),
        ({"cases": {}, "mean": float("nan")}, "mean: nan is not of type"),
        ({"cases": {}, "mean": 10**400}, "mean: it is not as the schema's type .* says"),
        ({"cases": {}, "mean": True}, "mean: True is not of type"),
        ({"cases": {"a\nb": 1}}, r"cases\['a\\nb'\]: 1 is not of type 'array'"),
    ],
)
def test_json_of_another_shape_names_the_field(tmp_path: Path, content: Any, problem: str):
    path = tmp_path / "run.json"
    write_json(path, {"cases": {"a": []}, "mean": 0.5})
    assert read_json(path, ConfigError, SHAPE)["mean"] == 0.5
    write_json(path, content)
    with pytest.raises(ConfigError, match=problem) as caught:
        read_json(path, ConfigError, SHAPE)
    assert str(caught.value).startswith(f"{path}: ") and len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('{"labels": {"0": "background", "1": "a", "1": "b"}}', '"1"'),
        ('{"a": 1, "b": 2, "a": 1}', '"a"'),
        (r'[{"x\u001b": 0, "x\u001b": 0}]', r'"x\u001b"'),
    ],
)
def test_a_key_that_is_given_twice_is_refused(tmp_path: Path, text: str, key: str):
    path = tmp_path / "dataset.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="duplicated") as caught:
        read_json(path, ConfigError, {})
    assert f"the key {key} is duplicated" in str(caught.value)


def test_no_message_leaves_the_plural_open():
    """``counted`` says it, so no text has a noun with ``(s)``."""
    open_plurals = [
        f"{path.name}: {line.strip()}"
        for path in (BUNDLE / "dynunet_bundle").rglob("*")
        if path.suffix in (".py", ".jinja")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"[a-z]\(s\)", line)
    ]
    assert open_plurals == []


def test_sha256_of_a_known_text(tmp_path: Path):
    (tmp_path / "abc").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of(tmp_path / "abc") == expected


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/b/hippocampus_003.nii.gz", "hippocampus_003"),
        ("case.v2.nii.gz", "case.v2"),
        ("CASE.NII.GZ", "CASE"),
        ("case.nii", "case"),
        ("case.v2.nrrd", "case.v2"),
        ("CASE.PNG", "CASE"),
        ("case_0000.tiff", "case_0000"),
        ("00.bmp", "00"),
        ("case.dcm", "case"),
        ("case", "case"),
    ],
)
def test_case_name(path: str, name: str):
    assert case_name(path) == name
    assert case_name(Path(path)) == name


def test_ensure_writable_makes_the_folder_and_leaves_it_empty(tmp_path: Path):
    folder = ensure_writable(tmp_path / "a" / "b")
    assert folder == tmp_path / "a" / "b"
    assert names(folder) == []


def test_ensure_writable_under_a_file(tmp_path: Path):
    # a folder without permissions would not do: root may write there
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(OutputError, match=f"cannot write to {folder}.*--output_dir"):
            ensure_writable(folder)


# --- progress


def test_progress_passes_all_items_on_and_logs_the_last(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, logger="dynunet_bundle.terminal")
    assert list(progress(iter("abc"), "prepare", total=3)) == ["a", "b", "c"]
    # nothing but the end: all of it took less than a line's interval
    assert [record.getMessage() for record in caplog.records] == ["prepare: 3 of 3"]


def test_progress_tells_the_time_left_in_fewer_and_fewer_lines(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, logger="dynunet_bundle.terminal")
    clock = iter(range(0, 10_000, 6))
    monkeypatch.setattr("dynunet_bundle.terminal.time.monotonic", lambda: float(next(clock)))
    # batches of two windows, 6 s each
    batches = [[0, 1]] * 50
    assert list(progress(batches, "windows", 100, unit="window", size=len)) == batches
    lines = [record.getMessage() for record in caplog.records]
    assert lines[:2] == ["windows: 4 of 100, 0:04:48 left", "windows: 12 of 100, 0:04:24 left"]
    assert lines[-1] == "windows: 100 of 100" and len(lines) == 6


def test_progress_on_a_terminal_is_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(progress(iter("abc"), "prepare", total=3)) == ["a", "b", "c"]
    assert "3/3" in capsys.readouterr().err


def test_leftovers_of_dead_writers_go_and_those_of_living_ones_stay(tmp_path):
    # a child that has ended, and been waited for, has a number that nobody uses
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    with atomic_write(tmp_path / "x"):
        host = next(tmp_path.iterdir()).name.split(".")[2].split("-")[0]
    gone = tmp_path / f".case [1].image.npy.{host}-{dead.pid}.abc.part"
    living = tmp_path / f".case [1].image.npy.{host}-{os.getpid()}.def.part"
    elsewhere = tmp_path / f".case [1].image.npy.{'0' * 8}-{dead.pid}.def.part"
    other = tmp_path / f".case 2.image.npy.{host}-{dead.pid}.ghi.part"
    for path in (gone, living, elsewhere, other):
        path.write_bytes(b"half")
    remove_leftovers(tmp_path, "case [1].")
    assert not gone.exists()
    assert living.exists() and elsewhere.exists() and other.exists()


def test_a_copy_to_a_full_disk_names_the_copy() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "from.txt", None, "to.txt")
    assert str(find_user_error(full)).startswith("cannot write to.txt: No space")
