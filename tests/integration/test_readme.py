"""Every command of the README runs as it stands there, in a copy of the repository."""

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
SHORT = "--epochs 1 --iterations_per_epoch 1 --val_interval 1 --num_folds 3 --device cpu"


def commands() -> list[str]:
    text = "\n".join(BLOCK.findall((ROOT / "README.md").read_text()))
    return text.replace("\\\n", " ").splitlines()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a clone would hold, at a path with a space in it."""
    target = tmp_path_factory.mktemp("a clone") / "repository"
    for name in (
        "bundle",
        "scripts",
        "Makefile",
        "pyproject.toml",
        "constraints.txt",
        "README.md",
        "CHANGELOG.md",
    ):
        source = ROOT / name
        if source.is_dir():
            ignore = shutil.ignore_patterns("__pycache__", "eval", "*.pt", "Task*", "*.egg-info")
            shutil.copytree(source, target / name, ignore=ignore)
        else:
            shutil.copy(source, target / name)
    return target


@pytest.fixture(scope="module")
def data(checkout: Path, phantom: Path) -> Path:
    """The phantom under the names of the README: two tasks with labelled test cases."""
    for task, names in (
        ("Task09_Spleen", ["background", "head", "tail"]),
        ("Task04_Hippocampus", ["background", "Anterior", "Posterior"]),
    ):
        folder = Path(shutil.copytree(phantom, checkout / "DATA" / task))
        content = json.loads((folder / "dataset.json").read_text())
        content["labels"] = {str(value): name for value, name in enumerate(names)}
        (folder / "dataset.json").write_text(json.dumps(content))
    return checkout / "DATA"


def test_the_make_targets_exist():
    for command in commands():
        if command.startswith("make "):
            dry_run = ["make", "-n", *command.split()[1:]]
            done = subprocess.run(dry_run, cwd=ROOT, capture_output=True, check=False)
            assert done.returncode == 0, done.stderr


def test_every_other_command_runs(checkout, data):
    script = []
    for command in commands():
        if command.startswith(("make ", "source ")):
            continue
        line = command
        for word in ("DATA", "OUT", "QUICK", "MASKS", "EIGHT", "RUNS"):
            line = re.sub(rf"\b{word}\b", f"'{checkout / word}'", line)
        if "monai.bundle run training" in line or "run evaluating" in line:
            line += f" {SHORT if 'training' in line else '--num_folds 3 --device cpu'}"
        if "train.py" in line:
            line += f" {SHORT}"
        # two processes on a CPU stand in for eight GPUs
        line = line.replace("nproc_per_node=8", "nproc_per_node=2").replace("gpus 8", "gpus 2")
        # a small network and patch stand in for the spleen's
        if "Task09" in line and ("monai.bundle" in line or "train.py" in line):
            line += ' --patch_size "[16,64,64]" --filters "[4,8,8,8,8,8,8]"'
        script.append(f"cd '{checkout / 'bundle'}'" if line == "cd bundle" else line)
        if "--output_dir" in line or "QUICK" in line:  # the last command in that folder
            script.append(f"cd '{checkout}'")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        ["bash", "-euxc", "\n".join(script)],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    masks = sorted(path.name for path in (checkout / "MASKS").glob("*.nii.gz"))
    assert masks == ["phantom_006.nii.gz", "phantom_007.nii.gz"]
    assert (checkout / "MASKS" / "scores.json").is_file()
    assert (checkout / "MASKS" / "report.html").read_text().count("data:image/png") >= 3
    (package,) = (checkout / "dist").glob("*.zip")
    assert package.name.startswith("hippocampus_mr_segmentation_v")
    assert (checkout / "bundle" / "models" / "model.pt").is_file()
    assert sorted(path.name for path in (checkout / "OUT").glob("*.nii.gz")) == masks
