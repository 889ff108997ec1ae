"""Each option of each script, for a plan of two axes and one of three; the options are those of the parsers."""

import argparse
import json
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, TINY, run_script, tiny_plan

SCRIPTS = sorted(path.stem for path in (ROOT / "scripts").glob("*.py"))

APART = {
    "benchmark": "measures other projects, see tests/benchmarks",
    "download": "needs a network, see tests/dataset/test_download.py",
    "federate": "needs a package, see tests/federation/test_job.py",
    "import_nnunet": "needs a model of nnU-Net",
    "sbom": "lists the whole environment",
}
"""Scripts whose options are tested elsewhere."""

OLD = ("-h", "--continue", "--verbose")
"""Options without a case: the help, one that has no effect any more, and one about messages."""

OF_A_CLUSTER = ("--ray", "--workers", "--gpus_per_worker", "--cpus_per_worker")
"""Options that need Ray, see tests/cluster."""

WEIGHTS = "{run}/fold_0/models/model.pt"

COMMANDS: list[tuple[str, str]] = [
    ("check_dataset", "--dataset_dir {data} --json --num_workers 1"),
    ("compare", "{scores} {scores} --output {out}/comparison.json"),
    (
        "draw_plan",
        "--dataset_dir {data} --config_file {plan} --output {out}/plan.png --cache_dir {cache} --trust",
    ),
    (
        "ensemble",
        "--members {out}/probabilities {out}/probabilities --input {data}/imagesTs --output_dir {out}/ensemble "
        "--member_weights 1 2 --config_file {plan} --restart",
    ),
    (
        "evaluate",
        "--predictions {out}/masks --labels {data}/labelsTs --label_names background head tail "
        "--label_values 0 1 2 --nsd_tolerance_mm 2 --output {out}/e.json --csv {out}/e.csv "
        "--report {out}/e.html --input {data}/imagesTs",
    ),
    ("evaluate", "--predictions {out}/masks --labels {data}/labelsTs --config_file {plan}"),
    ("postprocess", "{out}/masks --output_dir {out}/ruled --config_file {rules}"),
    (
        "predict",
        "--input {data}/imagesTs --output_dir {out}/part --model {run}/fold_0 --overlap 0.25 "
        "--num_parts 2 --part_id 1",
    ),
    (
        "report",
        "{out}/masks --input {data}/imagesTs --labels {data}/labelsTs --output {out}/r.html --title x "
        "--cases 1",
    ),
    (
        "export",
        f"--model {WEIGHTS} --output_dir {{out}}/exported --config_file {{plan}} --formats torchscript "
        "--precision float32 --input {data}/imagesTs --num_patches 1 --repeats 1 --device cpu --trust",
    ),
    ("find_best", "--runs {run} --dataset_dir {data} --output {out}/best.json --no_pairs"),
    ("make_phantom", "--output_dir {out}/phantom --num_cases 2 --num_test 1 --seed 1"),
    (
        "package",
        f"--model {WEIGHTS} --name phantom_mri_segmentation --config_file {{plan}} --output_dir {{out}}/dist "
        "--version 1.0.0 --changelog {changelog} --scores {scores} --facts {facts} "
        "--exports {out}/exported/export.json --measure --curves {run}/fold_0/run/progress.png "
        "--example {data}/imagesTr/phantom_000.nii.gz {data}/labelsTr/phantom_000.nii.gz "
        "--weights_url https://example.org/model.pt --trust",
    ),
    (
        "plan",
        "--dataset_dir {data} --configuration {configuration} --planner plain --gpu_memory_gb 8 "
        "--overwrite_target_spacing 1 1 1.5 "
        "--output {out}/planned.json --overwrite --name planned --num_workers 1 --cache_dir {cache}",
    ),
    (
        "plan",
        "--dataset_dir {bare} --configuration {configuration} --channel_names MRI --output {out}/bare.json "
        "--label_names background head tail --cache_dir {cache}",
    ),
    (
        "plan",
        "--fingerprint {fingerprint} --configuration {configuration} --output {out}/again.json",
    ),
    (
        "predict",
        f"--input {{data}}/imagesTs --output_dir {{out}}/masks --model {WEIGHTS} --mirroring --restart "
        "--device cpu --precision float32 --probabilities_dir {out}/probabilities --dicom seg "
        "--report {out}/masks.html --json --trust --config_file {plan} --checkpoint best",
    ),
    (
        "predict",
        "--input {data}/imagesTs --output_dir {out}/last --model {run}/fold_0 --checkpoint last --mirroring",
    ),
    ("prepare", "--dataset_dir {data} --config_file {plan} --prepared_dir {run}/prepared --trust"),
    (
        "preview_feed",
        "--dataset_dir {data} --config_file {plan} --output {out}/feed.png --prepared_dir {run}/prepared "
        "--columns 2 --seed 1 --fold 1 --num_folds 3 --trust",
    ),
    (
        "slurm",
        "--config_file {plan} --dataset_dir {data} --output_dir {out}/job --nodes 2 --gpus_per_node 0 "
        "--processes_per_node 2 --cpus_per_process 1 --time 1:00:00 --signal_s 60 --max_restarts 1 "
        "--sbatch=--partition=cpu",
    ),
    ("status", "{run}/fold_0/run --ckpt_dir {run}/fold_0/models --json"),
    (
        "train",
        "--config_file {plan} --dataset_dir {data} --output_dir {run} --folds 0 1 --num_folds 2 --processes 1 "
        "--prepared_dir {run}/prepared --trust --collect",
    ),
    (
        "train",
        "--config_file {plan} --dataset_dir {data} --output_dir {run} --fold 1 --num_folds 2",
    ),
    ("verify_bundle", "{out}/dist/phantom_mri_segmentation --only metadata --json"),
    ("draw_plan", "--dataset_dir {data} -m {run}/fold_0 --output {out}/of_model.png"),
    (
        "ensemble",
        "--members {out}/probabilities --input {data}/imagesTs --output_dir {out}/of_model "
        "-m {run}/fold_0",
    ),
    (
        "evaluate",
        "--predictions {out}/masks --labels {data}/labelsTs -m {run}/fold_0 --output {out}/of_model.json",
    ),
    (
        "export",
        f"--model {WEIGHTS} --output_dir {{out}}/of_nnunet --formats nnunet --file_ending .nii.gz",
    ),
    (
        "plan",
        "--dataset_dir {data} --like {run}/fold_0 --output {out}/of_plan.json --cache_dir {cache}",
    ),
    ("prepare", "--dataset_dir {data} -m {run}/fold_0 --prepared_dir {run}/prepared"),
    (
        "preview_feed",
        "--dataset_dir {data} -m {run}/fold_0 --output {out}/of_feed.png --prepared_dir {run}/prepared",
    ),
]
"""Commands that end well, in the order in which they run."""

