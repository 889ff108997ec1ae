"""Paths with characters that MONAI, shells or terminals give a meaning are taken as they are or refused in one line."""

import argparse
import json
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import BUNDLE, ROOT, run_script
from monai.bundle import ConfigParser

from dynunet_bundle.configs.command_line import read_command_line
from dynunet_bundle.configs.overrides import check_overrides, known_ids, read_overlay
from dynunet_bundle.cross_validation.commands import bundle_command
from dynunet_bundle.errors import ConfigError

KNOWN = known_ids(BUNDLE / "configs")
ODD = [
    "out #2",
    "a#b",
    "a::b",
    "@seed",
    "%seed",
    "%x.json",
    "$HOME",
    "$(touch CANARY)",
    "$__import__('os').system('touch CANARY')",
    "'quoted'",
    '"quoted"',
    "1_0",
    "007",
    "5",
    "True",
    "None",
    "x, y",
    "[x]",
    "{x: y}",
    "a b",
    "a\nb",
    "a\x1b[31mb",
    "größe 大",
    "--x",
]
SCRIPTS = sorted(path.stem for path in (ROOT / "scripts").glob("*.py"))
NOT_RUN = ("download", "benchmark", "sbom")
"""Scripts that open connections, or work for a minute with whatever they are given."""


@pytest.mark.parametrize("path", ODD)
def test_a_command_of_ours_gives_monai_the_path_itself(path: str) -> None:
    command = bundle_command("training", BUNDLE, ["train.json"], {"output_dir": Path(path)})
    line = read_command_line(command[command.index("run") :])
    value = ConfigParser({"output_dir": line.settings["output_dir"]})
    assert value.get_parsed_content("output_dir") == path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output_dir", "@x/y"], r"no config has the id .x/y.*write --output_dir .\$'\\x40x/y'"),
        (["--output_dir=$HOME/x"], r"the name HOME is not defined.*\\x24HOME/x"),
        (["--output_dir", "$(date)"], "the name date is not defined"),
        (["--output_dir", "$a b"], "cannot be parsed"),
        (["--weights_file", "['a#b.pt']"], "sets weights_file .*a#b.pt.* MONAI would write ::"),
    ],
)
def test_a_text_that_leads_nowhere_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_overrides(["run", "training", *arguments], KNOWN)


@pytest.mark.parametrize(
    "text",
    [
        "@bundle_root",
        "$@bundle_root + '/x'",
        r"$'out \x232'",
        "$None",
        "$[str(name) for name in @channel_names]",
        "$(lambda x: x)(1)",
    ],
)
def test_expressions_and_references_that_lead_somewhere_pass(text: str) -> None:
    check_overrides(["run", "training", "--output_dir", text], KNOWN)


def test_an_expression_may_use_what_an_overlay_imports(tmp_path: Path) -> None:
    path = tmp_path / "overlay.json"
    path.write_text(json.dumps({"imports": ["$import numpy as np"]}))
    arguments = ["run", "training", "--config_file", str(path), "--learning_rate", "$np.pi"]
    check_overrides(arguments, KNOWN)


@pytest.mark.parametrize(
    "content", [{"dataset_dir": "/data/set #1"}, {"weights_file": ["a", "b#c"]}]
)
def test_an_overlay_with_a_text_that_monai_would_alter_is_refused(
    tmp_path: Path, content: dict[str, object]
) -> None:
    path = tmp_path / "overlay.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"MONAI would write :: for #.*\\x23"):
        read_overlay(path, KNOWN)
    path.write_text(json.dumps({"dataset_dir": r"$'/data/set \x231'"}))
    read_overlay(path, KNOWN)


def test_a_plan_is_not_written_to_a_folder_that_its_overlay_could_not_name(
    phantom: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out #2"
    done = run_script("plan", "--dataset_dir", phantom, "--output", folder / "plan.json")
    assert done.returncode == 2 and "MONAI's configs read # as ::" in done.stderr
    assert not folder.exists()


class _FoundError(Exception):
    pass


def options_of(script: str) -> Iterator[argparse.Action]:
    """Arguments of a script that take a text, from its own parser; those of its commands, too."""
    found: list[argparse.ArgumentParser] = []

    def stop(parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        found.append(parser)
        raise _FoundError

    with pytest.MonkeyPatch.context() as patch:
        for name in ("parse_args", "parse_known_args"):
            patch.setattr(argparse.ArgumentParser, name, stop)
        with pytest.raises(_FoundError):
            runpy.run_path(str(ROOT / "scripts" / f"{script}.py"), run_name="__main__")
    for action in found[0]._actions:
        if action.nargs != 0 and not isinstance(action, argparse._SubParsersAction):
            yield action


@pytest.mark.parametrize("script", [name for name in SCRIPTS if name not in NOT_RUN])
def test_no_option_of_a_script_runs_or_alters_a_path(script: str, tmp_path: Path) -> None:
    """Each option gets one of the paths; what is required besides does not exist."""
    options = list(options_of(script))
    assert options
    texts = [path for path in ODD if path[0] != "-"]
    for number, option in enumerate(options):
        text = texts[(number + SCRIPTS.index(script)) % len(texts)]
        folder = tmp_path / str(number)
        folder.mkdir()
        words: list[str] = []
        for other in options:
            if other is option or other.required:
                count = other.nargs if isinstance(other.nargs, int) else 1
                value = text if other is option else "absent"
                words += [*other.option_strings[-1:], *[value] * count]
        done = run_script(script, *words, cwd=folder)
        shown = done.stdout + done.stderr
        assert done.returncode in (0, 1, 2) and "Traceback" not in shown, (words, shown)
        assert all(line.isprintable() for line in shown.replace("\t", " ").splitlines()), words
        made = {path.relative_to(folder).parts[0] for path in folder.rglob("*")}
        assert "CANARY" not in made, words
        assert not {name for name in made if "::" in name and "::" not in text}, (words, made)
