"""Names with control characters, other terminals, Ctrl-C and closed pipes: no raw characters, and no traceback."""

import ast
import errno
import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, save_nifti
from helpers.package_cases import make_model

from dynunet_bundle.dataset.cases import unique_stem
from dynunet_bundle.drawing.text_table import text_table
from dynunet_bundle.errors import (
    CaseError,
    ConfigError,
    PredictionError,
    find_user_error,
    first_line,
    user_errors_exit,
)
from dynunet_bundle.evaluation.text_tables import measures_csv
from dynunet_bundle.files import MAX_NAME_BYTES, atomic_write, ensure_writable, fitting_name
from dynunet_bundle.report.text import clean
from dynunet_bundle.terminal import PrintableRecord, PrintableStream, next_command, printable, say

PACKAGE = ROOT / "bundle" / "dynunet_bundle"
SCRIPTS = sorted(path.stem for path in (ROOT / "scripts").glob("*.py"))

NAMES = {
    "a\x1b[2Jb": r"a\x1b[2Jb",  # clears the screen
    "a\nb": r"a\nb",
    "a\rb": r"a\rb",
    "a\x9b2Jb": r"a\x9b2Jb",  # the same as ESC [
    "a\u202egpj.b": r"a\u202egpj.b",  # shows what follows from right to left
    os.fsdecode(b"a\xffb"): r"a\udcffb",  # not UTF-8
}
"""Names of cases, and how they are shown."""

LONG = "n" * 240
LABELS = ["background", "=head", "+tail"]
RAW = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\ud800-\udfff]")

ASCII = {
    "LC_ALL": "C",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONUTF8": "0",
    "PYTHONIOENCODING": "ascii",
    "OMP_NUM_THREADS": "1",
}
"""A terminal and file names that know ASCII only, as in a bare container."""

SEVERAL = """
import json, runpy, sys
for script, arguments in json.loads(sys.argv[1]):
    sys.argv = [script, *arguments]
    for stream in (sys.stdout, sys.stderr):
        print("#", script, file=stream, flush=True)
    try:
        runpy.run_path(script, run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code or 0
    print("# ended", code, flush=True)
"""
"""Scripts one after another in one process, as torch is slow to import."""

INTERRUPTED = """
import os, runpy, signal, sys
from importlib.abc import MetaPathFinder

trigger = sys.argv[1].split(",")
sys.argv = sys.argv[2:]

# what a command needs before it runs
SMALL = ("errors", "terminal", "commands", "shapes", "configs.quiet", "machine.places")
ROOMS = ("dynunet_bundle.configs", "dynunet_bundle.machine")

class Interrupt(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if any(name == one or name.startswith(one + ".") for one in trigger):
            small = tuple(f"dynunet_bundle.{one}" for one in SMALL)
            if not name.startswith(small) and name not in ROOMS:
                trigger.clear()
                os.kill(os.getpid(), signal.SIGINT)

sys.path.insert(0, os.path.dirname(sys.argv[0]))
import dynunet_bundle
sys.meta_path.insert(0, Interrupt())
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""A script that gets Ctrl-C at the first import of a module."""

ARGUMENTS = {
    "benchmark": ["resample"],
    "check_dataset": ["DATA"],
    "compare": ["A", "B"],
    "download": ["--task", "4"],
    "draw_plan": ["DATA", "--output", "plan.png"],
    "ensemble": ["--members", "A", "--input", "DATA", "--output_dir", "OUT"],
    "evaluate": ["--predictions", "A", "--labels", "B"],
    "export": ["--output_dir", "OUT"],
    "postprocess": ["MASKS", "--output_dir", "OUT", "--nnunet_dir", "DATA"],
    "install": ["PACKAGE.zip"],
    "import_nnunet": ["--model", "MODEL", "--name", "organ_mr_task"],
    "federate": ["PACKAGE", "--output_dir", "OUT"],
    "find_best": ["DATA", "--runs", "A", "--output", "best.json"],
    "make_phantom": ["--output_dir", "OUT"],
    "package": ["--refresh_template"],
    "plan": ["DATA"],
    "predict": ["--input", ".", "--output_dir", "OUT"],
    "prepare": ["DATA"],
    "preview_feed": ["DATA", "--output", "feed.png"],
    "report": ["."],
    "sbom": ["--out", "sbom.json"],
    "slurm": ["DATA", "--output_dir", "OUT"],
    "status": ["RUN"],
    "train": ["DATA", "--output_dir", "OUT"],
    "verify_bundle": ["BUNDLE"],
}
"""Arguments that a script accepts before it imports what it works with."""


