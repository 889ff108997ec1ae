"""Two sites train alone and together; each model is scored on the held-out cases of both.

    python benchmarks/federated.py DATA/Task04_Hippocampus WORK --nvflare .venv-federated/bin/nvflare

docs/benchmarks/federated.md has the result. Both sites do the same number of iterations in all three trainings.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
QUICK = ROOT / "bundle" / "configs" / "quick.json"
SITES = ("site-1", "site-2")
NUM_TRAINING, NUM_HELD_OUT = 8, 20
NUM_ROUNDS, ITERATIONS = 12, 40
SETTINGS = {
    "filters": [8, 16, 32, 64],
    "patch_size": [24, 32, 24],
    "iterations_per_epoch": ITERATIONS,
    "val_interval": NUM_ROUNDS,
    "num_workers": 1,
    "device": "cpu",
}
SEED = 0


def main() -> None:
    """Run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="Task04_Hippocampus")
    parser.add_argument("work", type=Path, help="folder for everything that is written")
    parser.add_argument("--nvflare", required=True, help="the command nvflare")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    models = {}
    for site, cases in zip(SITES, split(arguments.data), strict=True):
        write_site(arguments.data, work, site, cases)
        command("train", work / site / "Task04", "--fold", 0, "--output_dir", work / site / "own",
                "--config_file", QUICK, "--epochs", NUM_ROUNDS, *options(work, site))  # fmt: skip
        models[site] = work / site / "own" / "fold_0" / "models" / "checkpoint_last.pt"
    package = work / "packages" / "hippocampus_mr_segmentation"
    first = models[SITES[0]].with_name("model.pt")
    command("package", "--model", first, "--name", package.name, "--output_dir", package.parent)
    command("federate", package, "--output_dir", work / "job", "--num_sites", len(SITES),
            "--num_rounds", NUM_ROUNDS, "--from_scratch")  # fmt: skip
    simulate(arguments.nvflare, work, package)
    command("federate", package, "--output_dir", work / "together", "--global_model",
            work / "workspace" / "server" / "simulate_job" / "app_server" / "FL_global_model.pt")  # fmt: skip
    models["together"] = work / "together" / "model.pt"
    for site in SITES:
        for name, model in models.items():
            score(work, site, name, model)
        other = next(name for name in SITES if name != site)
        print(f"\nheld-out cases of {site}: A is the model of {other}, B that of both")
        command("compare", work / site / other, work / site / "together")


def split(data: Path) -> list[list[str]]:
    """Names of the cases of each site, drawn at random: those to train on, then those held out."""
    names = sorted(path.name[: -len(".nii.gz")] for path in (data / "labelsTr").glob("h*.nii.gz"))
    size = NUM_TRAINING + NUM_HELD_OUT
    drawn = np.random.default_rng(SEED).permutation(names)[: size * len(SITES)].tolist()
    return [drawn[size * number : size * (number + 1)] for number in range(len(SITES))]


def write_site(data: Path, work: Path, site: str, cases: list[str]) -> None:
    """Write the data set of a site, its split, and its file for the federation."""
    folder = work / site / "Task04"
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
        for case in cases:
            shutil.copy(data / part / f"{case}.nii.gz", folder / part)
    for case in cases[NUM_TRAINING:]:
        for part, source in (("images", "imagesTr"), ("labels", "labelsTr")):
            (work / site / part).mkdir(exist_ok=True)
            shutil.copy(data / source / f"{case}.nii.gz", work / site / part)
    content = json.loads((data / "dataset.json").read_text())
    content["training"] = [
        {"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"}
        for case in cases
    ]
    content["test"] = []
    (folder / "dataset.json").write_text(json.dumps(content))
    ours, held_out = cases[:NUM_TRAINING], cases[NUM_TRAINING:]
    # only the first fold is used
    folds = [{"train": ours, "val": held_out}, {"train": held_out, "val": ours}]
    (work / site / "split.json").write_text(json.dumps(folds))
    (work / "sites").mkdir(exist_ok=True)
    entry = {
        "package": str(work / "packages" / "hippocampus_mr_segmentation"),
        "dataset_dir": str(folder),
        "work_dir": str(work / site / "federated"),
        "settings": settings(work, site),
    }
    (work / "sites" / f"{site}.json").write_text(json.dumps(entry))


def settings(work: Path, site: str) -> dict[str, Any]:
    """Ids of train.json for a site."""
    return {**SETTINGS, "num_folds": 2, "splits_file": str(work / site / "split.json")}


def options(work: Path, site: str) -> list[str]:
    """The same as options."""
    return [
        word for name, value in settings(work, site).items() for word in (f"--{name}", str(value))
    ]


def simulate(nvflare: str, work: Path, package: Path) -> None:
    """Run the job with NVFlare's simulator: each site in a process of its own, on this machine."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(package),
        "DYNUNET_BUNDLE_SITES": str(work / "sites"),
    }
    words = [nvflare, "simulator", work / "job", "-w", work / "workspace"]
    words += ["-n", len(SITES), "-t", len(SITES)]
    with (work / "simulator.log").open("w") as log:
        subprocess.run(  # noqa: S603 - a command of the benchmark's own
            list(map(str, words)), env=environment, check=True, stdout=log, stderr=log
        )


def score(work: Path, site: str, name: str, model: Path) -> None:
    """Predict the held-out cases of a site with a model, and score them."""
    masks = work / site / name
    command("predict", "--model", model, "--input", work / site / "images", "--output_dir", masks,
            "--device", "cpu")  # fmt: skip
    command("evaluate", "--predictions", masks, "--labels", work / site / "labels")


def command(name: str, *words: object) -> None:
    """Run a command of the checkout."""
    subprocess.run(  # noqa: S603 - a command of the benchmark's own
        [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *map(str, words)], check=True
    )


if __name__ == "__main__":
    main()
