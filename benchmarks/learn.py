"""Benchmark: Dice of held-out cases against CPU time of the training, beside nnU-Net.

The same cases, fold, patch, network (kernels, strides and filters) and batch size for all. nnU-Net trains with its own
schedule of 1000 epochs, and with the same schedule fitted to the budget. Preparation of the cases is not counted. Each
point is a folder; the same command goes on where it was stopped.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import ONE_THREAD, ROOT, Measurement, peer_command
from benchmarks.prepare import PEER_ID, msd_copy
from benchmarks.recipes import command, cpu_seconds, step_seconds
from dynunet_bundle.errors import ConfigError
from dynunet_bundle.files import write_json

EPOCHS = 10
FILTERS, BATCH_SIZE = (12, 32, 64, 128), 2
"""Network and batch of all contenders: those of configs/cpu.json."""

FOLD = 0
NNUNET_RECIPE: dict[str, Any] = {
    "deep_supervision": True,
    "learning_rate": 0.01,
    "amp": True,
    "filters": list(FILTERS),
    "batch_size": BATCH_SIZE,
}
"""Changes of train.json, whose recipe is nnU-Net's: only size and precision."""

OURS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "ours, configs/cpu.json": (("configs/train.json", "configs/cpu.json"), {}),
    "ours, nnU-Net's recipe": (("configs/train.json",), NNUNET_RECIPE),
}
SCHEDULES = {
    "nnU-Net, schedule fitted to the budget": "fitted",
    "nnU-Net, its schedule of 1000 epochs": "default",
}


@dataclass(frozen=True)
class Learning:
    """What is trained.

    Attributes:
        dataset_dir: folder of a data set in MSD layout.
        out: folder of all runs, which are resumed.
        peers: environment with nnunetv2.
        minutes: budgets in CPU minutes.
        seed: of all contenders.
    """

    dataset_dir: Path
    out: Path
    peers: Path
    minutes: Sequence[float]
    seed: int


def run(learning: Learning) -> dict[str, list[Measurement]]:
    """Train and score what is missing, and draw the curves as ``OUT/learn.png``.

    Returns:
        One row per contender and budget, with its CPU seconds, steps and Dice.

    Raises:
        ConfigError: if a budget is not positive.
    """
    if min(learning.minutes) <= 0:
        raise ConfigError("--minutes must be positive. Pass larger budgets.")
    learning.out.mkdir(parents=True, exist_ok=True)
    rows: list[Measurement] = []
    for name in OURS:
        rows += [_ours(learning, name, minutes) for minutes in sorted(learning.minutes)]
    _, missing = peer_command(learning.peers, "python")
    if missing:
        rows += [Measurement(name, remark=f"skipped: {missing}") for name in SCHEDULES]
    else:
        environment = _prepare_peer(learning)
        for name in SCHEDULES:
            rows += _peer(learning, name, environment)
    draw(rows, learning.out / "learn.png")
    return {f"{learning.dataset_dir.name}, fold {FOLD}, seed {learning.seed}": rows}


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _row(name: str, facts: Mapping[str, Any]) -> Measurement:
    details = {"steps": float(facts["steps"]), "Dice": facts["mean"]}
    details |= {f"Dice {label}": value for label, value in facts["dice"].items()}
    return Measurement(name, cpu_s=facts["cpu_s"], details=details)


