"""NVFlare's simulator trains two sites on two halves of a data set: run by ``make test-federated``."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY, run_script
from helpers.package_cases import request_for

from dynunet_bundle.delivery.package.make import make_package
from dynunet_bundle.federation.site import SITES_VARIABLE

pytestmark = pytest.mark.federated

FEDERATED = Path(os.environ.get("DYNUNET_FEDERATED", ROOT / ".venv-federated"))
SITES = ("site-1", "site-2")


@pytest.fixture(scope="module")
def nvflare() -> Path:
    if not (FEDERATED / "bin" / "nvflare").is_file():
        pytest.skip(f"NVFlare is not in {FEDERATED}: run make test-federated")
    return FEDERATED / "bin" / "nvflare"


def half(phantom: Path, folder: Path, number: int) -> Path:
    """Every other case of a data set."""
    shutil.copytree(phantom, folder)
    content = json.loads((folder / "dataset.json").read_text())
    ours = content["training"][number::2]
    for entry in content["training"]:
        if entry not in ours:
            for part in ("image", "label"):
                (folder / entry[part]).unlink()
    (folder / "dataset.json").write_text(json.dumps(content | {"training": ours}))
    return folder


def test_two_sites_train_one_model(nvflare: Path, phantom: Path, tmp_path: Path) -> None:
    package = make_package(request_for(tmp_path / "package")).folder
    sites = tmp_path / "sites"
    sites.mkdir()
    for number, name in enumerate(SITES):
        entry = {
            "package": str(package),
            "dataset_dir": str(half(phantom, tmp_path / f"data {number}", number)),
            "work_dir": str(tmp_path / name),
            "settings": {
                "num_folds": 3,
                "iterations_per_epoch": TINY["iterations_per_epoch"],
                "device": "cpu",
            },
        }
        (sites / f"{name}.json").write_text(json.dumps(entry))
    job, workspace = tmp_path / "job", tmp_path / "workspace"
    done = run_script("federate", package, "--output_dir", job, "--num_rounds", 2)
    assert done.returncode == 0, done.stderr
    command = [nvflare, "simulator", job, "-w", workspace, "-n", len(SITES), "-t", len(SITES)]
    environment = {**os.environ, "PYTHONPATH": str(package), SITES_VARIABLE: str(sites)}
    ran = subprocess.run(
        list(map(str, command)),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    told = ran.stdout + ran.stderr
    assert ran.returncode == 0, told[-3000:]
    for name in SITES:
        assert all(f"{name}, round {number}: mean Dice" in told for number in range(2))
    last = workspace / "server" / "simulate_job" / "app_server" / "FL_global_model.pt"
    together = torch.load(last, weights_only=True)["model"]
    states = [
        torch.load(tmp_path / name / "models" / "checkpoint_last.pt", weights_only=True)
        for name in SITES
    ]
    # two rounds of one epoch, and the mean of what both have sent
    assert [state["epoch"] for state in states] == [2, 2]
    for name, value in together.items():
        mean = (states[0]["model"][name] + states[1]["model"][name]) / 2
        assert torch.allclose(value, mean, atol=1e-6), name
    # images and labels stay where they are
    names = {
        entry["image"] for entry in json.loads((phantom / "dataset.json").read_text())["training"]
    }
    received = [path.name for path in (workspace / "server").rglob("*") if path.is_file()]
    assert not {Path(name).name for name in names} & set(received)
    model = tmp_path / "model"
    words = ["--output_dir", model, "--global_model", last]
    assert run_script("federate", package, *words).returncode == 0
    masks = tmp_path / "masks"
    words = ["--input", phantom / "imagesTs", "--output_dir", masks, "--device", "cpu"]
    done = run_script("predict", "--model", model / "model.pt", *words)
    assert done.returncode == 0 and list(masks.glob("*.nii.gz"))
