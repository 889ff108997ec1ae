"""The page of the commands names them all, and its example runs as it is written."""

import os
import re
import subprocess
import sys
from pathlib import Path

from conftest import BUNDLE, ROOT

from dynunet_bundle.commands.main import COMMANDS
from dynunet_bundle.commands.parser import command_parser

PAGE = (ROOT / "docs" / "command_line.md").read_text(encoding="utf-8")


def test_the_page_lists_the_commands_with_their_help() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| (.*?) \|", PAGE, re.M)
    assert dict(rows) == COMMANDS


def test_the_earlier_names_of_the_page_are_taken() -> None:
    taken = {old for name in COMMANDS for old in command_parser(name, name)._new_names}
    table = PAGE.split("## One name for one idea")[1].split("\n\n")[1]
    earlier = {word for row in table.splitlines() for word in row.split(" | ")[-1].split()}
    named = {word.strip("`,") for word in earlier if word.startswith("`--")}
    assert named - {"--fold", "--continue"} == taken


def test_the_example_runs_as_it_is_written(tmp_path: Path) -> None:
    (block,) = re.findall(r"```bash\n(.*?)```", PAGE, re.S)
    commands = block.replace("dynunet-bundle ", f"{sys.executable} -m dynunet_bundle ")
    done = subprocess.run(
        ["bash", "-euc", commands],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(BUNDLE), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "MASKS").glob("*.nii.gz"))) == 2
    assert (tmp_path / "MASKS" / "report.html").read_text().count("data:image/png") >= 2


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\((\w+\.md)\)", index))
    assert linked == {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