def _ours(learning: Learning, name: str, minutes: float) -> Measurement:
    files, settings = OURS[name]
    kind = "cpu" if "configs/cpu.json" in files else "nnunet_recipe"
    folder = learning.out / f"ours_{kind}_{minutes:g}_{learning.seed}"
    result = folder / "result.json"
    if not result.is_file():
        folder.mkdir(exist_ok=True)
        values = {**settings, "config_file": json.dumps(files), "seed": learning.seed, "fold": FOLD}
        plan = folder / "budget.json"
        if not plan.is_file():
            seconds = step_seconds(learning.dataset_dir, folder, values)
            write_json(plan, {"iterations": max(int(minutes * 60 / seconds / EPOCHS), 1)})
        iterations = _read(plan)["iterations"]
        length = {"epochs": EPOCHS, "iterations_per_epoch": iterations, "skip_validation": EPOCHS}
        spent = cpu_seconds(command("training", learning.dataset_dir, folder, {**values, **length}))
        plan_values = {name: settings[name] for name in ("filters",) if name in settings}
        scored = {"config_file": json.dumps([*files, "configs/evaluate.json"]), "fold": FOLD}
        cpu_seconds(command("evaluating", learning.dataset_dir, folder, {**scored, **plan_values}))
        write_json(result, _facts(folder / "scores.json", spent, EPOCHS * iterations))
    return _row(name, _read(result))


def _facts(scores: Path, cpu_s: float, steps: int) -> dict[str, Any]:
    content = _read(scores)
    return {
        "cpu_s": cpu_s,
        "steps": steps,
        "mean": content["mean_dice"],
        "dice": content["mean"],
    }