@pytest.mark.parametrize(("name", "shown"), NAMES.items(), ids=ascii)
def test_a_name_is_shown_without_control_characters(name: str, shown: str) -> None:
    assert printable(name) == shown
    assert text_table([["case", "x"], [name, "1"]])[1].split() == [shown, "1"]
    assert shown in first_line(CaseError(name, "it is bad", "Mend it."))
    assert clean(f"case {name}") == f"case {shown}".replace(r"\n", "\n")
    assert shown in measures_csv(summary_of(name)).decode()


def test_printable_text_stays_as_it_is() -> None:
    text = "größe 1, 3 × 4 mm² – 肝臓"
    assert printable(text) == text
    assert printable("a\n\tb\x1b", "\n\t") == "a\n\tb\\x1b"
    assert printable(Path("a\nb")) == r"a\nb"


def summary_of(case: str, label: str = "liver") -> dict[str, Any]:
    """A summary of one case, as far as the CSV reads it."""
    measures = ("dice", "iou", "hd95_mm", "assd_mm", "nsd", "sensitivity", "precision")
    volumes = ("volume_ml", "reference_volume_ml", "volume_difference_ml")
    return {"measures": {case: {label: dict.fromkeys((*measures, *volumes), -1.5)}}}


@pytest.mark.parametrize("start", ["=", "+", "-", "@"])
def test_a_csv_cell_is_not_a_formula(start: str) -> None:
    text = f"{start}cmd|' /C calc'!A0"
    row = measures_csv(summary_of(text, text)).decode().splitlines()[1].split(",")
    assert row[:2] == [f"'{text}"] * 2
    assert row[2:] == ["-1.5"] * 10


def stream_text(*texts: str, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    stream = PrintableStream(raw, encoding=encoding, errors="backslashreplace", newline="")
    for text in texts:
        stream.write(text)
    stream.flush()
    return raw.getvalue().decode(encoding)


def test_a_stream_escapes_what_is_not_layout() -> None:
    assert stream_text("a\x1b[2J\tb\n", "ü\ud800\r") == "a\\x1b[2J\tb\nü\\ud800\\r"
    assert stream_text("größe\n", encoding="ascii") == "gr\\xf6\\xdfe\n"
    # a progress bar
    assert stream_text("\r 10 %", "\r 20 %") == "\r 10 %\r 20 %"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("warning: a\x1b[2J\n", "\x1b[33mwarning: a\\x1b[2J\x1b[0m\n"),
        ("12:00:00 WARNING a\n", "\x1b[33m12:00:00 WARNING a\x1b[0m\n"),
        ("error: a\n  b\n", "\x1b[31merror: a\n  b\x1b[0m\n"),
        ("12:00:00 INFO warning: a\n", "12:00:00 INFO warning: a\n"),
        ("warnings: 3\n", "warnings: 3\n"),
    ],
)
def test_warnings_and_errors_are_coloured(line: str, shown: str) -> None:
    raw = io.BytesIO()
    stream = PrintableStream(raw)
    stream.has_colours = True
    stream.write(line)
    stream.flush()
    assert raw.getvalue().decode() == shown
    assert "\x1b" not in stream_text(line)