REFUSED: list[tuple[str, str]] = [
    ("package", "--refresh_template --changelog {out}/absent.md"),
    ("plan", "--dataset_dir {data} --preset seed --configuration {configuration}"),
    ("predict", "--input {data}/imagesTs --output_dir {out}/series --model {plan} --series x"),
    (
        "predict",
        "--input {data}/imagesTs --output_dir {out}/series --model {plan} --previous_dir {out}",
    ),
    ("postprocess", "{out}/masks --output_dir {out}/ruled -m {run}/fold_0 --nnunet_dir {out}"),
    ("install", "{out}/absent.zip --sha256 0 --name x --overwrite"),
    ("predict", "--input {data}/imagesTs --list_series"),
    (
        "predict",
        "--input {data}/imagesTs --output_dir {out}/map --model {run} --series_map {out}/map.json",
    ),
    ("slurm", "--dataset_dir {data} --output_dir {plan} --numa_binding node"),
    (
        "train",
        "--dataset_dir {data} --output_dir {out}/absent --config_file {plan} --previous_dir {out}/absent",
    ),
    ("train", "--dataset_dir {data} --output_dir {out}/absent --numa_binding elsewhere"),
]
"""Commands that need more than this data set or this machine has, and are refused in a line, with code 2."""


def parsers_of(script: str, monkeypatch: pytest.MonkeyPatch) -> argparse.ArgumentParser:
    """The parser of a script, caught when it is about to read the command line."""
    caught: list[argparse.ArgumentParser] = []

    def catch(self: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        caught.append(self)
        raise KeyError(script)

    for name in ("parse_args", "parse_known_args"):
        monkeypatch.setattr(argparse.ArgumentParser, name, catch)
    monkeypatch.setattr(sys, "argv", [script])
    monkeypatch.setattr("dynunet_bundle.errors.protect_terminal", lambda: None)
    with pytest.raises(KeyError, match=script):
        runpy.run_path(str(ROOT / "scripts" / f"{script}.py"), run_name="__main__")
    return caught[0]


@pytest.mark.parametrize("script", [name for name in SCRIPTS if name not in APART])
def test_each_option_has_a_case(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    actions = parsers_of(script, monkeypatch)._actions
    used = {
        word.split("=")[0]
        for name, words in (*COMMANDS, *REFUSED)
        if name == script
        for word in words.split()
    }
    options = [action.option_strings for action in actions if action.option_strings]
    missing = [
        names[0]
        for names in options
        if names[0] not in OLD + OF_A_CLUSTER and not used & set(names)
    ]
    assert missing == [], "add a case for 2D and 3D to COMMANDS"


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_number_is_finite_and_in_range(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """argparse's own int and float accept a negative count, NaN and infinity."""
    waiting = [parsers_of(script, monkeypatch)]
    while waiting:
        for action in waiting.pop()._actions:
            if isinstance(action, argparse._SubParsersAction):
                waiting += action.choices.values()
            assert action.type not in (int, float, complex), action.option_strings
            if "number_option" in getattr(action.type, "__qualname__", ""):
                for text in ("nan", "inf", "-1e999", "x", "", "True"):
                    with pytest.raises(argparse.ArgumentTypeError, match=" is not a "):
                        action.type(text)


@pytest.fixture(scope="module", params=[2, 3], ids=["2D", "3D"])
def folder(
    request: pytest.FixtureRequest, phantom: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], list[str]]:
    """Fill in the places of a command; the folder has a run of two folds."""
    dims: int = request.param
    work = tmp_path_factory.mktemp(f"options_{dims}d")
    settings = {name: TINY[name] for name in ("filters", "label_names", "val_interval")}
    brief = {"epochs": 1, "iterations_per_epoch": 1, "device": "cpu", "num_workers": 1}
    bare = shutil.copytree(phantom, work / "bare")
    (bare / "dataset.json").unlink()
    for part in ("images", "labels"):
        (bare / f"{part}Tr").rename(bare / part)
    contents: dict[str, Any] = {
        "plan.json": {**settings, **tiny_plan(dims), **brief, "task_name": "Task99_Phantom"},
        "rules.json": {"keep_largest": [[1]]},
        "facts.json": {"authors": "A", "data_source": "synthetic"},
    }
    for name, content in contents.items():
        (work / name).write_text(json.dumps(content))
    (work / "CHANGELOG.md").write_text("# Changelog\n\n## 1.0.0\n\n- First.\n")
    places = {
        "data": phantom,
        "bare": bare,
        "out": work / "out",
        "run": work / "run",
        "plan": work / "plan.json",
        "facts": work / "facts.json",
        "rules": work / "rules.json",
        "changelog": work / "CHANGELOG.md",
        "cache": work / "cache",
        "scores": work / "run/cross_validation/fold_0.json",
        "fingerprint": work / "out" / "fingerprints" / "planned.json",
        "configuration": {2: "2d", 3: "3d_fullres"}[dims],
    }

    def fill(words: str) -> list[str]:
        return [word.format(**places) for word in words.split()]

    for script, words in (
        (
            "train",
            "--task_config {plan} --dataset_dir {data} --out {run} --folds 0 1 --num_folds 2",
        ),
        (
            "predict",
            f"--input {{data}}/imagesTs --output {{out}}/masks --weights {WEIGHTS} "
            "--save_probabilities {out}/probabilities",
        ),
    ):
        done = run_script(script, *fill(words))
        assert done.returncode == 0, done.stderr
    return fill


@pytest.mark.slow
@pytest.mark.parametrize(("script", "words"), COMMANDS)
def test_a_command_ends_well(folder: Callable[[str], list[str]], script: str, words: str) -> None:
    done = run_script(script, *folder(words))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("script", "words"), REFUSED)
def test_a_command_is_refused_in_a_line(
    folder: Callable[[str], list[str]], script: str, words: str
) -> None:
    done = run_script(script, *folder(words))
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert "error: " in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