def _prepare_peer(learning: Learning) -> dict[str, str]:
    """Prepare the data set once with nnU-Net, with our split, network and batch size; return the environment."""
    folders = {
        f"nnUNet_{name}": str(learning.out / f"nnUNet_{name}")
        for name in ("raw", "preprocessed", "results")
    }
    environment = {**os.environ, **ONE_THREAD, **folders, "nnUNet_n_proc_DA": "1"}
    done = learning.out / "peer_is_prepared"
    if done.is_file():
        return environment
    for folder in folders.values():
        Path(folder).mkdir(exist_ok=True)
    copy = msd_copy(learning.dataset_dir, learning.out)
    case = ("-d", PEER_ID)
    for program, *arguments in (
        ("nnUNetv2_convert_MSD_dataset", "-i", str(copy), "-overwrite_id", PEER_ID, "-np", "1"),
        ("nnUNetv2_extract_fingerprint", *case, "-np", "1"),
        ("nnUNetv2_plan_experiment", *case),
        ("nnUNetv2_preprocess", *case, "-c", "3d_fullres", "-np", "1"),
    ):
        path, _ = peer_command(learning.peers, program)
        subprocess.run([path, *arguments], env=environment, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
    _edit_plan(Path(folders["nnUNet_preprocessed"]), learning)
    done.touch()
    return environment


def _edit_plan(preprocessed: Path, learning: Learning) -> None:
    (dataset,) = preprocessed.iterdir()
    path = dataset / "nnUNetPlans.json"
    content = _read(path)
    configuration = content["configurations"]["3d_fullres"]
    configuration["batch_size"] = BATCH_SIZE
    network = configuration["architecture"]["arch_kwargs"]
    if network["n_stages"] != len(FILTERS):
        raise ConfigError(
            f"nnU-Net plans {network['n_stages']} levels, not {len(FILTERS)}. This benchmark is for Task04_Hippocampus."
        )
    network["features_per_stage"] = list(FILTERS)
    path.write_text(json.dumps(content), encoding="utf-8")
    held_out = sorted(_held_out(learning))
    cases = sorted(file.name.split(".")[0] for file in (dataset / "gt_segmentations").iterdir())
    split = [{"train": [case for case in cases if case not in held_out], "val": held_out}]
    (dataset / "splits_final.json").write_text(json.dumps(split), encoding="utf-8")


def _held_out(learning: Learning) -> list[str]:
    """Names of the cases that our fold holds out: those of a finished run of ours."""
    scores = next(learning.out.glob("ours_*/scores.json"))
    return list(_read(scores)["cases"])


def _peer(learning: Learning, name: str, environment: dict[str, str]) -> list[Measurement]:
    schedule = SCHEDULES[name]
    seconds = [minutes * 60 for minutes in sorted(learning.minutes)]
    # one training passes all budgets if its schedule does not depend on them
    trainings = [seconds] if schedule == "default" else [[budget] for budget in seconds]
    rows = []
    for budgets in trainings:
        folder = learning.out / f"nnunet_{schedule}_{budgets[-1]:g}_{learning.seed}"
        model = folder / "results"
        for budget in budgets:
            result = folder / f"result_{budget:g}.json"
            if not result.is_file():
                _train_peer(learning, schedule, budgets, folder, environment)
                write_json(result, _score_peer(learning, model, budget, folder, environment))
            rows.append(_row(name, _read(result)))
    return rows


def _train_peer(
    learning: Learning,
    schedule: str,
    budgets: list[float],
    folder: Path,
    environment: dict[str, str],
) -> None:
    if list((folder / "results").rglob(f"checkpoint_{budgets[-1]:g}.json")):
        return
    folder.mkdir(exist_ok=True)
    (dataset,) = Path(environment["nnUNet_preprocessed"]).iterdir()
    job: dict[str, Any] = {
        **{key: environment[key] for key in ("nnUNet_raw", "nnUNet_preprocessed")},
        "nnUNet_results": str(folder / "results"),
        "dataset": dataset.name,
        "configuration": "3d_fullres",
        "fold": FOLD,
        "seed": learning.seed,
        "schedule": schedule,
        "budgets": budgets,
    }
    write_json(folder / "job.json", job)
    python, _ = peer_command(learning.peers, "python")
    program = Path(__file__).with_name("learn_peer.py")
    results = {"nnUNet_results": job["nnUNet_results"]}
    subprocess.run(  # noqa: S603
        [python, "-P", str(program), str(folder / "job.json")],
        env={**environment, **results},
        check=True,
        stdout=subprocess.DEVNULL,
    )


def _score_peer(
    learning: Learning, results: Path, budget: float, folder: Path, environment: dict[str, str]
) -> dict[str, Any]:
    """Predict the held-out cases with nnU-Net itself, without mirroring, and score the masks as ours."""
    (checkpoint,) = results.rglob(f"checkpoint_{budget:g}.pth")
    model = checkpoint.parents[1]
    images, masks = folder / "images", folder / f"masks_{budget:g}"
    images.mkdir(exist_ok=True)
    raw = next(Path(environment["nnUNet_raw"]).iterdir()) / "imagesTr"
    for case in _held_out(learning):
        for file in raw.glob(f"{case}_0000.*"):
            if not (images / file.name).exists():
                (images / file.name).symlink_to(file.resolve())
    program, _ = peer_command(learning.peers, "nnUNetv2_predict_from_modelfolder")
    options = ("-f", str(FOLD), "-chk", checkpoint.name, "-device", "cpu", "-npp", "0", "-nps", "0")
    subprocess.run(  # noqa: S603
        [program, "-i", str(images), "-o", str(masks), "-m", str(model), *options, "--disable_tta"],
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    scores = folder / f"scores_{budget:g}.json"
    labels = str(learning.dataset_dir / "labelsTr")
    evaluate = (
        str(ROOT / "scripts" / "evaluate.py"),
        "--predictions",
        str(masks),
        "--labels",
        labels,
    )
    subprocess.run(  # noqa: S603
        [sys.executable, *evaluate, "--output", str(scores)], check=True, stdout=subprocess.DEVNULL
    )
    facts = _read(checkpoint.with_suffix(".json"))
    return _facts(scores, facts["cpu_s"], facts["steps"])


def draw(rows: Sequence[Measurement], path: Path) -> None:
    """Draw the mean Dice against the CPU minutes, one line per contender."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name in dict.fromkeys(row.contender for row in rows):
        points = [
            (row.cpu_s, row.details["Dice"]) for row in rows if row.contender == name and row.cpu_s
        ]
        if points:
            axes.plot(
                [cpu / 60 for cpu, _ in points], [dice for _, dice in points], "o-", label=name
            )
    axes.set(xlabel="CPU minutes of training", ylabel="mean Dice of held-out cases")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)
