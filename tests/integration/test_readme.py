"""Every command of the README runs unchanged, with its paths and in its order, in a copy of the repository."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

BLOCK = re.compile(r"```bash\n(.*?)```", re.DOTALL)
COPIED = (
    *("bundle", "scripts", "Makefile", "pyproject.toml", "constraints.txt"),
    *("README.md", "CHANGELOG.md", ".gitignore"),
)
SHORT = "--epochs 1 --iterations_per_epoch 1 --val_interval 1 --device cpu"


def commands() -> list[str]:
    text = "\n".join(BLOCK.findall((ROOT / "README.md").read_text()))
    return text.replace("\\\n", " ").splitlines()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a clone, at a path with a space in it."""
    target = tmp_path_factory.mktemp("a clone") / "repository"
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            ignore = shutil.ignore_patterns("__pycache__", "eval", "Task*", "*.egg-info")
            shutil.copytree(source, target / name, ignore=ignore)
        else:
            shutil.copy(source, target / name)
    git(target, "init", "--quiet")
    git(target, "add", ".")
    return target


@pytest.fixture(scope="module")
def data(checkout: Path, phantom: Path) -> Path:
    """The phantom under the names of the README, in the Decathlon's form: test cases without labels."""
    for task, names in (
        ("Task09_Spleen", ["background", "head", "tail"]),
        ("Task04_Hippocampus", ["background", "Anterior", "Posterior"]),
    ):
        ignore = shutil.ignore_patterns("labelsTs")
        folder = Path(shutil.copytree(phantom, checkout / "DATA" / task, ignore=ignore))
        content = json.loads((folder / "dataset.json").read_text())
        content["labels"] = {str(value): name for value, name in enumerate(names)}
        (folder / "dataset.json").write_text(json.dumps(content))
    return checkout / "DATA"


@pytest.fixture(scope="module")
def environment(checkout: Path) -> Path:
    """A ``.venv/bin/activate`` that selects this Python."""
    script = checkout / ".venv" / "bin" / "activate"
    script.parent.mkdir(parents=True)
    script.write_text(f"export PATH='{Path(sys.executable).parent}':\"$PATH\"\n")
    return script


def test_the_make_targets_exist():
    for command in commands():
        if command.startswith("make "):
            dry_run = ["make", "-n", *command.split()[1:]]
            done = subprocess.run(dry_run, cwd=ROOT, capture_output=True, check=False)
            assert done.returncode == 0, done.stderr


def shortened(command: str) -> str:
    """Shorten a command to run quickly and without a GPU; its paths are unchanged, since they are tested."""
    line = command
    if "monai.bundle run training" in line or "run evaluating" in line:
        line += f" {SHORT if 'training' in line else '--device cpu'}"
    if "dynunet-bundle train" in line:
        line += f" {SHORT}"
    # two processes on a CPU instead of eight GPUs
    line = line.replace("nproc_per_node=8", "nproc_per_node=2").replace(
        "processes 8", "processes 2"
    )
    # a small network and patch instead of the spleen's
    if "Task09" in line and ("monai.bundle" in line or "dynunet-bundle train" in line):
        line += ' --patch_size "[16,64,64]" --filters "[4,8,8,8,8,8,8]"'
    return line


def test_every_other_command_runs(checkout, data, environment):
    """Run all commands from top to bottom in one shell that starts in the folder of the README."""
    script = [shortened(command) for command in commands() if not command.startswith("make ")]
    done = subprocess.run(
        ["bash", "-euxc", "\n".join([*script, "pwd"])],
        cwd=checkout,
        # the copy's own package, and not that of the checkout which is installed
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(checkout / "bundle")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    assert done.stdout.splitlines()[-1] == str(checkout)
    masks = sorted(path.name for path in (checkout / "MASKS").glob("*.nii.gz"))
    assert masks == ["phantom_006.nii.gz", "phantom_007.nii.gz"]
    for folder in ("FIRST", "OUT"):
        assert sorted(path.name for path in (checkout / folder).glob("*.nii.gz")) == masks
    assert (checkout / "MASKS" / "report.html").read_text().count("data:image/png") >= 3
    # all six training cases out of fold, two cases of one fold
    for scores, num_cases in (("RUNS/cross_validation/predictions", 6), ("QUICK", 2)):
        content = json.loads((checkout / scores / "scores.json").read_text())
        assert len(content["cases"]) == num_cases
    assert (checkout / "RUNS" / "scores.csv").is_file()
    (package,) = (checkout / "dist").glob("*.zip")
    assert package.name.startswith("hippocampus_mr_segmentation_v")
    assert (checkout / "SPLEEN" / "model.pt").is_file()
    require_ignored(checkout)


def git(checkout: Path, *arguments: str) -> list[str]:
    command = ["git", *arguments]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def require_ignored(checkout: Path) -> None:
    """The commands leave no files that git would add."""
    lines = git(checkout, "status", "--porcelain", "--untracked-files=all")
    # the first letter is that of the clone's files, which are already added
    assert [line for line in lines if not line.startswith("A  ")] == []
