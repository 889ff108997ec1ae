"""Every command of a packaged model card runs, and several processes evaluate like one."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from helpers.package_cases import request_for

from dynunet_bundle.delivery.package.make import make_package
from dynunet_bundle.training.process import distributed

BLOCK = re.compile(r"```bash\n(.*?)```", re.DOTALL)


def commands_of(card: str) -> list[str]:
    """Commands of a model card, each in one line."""
    text = "\n".join(BLOCK.findall(card)).replace("\\\n", " ")
    return [line for line in text.splitlines() if line]


def run(bundle: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a bundle, with this Python, and with two processes instead of several GPUs."""
    line = command.replace("nproc_per_node=8", "nproc_per_node=2")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=bundle,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{line}\n{done.stderr[-3000:]}"
    return done


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(request_for(tmp_path_factory.mktemp("package"))).folder


@pytest.mark.slow
def test_every_command_of_the_card_runs(bundle: Path, phantom: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(bundle, tmp_path / bundle.name))
    commands = commands_of((own / "docs" / "README.md").read_text())
    assert len(commands) == 9
    for command in commands:
        if "trt" in command:
            # torch_tensorrt needs a GPU
            continue
        line = re.sub(r"\bDATA\b", str(phantom), command)
        line = re.sub(r"\bIMAGES\b", str(phantom / "imagesTs"), line)
        line = re.sub(r"\bOUT\b", str(tmp_path / "masks"), line)
        if line.startswith("pip"):
            # everything is installed already, in exactly these versions
            line += " --no-index"
        if "run training" in line:
            # each command starts from scratch, as for a reader
            line += " --num_workers 1 --restart True"
        run(own, line)
    assert len(list((tmp_path / "masks").glob("*.nii.gz"))) == 2
    assert json.loads((own / "eval" / "scores.json").read_text())["cases"]
    assert torch.jit.load(own / "models" / "model.ts")


@pytest.mark.slow
@pytest.mark.parametrize("num_folds", [3, 6])
def test_two_processes_write_the_scores_of_one(
    num_folds: int, bundle: Path, phantom: Path, tmp_path: Path
) -> None:
    """With six folds there is one case for two processes."""
    commands = commands_of((bundle / "docs" / "README.md").read_text())
    one, two = (command for command in commands if "evaluating" in command)
    found = []
    for name, command in (("one", one), ("two", two)):
        line = command.replace("DATA", str(phantom))
        run(bundle, f"{line} --num_folds {num_folds} --output_dir {tmp_path / name}")
        found.append((tmp_path / name / "scores.json").read_bytes())
    assert found[0] == found[1]
    assert len(json.loads(found[0])["cases"]) == 6 // num_folds


@pytest.mark.slow
def test_evaluation_on_several_gpus_needs_torchrun_and_says_so(bundle: Path, phantom: Path) -> None:
    configs = "['configs/train.json','configs/evaluate.json','configs/multi_gpu_evaluate.json']"
    command = [sys.executable, "-m", "monai.bundle", "run", "evaluating", "--config_file", configs]
    done = subprocess.run(
        [*command, "--dataset_dir", str(phantom)],
        cwd=bundle,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "torchrun" in done.stderr.splitlines()[-1]


def test_the_cases_of_all_processes_are_reported_once_and_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process without cases scores a case of another process."""
    rows = {"dice": 0.1 + 0.2, "hd95_mm": None}
    ranks = [{"b\tc": [rows], "a": [rows]}, {"a": [rows]}, {"ä": []}]
    texts = [json.dumps(item) for rank in ranks for item in rank.items()]
    monkeypatch.setattr(distributed.idist, "get_world_size", lambda: 3)
    monkeypatch.setattr(
        distributed, "string_list_all_gather", lambda own: "\t".join(texts).split("\t")
    )
    gathered = distributed.of_all_ranks(ranks[0])
    assert list(gathered.items()) == [("a", [rows]), ("b\tc", [rows]), ("ä", [])]
    assert all("\t" not in text for text in texts)


def test_the_template_has_the_same_commands(bundle: Path) -> None:
    cards = [bundle / "docs" / "README.md", ROOT / "bundle" / "docs" / "README.md"]
    packaged, template = (commands_of(card.read_text()) for card in cards)
    assert packaged == template
