"""Compare training recipes on one fold at equal CPU time, one change at a time.

    python benchmarks/recipes.py --dataset_dir DATA/Task04_Hippocampus --out RECIPES --minutes 20
    python benchmarks/recipes.py --dataset_dir DATA/Task04_Hippocampus --out RECIPES --show

Each recipe is quick.json with the overrides of ``recipes()``. First the CPU seconds of a step are measured, for the
whole process; they give the number of iterations within the budget. The score is the mean Dice of the held-out cases
after the last epoch, so no epoch is chosen by its score. Results are written to ``OUT/results.jsonl``, one line per
run; the same command resumes a stopped comparison. Run it under ``taskset -c 1`` to use one core.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EPOCHS = 10
SPATIAL = {
    "rotation": {"prob": 0.2, "degrees": None},
    "scaling": {"prob": 0.2, "factor": [0.7, 1.4]},
}
LIGHT = {
    "noise": {"prob": 0.15, "std": [0.0, 0.3]},
    "brightness": {"prob": 0.3, "factor": [0.75, 1.25]},
    "contrast": {"prob": 0.3, "factor": [0.75, 1.25]},
}
MIRROR = {"mirror": {"prob": 0.5, "axes": [0, 1, 2]}}
SGD = {
    "_target_": "dynunet_bundle.training.optimizers.make_optimizer",
    "network": "@network",
    "name": "sgd",
    "learning_rate": "@learning_rate",
    "momentum": 0.99,
    "nesterov": True,
    "weight_decay": 3e-5,
}


def full_augmentation() -> dict[str, Any]:
    """The augmentation of train.json."""
    train = json.loads((ROOT / "bundle/configs/train.json").read_text(encoding="utf-8"))
    content: dict[str, Any] = train["augmentation"]
    return content


def recipes() -> dict[str, dict[str, Any]]:
    """Overrides of quick.json by name, in the order of the runs."""
    full = full_augmentation()
    no_mirror = {name: value for name, value in full.items() if name != "mirror"}
    return {
        "quick": {},
        "spatial": {"augmentation": {**SPATIAL, **LIGHT}},
        "full, no mirror": {"augmentation": no_mirror},
        "wide": {"filters": [24, 48, 96, 160]},
        "ema": {"ema_decay": 0.99},
        "deep supervision": {"deep_supervision": True},
        "lr 0.006": {"learning_rate": 0.006},
        "lr 0.0015": {"learning_rate": 0.0015},
        "mirror": {"augmentation": {**LIGHT, **MIRROR}},
        "full": {"augmentation": full},
        "sgd": {"optimizer": SGD, "learning_rate": 0.01},
        "batch 4": {"batch_size": 4},
        "small patch": {"patch_size": [32, 48, 32]},
        "16 filters": {"filters": [16, 32, 64, 128]},
        "focal": {"loss#pixel_loss": "focal"},
        "topk": {"loss#pixel_loss": "topk"},
        "sample dice": {"batch_dice": False},
    }


def command(verb: str, data: Path, folder: Path, settings: dict[str, Any]) -> list[str]:
    """A bundle command with the data, folders and settings of a run."""
    values: dict[str, Any] = {
        "config_file": json.dumps(["configs/train.json", "configs/quick.json"]),
        "dataset_dir": data.resolve(),
        "prepared_dir": folder.parent.resolve() / "prepared",
        "ckpt_dir": folder.resolve(),
        "output_dir": folder.resolve(),
        "feed_threads": 1,
        **settings,
    }
    texts = {
        name: value if isinstance(value, str) else str(value) for name, value in values.items()
    }
    flags = [text for name, value in texts.items() for text in (f"--{name}", value)]
    return [sys.executable, "-m", "monai.bundle", "run", verb, *flags]


def cpu_seconds(arguments: list[str]) -> float:
    """Run a command in the bundle folder; return its CPU seconds."""
    before = os.times()
    # an interrupted or failed run raises here, and the next start of this program resumes it
    subprocess.run(arguments, cwd=ROOT / "bundle", check=True, stdout=subprocess.DEVNULL)  # noqa: S603
    after = os.times()
    return (
        after.children_user + after.children_system - before.children_user - before.children_system
    )


def step_seconds(data: Path, folder: Path, settings: dict[str, Any]) -> float:
    """CPU seconds of a training step, including the feed: from the difference of a long and a short training."""
    costs = []
    for steps in (5, 45):
        short = {
            **settings,
            "epochs": 1,
            "iterations_per_epoch": steps,
            "skip_validation": 1,
            "checkpoint": "none",
            "restart": True,
        }
        costs.append(cpu_seconds(command("training", data, folder, short)))
    return (costs[1] - costs[0]) / 40


def run(name: str, seed: int, data: Path, out: Path, minutes: float) -> dict[str, Any]:
    """Train one recipe and read its score."""
    settings = {**recipes()[name], "seed": seed}
    folder = out / f"{name.replace(' ', '_').replace(',', '')}_{seed}"
    plan_file = folder / "budget.json"
    if not plan_file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        seconds = step_seconds(data, folder, settings)
        iterations = int(minutes * 60 / seconds / EPOCHS)
        plan_file.write_text(json.dumps({"step_s": seconds, "iterations": iterations}))
    budget = json.loads(plan_file.read_text())
    length = {
        "epochs": EPOCHS,
        "iterations_per_epoch": budget["iterations"],
        "val_interval": EPOCHS,
    }
    seconds = cpu_seconds(command("training", data, folder, {**settings, **length}))
    log = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    return {"recipe": name, "seed": seed, **budget, "cpu_s": seconds, "last": log[-1]}


def main() -> None:
    """Run the missing recipes, then print all results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--dataset_dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=20.0, help="CPU minutes per run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--recipes", nargs="+", default=list(recipes()))
    parser.add_argument("--show", action="store_true")
    arguments = parser.parse_args()
    results = arguments.out / "results.jsonl"
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = (
        [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    )
    if not arguments.show:
        done = {(row["recipe"], row["seed"]) for row in rows}
        for seed in arguments.seeds:
            for name in arguments.recipes:
                if (name, seed) not in done:
                    row = run(name, seed, arguments.dataset_dir, arguments.out, arguments.minutes)
                    with results.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")
                    rows.append(row)
                    print(json.dumps(row), flush=True)
    for row in rows:
        print(row["recipe"], row["seed"], row["iterations"], row["last"])


if __name__ == "__main__":
    main()
