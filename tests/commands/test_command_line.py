"""``dynunet-bundle``: the commands, their help, the names of their options, and what is installed."""

import argparse
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import BUNDLE, ROOT

from dynunet_bundle import __version__
from dynunet_bundle.commands.main import COMMANDS, run_program
from dynunet_bundle.commands.parser import (
    CommandParser,
    command_module,
    command_parser,
    overlay_file,
)
from dynunet_bundle.errors import ConfigError

ONE_NAME = {
    "result folder": "output_dir",
    "overlays": "config_file",
    "data set": "dataset_dir",
    "images": "input",
    "previous stage": "previous_dir",
    "probabilities": "probabilities_dir",
    "processes": "processes",
    "mirroring": "mirroring",
}
OLD = {"out", "images", "task_config", "weights", "previous", "save_probabilities", "gpus", "tta"}
"""Options of earlier versions; a command takes them with a note, and does not list them."""


def parsed(name: str, *words: str) -> argparse.Namespace:
    return command_parser(name, name).parse_words(words)


def run(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dynunet_bundle", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def test_every_command_has_a_module_and_every_module_a_command() -> None:
    room = BUNDLE / "dynunet_bundle" / "commands"
    others = {"__init__", "main", "parser", "predict_options", "completion", "model"}
    others |= {"cluster_options", "slurm_predict"}
    modules = {path.stem for path in room.glob("*.py")} - others
    assert modules == {name.replace("-", "_") for name in COMMANDS}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run_program([name, "--help"])
    shown = capsys.readouterr().out
    assert end.value.code == 0
    assert (
        f"usage: dynunet-bundle {name}" in shown
        and f"\ndynunet-bundle {name} " in shown.replace("\n    ", "\n")
    )
    options = {text for action in options_of(name) for text in action.option_strings}
    assert not options & {f"--{old}" for old in OLD}
    assert not any(action.help in (None, "") for action in options_of(name))


def options_of(name: str) -> list[argparse.Action]:
    return command_parser(name, name)._actions


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_of_the_help_are_accepted(name: str) -> None:
    """Each line of the docstring that starts with the program, with the lines that it goes on in."""
    text = str(command_module(name).__doc__).replace("\\\n", " ")
    lines = [
        line.split() for line in text.splitlines() if line.lstrip().startswith("dynunet-bundle ")
    ]
    for _, command, *words in lines:
        end = words.index(">") if ">" in words else len(words)
        assert parsed(command, *words[:end])


def test_scripts_are_the_commands() -> None:
    own = {"benchmark", "sbom"}  # about the repository
    called = []
    for path in (ROOT / "scripts").glob("*.py"):
        if path.stem not in own:
            called += [name for name in COMMANDS if f'run_script("{name}")' in path.read_text()]
    assert sorted(called) == sorted(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_option_is_told_in_one_line_with_the_nearest(name: str) -> None:
    parser = command_parser(name, f"dynunet-bundle {name}")
    with pytest.raises(ConfigError) as raised:
        parser.error("unrecognized arguments: --verbsoe 2d")
    assert str(raised.value) == (
        "unrecognized arguments: --verbsoe 2d. Did you mean --verbose? "
        f"dynunet-bundle {name} --help lists the options."
    )


def test_wrong_arguments_end_with_2_and_one_line() -> None:
    for words in (["plan", "x", "--configuratoin", "2d"], ["predict"], ["plan", "--preset", "s"]):
        done = run(*words)
        assert done.returncode == 2 and not done.stdout
        assert len(done.stderr.splitlines()) == 1 and "--help lists the options" in done.stderr
    assert "Did you mean --configuration?" in run("plan", "x", "--configuratoin=2d").stderr


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match='"predct".*Did you mean predict'):
        run_program(["predct"])
    assert run_program(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"
    assert run_program(["-h"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in COMMANDS)


def test_the_data_set_is_given_once_by_position_or_as_an_option() -> None:
    for words in (["DATA", "-o", "A"], ["-o", "A", "DATA"], ["--dataset_dir", "DATA", "-o", "A"]):
        assert parsed("preview", *words).dataset_dir == "DATA"
    with pytest.raises(ConfigError, match="two data sets are given, A and B"):
        parsed("check", "A", "--dataset_dir", "B")
    with pytest.raises(ConfigError, match="the data set is missing"):
        parsed("check")


def test_ids_of_configs_are_kept_apart_from_options_and_the_data_set() -> None:
    words = ["-o", "RUN", "--epochs", "3", "DATA", "--amp=False", "-c", "a.json", "b.json"]
    arguments = parsed("train", *words, "--learning_rate", "-1", "--flag", "--fold", "2")
    assert arguments.overrides == [
        *("--epochs", "3", "--amp=False", "--learning_rate", "-1", "--flag"),
    ]
    assert arguments.dataset_dir == "DATA" and arguments.fold == "2"
    assert arguments.config_file == ["a.json", "b.json"]


def test_old_names_are_taken_with_a_note(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    old = parsed("predict", "--input", "A", "--output=B", "--weights", "x.pt", "y.pt", "--tta")
    new = parsed("predict", "-i", "A", "-o", "B", "-m", "x.pt", "y.pt", "--mirroring")
    assert old == new
    assert [record.getMessage() for record in caplog.records] == [
        "note: --output is now --output_dir",
        "note: --weights is now --model",
        "note: --tta is now --mirroring",
    ]
    assert parsed("export", "-o", "A", "--precision", "fp16").precision == ["float16"]


def test_options_are_not_abbreviated() -> None:
    with pytest.raises(ConfigError, match="--inp. Did you mean --input"):
        parsed("predict", "--inp", "A", "--output_dir", "B")


def test_an_idea_has_one_name() -> None:
    names = {
        text.lstrip("-")
        for name in COMMANDS
        for action in options_of(name)
        for text in action.option_strings
        if action.help is not argparse.SUPPRESS
    }
    assert set(ONE_NAME.values()) <= names and not OLD & names


def test_help_and_wrong_paths_import_no_large_library(tmp_path: Path) -> None:
    program = """
import runpy, sys
sys.modules |= dict.fromkeys(("torch", "monai", "numpy", "ignite", "nibabel", "SimpleITK"))
sys.argv = sys.argv[1:]
runpy.run_module("dynunet_bundle", run_name="__main__")
"""
    wrong = ["predict", "-i", str(tmp_path / "absent"), "-o", str(tmp_path / "out")]
    for words, code in ((["--help"], 0), *(([name, "--help"], 0) for name in COMMANDS), (wrong, 2)):
        command = [sys.executable, "-c", program, "dynunet-bundle", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
    assert "there is nothing at" in done.stderr


def test_the_shell_completes_commands_and_options() -> None:
    pytest.importorskip("argcomplete")
    line = "dynunet-bundle predict --mir"
    program = "from dynunet_bundle.commands.main import console; console()"
    env = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    env |= {"_ARGCOMPLETE_STDOUT_FILENAME": "/dev/stdout", "PYTHONPATH": str(BUNDLE)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["--mirroring"], done.stderr


def test_the_wheel_holds_the_bundle_and_works_from_any_folder(tmp_path: Path) -> None:
    """The wheel is unpacked, not installed, so that it needs no network."""
    source = tmp_path / "source"
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if files.returncode:
        pytest.skip("this is not a git checkout")
    for name in files.stdout.decode().splitlines():
        if name.startswith(("bundle/", "setup.py", "pyproject", "README", "LICENSE", "CHANGELOG")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = "import sys, setuptools.build_meta as b; print(b.build_wheel(sys.argv[1]))"
    command = [sys.executable, "-c", build, str(tmp_path)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    assert (
        "dynunet-bundle = dynunet_bundle.commands.main:console"
        in next((tmp_path / "site").glob("*.dist-info/entry_points.txt")).read_text()
    )

    work = tmp_path / "work"
    work.mkdir()

    def installed(*words: str) -> str:
        program = "from dynunet_bundle.commands.main import console; console()"
        done = subprocess.run(
            [sys.executable, "-c", program, *words],
            cwd=work,
            env={"PYTHONPATH": str(tmp_path / "site"), "HOME": str(work), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    installed("phantom", "-o", "DATA", "--num_cases", "5", "--num_test", "1")
    assert "tasks/DATA_3d.json" in installed("plan", "DATA")
    plan = json.loads((work / "tasks" / "DATA_3d.json").read_text())
    assert plan["splits_file"] == str(work / "tasks" / "splits" / "DATA.json")
    # outside the data set, whose classes are not those of the model of the bundle
    (work / "DATA" / "imagesTs").rename(work / "IMAGES")
    installed("predict", "-i", "IMAGES", "-o", "MASKS", "--device", "cpu")
    assert [path.name for path in (work / "MASKS").glob("*.nii.gz")] == ["phantom_005.nii.gz"]
    (work / "IMAGES").rename(work / "DATA" / "imagesTs")
    sizes = ("--patch_size", "[16,16,16]", "--filters", "[4,4,4,4,4,4,4,4]", "--batch_size", "1")
    length = ("--epochs", "1", "--iterations_per_epoch", "1", "--device", "cpu")
    installed(
        *("train", "DATA", "-c", "tasks/DATA_3d.json", "quick.json", "-o", "RUN", "--fold", "0"),
        *(*sizes, *length),
    )
    assert (work / "RUN" / "fold_0" / "models" / "model.pt").is_file()
    installed("prepare", "DATA", "-c", "tasks/DATA_3d.json")
    assert len(list((work / "prepared").glob("*.image.npy"))) == 5
    written = {path.name for path in (tmp_path / "site" / "dynunet_bundle" / "bundle").iterdir()}
    assert written == {"configs", "docs", "models", "LICENSE", "CHANGELOG.md"}


def test_the_parser_has_no_abbreviations_anywhere() -> None:
    assert all(not command_parser(name, name).allow_abbrev for name in COMMANDS)
    assert isinstance(command_parser("plan", "plan"), CommandParser)


def test_an_overlay_may_be_named_as_in_the_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert overlay_file("quick.json") == str(BUNDLE / "configs" / "quick.json")
    assert overlay_file("other.json") == "other.json"
    assert overlay_file("mine/quick.json") == "mine/quick.json"

    Path("quick.json").write_text("{}")
    assert overlay_file("quick.json") == "quick.json"