@pytest.mark.parametrize(
    ("given", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_colours_are_for_terminals_that_want_them(given: dict[str, str], coloured: bool) -> None:
    environment = {**os.environ, "TERM": "xterm", **given}
    environment.pop("NO_COLOR", None) if coloured else None
    command = [sys.executable, "-m", "dynunet_bundle", "train", "/nowhere", "-o", "/nowhere/out"]
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb") as terminal:
        subprocess.run(
            command, stderr=theirs, stdout=subprocess.DEVNULL, env=environment, check=False
        )
        os.close(theirs)
        shown = terminal.read1().decode()
    assert shown.splitlines()[-1].startswith("\x1b[31merror: " if coloured else "error: ")
    piped = subprocess.run(command, capture_output=True, env=environment, text=True, check=False)
    assert piped.stderr.splitlines()[-1].startswith("error: ")


def test_results_keep_names_on_their_line(capsys: pytest.CaptureFixture[str]) -> None:
    say("the page is {}", Path("a\nerror: b"))
    print(next_command("report", "a\nb", input="c d\x1b"))
    assert capsys.readouterr().out == (
        "the page is a\\nerror: b\nnext: dynunet-bundle report 'a\\nb' --input 'c d\\x1b'\n"
    )


def test_commands_print_names_by_say_only() -> None:
    """A text with values in it, given to ``print``, would show the line breaks of a path."""
    for path in (*PACKAGE.glob("commands/*.py"), *PACKAGE.glob("cross_validation/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
                texts = [ast.unparse(one) for one in node.args if isinstance(one, ast.JoinedStr)]
                assert not texts, path


def test_a_log_record_has_no_control_characters() -> None:
    def message(logger: str, text: str, *arguments: object) -> str:
        return PrintableRecord(
            logger, logging.INFO, "f", 1, text, arguments or None, None
        ).getMessage()

    own = "dynunet_bundle.images.read"
    assert message(own, "%s\n%d of %.1f", "a\nb\x1b", 3, 1.5) == "a\\nb\\x1b\n3 of 1.5"
    assert message(own, "%s: %s", Path("a\nb"), ValueError("c\nd")) == "a\\nb: c\\nd"
    assert message("monai", "%s", "several\nlines\x1b") == "several\nlines\\x1b"
    assert message(own, "100 %\x9b") == "100 %\\x9b"


def test_an_error_of_several_cases_keeps_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    for error, shown in (
        (ConfigError("a\nb"), "a\\nb"),
        (PredictionError("a:\n  b\x1b"), "a:\n  b\\x1b"),
    ):
        with pytest.raises(SystemExit), user_errors_exit():
            raise error
        assert capsys.readouterr().err == f"error: {shown}\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images and labels with such names, and a model."""
    home = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(0)
    for index, name in enumerate([*NAMES, LONG]):
        label = np.zeros((20, 20, 20), np.uint8)
        label[5:12, 5:12, 5 : 12 + index % 3] = 1
        label[12:15, 5:12, 5:12] = 2
        image = (label * 100 + rng.normal(0, 10, label.shape)).astype(np.float32)
        save_nifti(home / "data" / "images" / f"{name}.nii.gz", image)
        save_nifti(home / "data" / "labels" / f"{name}.nii.gz", label)
    make_model(home)
    return home


@pytest.fixture(scope="module")
def said(home: Path) -> dict[str, tuple[str, str, int]]:
    """Output, errors and exit code of the scripts, run on them in an ASCII terminal."""
    config = ["--config_file", "overlay.json"]
    commands: list[tuple[str, list[str]]] = [
        ("check_dataset", ["data"]),
        ("plan", ["--dataset_dir", "data", "--output", "plan/plan.json", "--cache_dir", "surveys"]),
        ("prepare", ["--dataset_dir", "data", *config, "--prepared_dir", "store"]),
        ("predict", ["--input", "data/images", "--output_dir", "out", "--model", "model.pt"]),
        ("ensemble", ["--members", "probabilities", "probabilities", "--input", "data/images"]),
        ("evaluate", ["--predictions", "out", "--labels", "data/labels", "--label_names", *LABELS]),
        ("compare", ["out", "out", "--output", "comparison.json"]),
    ]
    more = {
        "plan": ["--label_names", *LABELS, "--channel_names", "CT"],
        "predict": [*config, "--device", "cpu", "--precision", "float32", "--report", "run.html"],
        "ensemble": ["--output_dir", "ensemble"],
        "evaluate": ["--csv", "scores.csv", "--report", "scores.html", "--images", "data/images"],
    }
    more["predict"] += ["--save_probabilities", "probabilities"]
    runs = [
        (str(ROOT / "scripts" / f"{name}.py"), [*arguments, *more.get(name, [])])
        for name, arguments in commands
    ]
    done = subprocess.run(
        [sys.executable, "-c", SEVERAL, json.dumps(runs)],
        cwd=home,
        env={**os.environ, **ASCII},
        capture_output=True,
        check=False,
    )
    outputs, errors = (parts_of(text.decode("ascii")) for text in (done.stdout, done.stderr))
    assert list(outputs) == [name for name, _ in commands], done.stderr.decode()
    codes = {name: int(text.rpartition("# ended ")[2]) for name, text in outputs.items()}
    return {name: (outputs[name], errors[name], codes[name]) for name in outputs}


def parts_of(text: str) -> dict[str, str]:
    """What each script wrote."""
    parts = re.split(r"^# \S*/(\w+)\.py\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


SHOWN_ASCII = [
    printable(os.fsencode(name).decode("ascii", "surrogateescape")) for name in (*NAMES, LONG)
]
"""The names where Python takes file names for ASCII: it knows bytes only."""

WITH_NAMES = ("predict", "evaluate")
"""Scripts that show the name of each case."""


@pytest.mark.parametrize(
    "script", ["check_dataset", "plan", "prepare", "predict", "ensemble", "evaluate", "compare"]
)
def test_a_script_shows_such_names_in_an_ascii_terminal(
    said: dict[str, tuple[str, str, int]], script: str
) -> None:
    output, errors, code = said[script]
    assert code == 0, errors
    assert "Traceback" not in output + errors
    assert not RAW.search(output + errors)
    if script in WITH_NAMES:
        assert all(shown in output + errors for shown in SHOWN_ASCII)
    if script in ("plan", "evaluate", "compare"):
        assert all(label in output for label in LABELS[1:])


def test_all_files_of_such_names_are_written(
    said: dict[str, tuple[str, str, int]], home: Path
) -> None:
    names = {f"{name}.nii.gz" for name in (*NAMES, LONG)}
    for folder in ("out", "ensemble"):
        assert {path.name for path in (home / folder).glob("*.nii.gz")} == names
    assert len(list((home / "probabilities").glob("*.npy"))) == len(names)
    assert len(list((home / "store").glob("*.json"))) == len(names)
    assert not list(home.rglob("*.part"))
    run = json.loads((home / "out" / "run.json").read_text())
    files = {case["mask"].encode("ascii", "surrogateescape") for case in run["cases"].values()}
    assert files == {os.fsencode(name) for name in names}


@pytest.mark.parametrize("file", ["run.html", "scores.html", "scores.csv"])
def test_a_file_for_people_shows_such_names(
    said: dict[str, tuple[str, str, int]], home: Path, file: str
) -> None:
    # a line break of a name is a blank in HTML, as all white space
    text = (home / file).read_bytes().decode().replace("a\nb", r"a\nb")
    assert not RAW.search(text)
    assert all(shown in text for shown in SHOWN_ASCII)
    if file.endswith(".csv"):
        assert len(text.splitlines()) == 1 + 2 * (len(NAMES) + 1)
        assert all(f",'{label}," in text for label in LABELS[1:])


@pytest.mark.parametrize("character", ["n", "肝", "\udcff"])
def test_names_derived_from_a_long_name_fit(tmp_path: Path, character: str) -> None:
    name = character * (240 // len(os.fsencode(character)))
    case = {"image": str(tmp_path / f"{name}.nii.gz")}
    for file in (f"{name}.nii.gz", f"{unique_stem(case)}.positions.npy"):
        with atomic_write(tmp_path / file) as target:
            target.write(b"x")
        assert (tmp_path / file).read_bytes() == b"x"
    other = {"image": str(tmp_path / f"{name}{character}.nii.gz")}
    assert unique_stem(case)[:-9] != unique_stem(other)[:-9]
    assert len(os.fsencode(fitting_name(name, 40))) <= MAX_NAME_BYTES - 40
    assert fitting_name(name, 15) == name


def closed_pipe() -> int:
    """The end to write into of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize(
    ("script", "unbuffered"), [*((script, "") for script in SCRIPTS), ("status", "1")]
)
def test_a_closed_pipe_ends_a_script_quietly(script: str, unbuffered: str) -> None:
    """As ``script | head -0``."""
    writer = closed_pipe()
    try:
        command = [sys.executable, str(ROOT / "scripts" / f"{script}.py"), "--help"]
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_closed_pipe_loses_text_but_no_work(home: Path, tmp_path: Path, closed: str) -> None:
    """The log goes to stderr, the plan to stdout."""
    arguments = ["--dataset_dir", "data", "--out", str(tmp_path / "plan.json")]
    command = [sys.executable, str(ROOT / "scripts" / "plan.py"), *arguments]
    writer = closed_pipe()
    try:
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, closed: writer}
        done = subprocess.run(
            [*command, "--cache_dir", str(tmp_path)], cwd=home, text=True, check=False, **streams
        )
    finally:
        os.close(writer)
    assert (tmp_path / "plan.json").is_file()
    assert done.returncode == (141 if closed == "stdout" else 0)
    assert "Traceback" not in (done.stderr or "")


def test_output_to_a_full_disk_is_an_error(home: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, str(ROOT / "scripts" / "check_dataset.py"), "data"]
        done = subprocess.run(
            command, cwd=home, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: cannot write all output: No space left")
    assert "Traceback" not in done.stderr


def interrupted(script: str, trigger: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", INTERRUPTED, trigger]
    command += [str(ROOT / "scripts" / f"{script}.py"), *ARGUMENTS[script]]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("script", SCRIPTS)
def test_ctrl_c_during_imports_ends_a_script_quietly(script: str, tmp_path: Path) -> None:
    done = interrupted(
        script, "dynunet_bundle,benchmarks,numpy,torch,nibabel,cyclonedx_py", tmp_path
    )
    again = "stopped. Run the same command again; it downloads the archive anew."
    code, line = (75, again) if script == "download" else (130, "stopped by Ctrl-C")
    assert (done.returncode, done.stdout, done.stderr) == (code, "", f"{line}\n")


def test_ctrl_c_inside_a_large_library_does_too(tmp_path: Path) -> None:
    done = interrupted("predict", "torch.nn", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped by Ctrl-C\n")


def test_an_import_in_c_may_wrap_ctrl_c(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as info, user_errors_exit():
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise ImportError("initialization failed") from error
    assert info.value.code == 130
    assert capsys.readouterr().err == "stopped by Ctrl-C\n"


def test_a_process_that_died_is_not_a_closed_pipe() -> None:
    with pytest.raises(BrokenPipeError), user_errors_exit():
        raise BrokenPipeError(32, "Broken pipe")


def test_a_full_disk_is_a_user_error() -> None:
    wrapped = RuntimeError("an engine failed")
    wrapped.__cause__ = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "events.out")
    error = find_user_error(wrapped)
    assert str(error).startswith("cannot write events.out: No space left on device. Free space")


def test_a_folder_on_a_full_disk_is_refused(tmp_path: Path) -> None:
    program = f"""
import resource
from dynunet_bundle.errors import user_errors_exit
from dynunet_bundle.files import ensure_writable
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
with user_errors_exit():
    ensure_writable({str(tmp_path)!r})
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: cannot write to {tmp_path}: File too large.")
    assert not list(tmp_path.iterdir())
    assert ensure_writable(tmp_path) == tmp_path
