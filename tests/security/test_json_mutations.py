"""Mutated JSON files: each reader gives a result or one BundleError in one line, and never another exception.

Each kind of file is produced by the code itself from small synthetic data, then mutated a few hundred times.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from conftest import BUNDLE, save_nifti, touch
from helpers.made_runs import (
    AFFINE,
    PLAN,
    SHAPE,
    make_dataset,
    make_run,
    noisy_probabilities,
    save_probabilities,
)
from helpers.mutations import mutations
from helpers.predictions import prediction, save_cases, threshold_weights
from ignite.engine import Engine, State
from monai.transforms import Compose, LoadImaged, Orientationd, ScaleIntensityd

from dynunet_bundle.best_configuration.candidates import (
    Candidate,
    ReferenceLabels,
    score_candidate,
)
from dynunet_bundle.best_configuration.run_results import read_run
from dynunet_bundle.configs.overlays import merged_configs, rules_of
from dynunet_bundle.configs.workflow import load_workflow
from dynunet_bundle.cross_validation.commands import status_content
from dynunet_bundle.cross_validation.out_of_fold import is_scored, score_basis, score_fold
from dynunet_bundle.cross_validation.results import ResultFolder, collect
from dynunet_bundle.cross_validation.summary import format_folds
from dynunet_bundle.dataset.case_marks import name_mark
from dynunet_bundle.dataset.folds import read_folds
from dynunet_bundle.dataset.inputs import find_inputs
from dynunet_bundle.dataset.select import load_dataset
from dynunet_bundle.delivery.export.table import REPORT_SCHEMA, ExportRow
from dynunet_bundle.delivery.package.facts import load_facts
from dynunet_bundle.delivery.package.make import MEANS_SCHEMA
from dynunet_bundle.delivery.package.metadata import make_metadata
from dynunet_bundle.delivery.package.model_card import CardContent, model_card
from dynunet_bundle.delivery.verify.checks import verify_bundle
from dynunet_bundle.errors import ConfigError, find_user_error
from dynunet_bundle.evaluation.comparison import compare_files, format_comparison
from dynunet_bundle.evaluation.label_source import find_label_source, with_names
from dynunet_bundle.evaluation.scores import summarize_measures
from dynunet_bundle.evaluation.statistics import MEASURES
from dynunet_bundle.files import read_json, sha256_of, write_json
from dynunet_bundle.inference.ensemble import EnsembleRequest, write_ensemble
from dynunet_bundle.inference.model_use import ModelUse
from dynunet_bundle.inference.probabilities import read_probabilities
from dynunet_bundle.inference.run_json import read_run_json
from dynunet_bundle.inference.run_record import RunRecord
from dynunet_bundle.labels.scheme import LabelScheme
from dynunet_bundle.networks.exported import require_own_export, sidecar_of
from dynunet_bundle.networks.weights import learnt_mirroring, read_weights, save_weights
from dynunet_bundle.planning.command import PlanRequest, plan_dataset
from dynunet_bundle.planning.plan import plan_from
from dynunet_bundle.preprocessing.recipe import image_recipe
from dynunet_bundle.preprocessing.store import PreparedDataset
from dynunet_bundle.report.page import write_report
from dynunet_bundle.survey.case_facts import CaseFacts
from dynunet_bundle.survey.survey import all_findings, survey_dataset
from dynunet_bundle.training.watching.curves import draw_curves
from dynunet_bundle.training.watching.status import read_log, read_status
from dynunet_bundle.training.watching.status_file import StatusFile
from dynunet_bundle.training.watching.status_text import describe_run, runs_table

NAMES = ["background", "organ", "lesion"]
MAX_MESSAGE = 4000
SEED = 20261130

Reader = Callable[[], Any]
Made = tuple[Path, Reader]
"""A valid file, and what reads it."""


def planned(folder: Path) -> tuple[Path, Path]:
    """A data set, and the folder of its overlay, fingerprint and splits."""
    dataset, tasks = folder / "Task77_Made", folder / "tasks"
    make_dataset(dataset)
    for index, file in enumerate(sorted((dataset / "imagesTr").iterdir())):
        noise = np.random.default_rng(index).normal(size=(24, 24, 24)).astype(np.float32)
        label = np.zeros(noise.shape, np.uint8)
        label[4:20, 4:20, 4:20], label[9:14, 9:14, 9:14] = 1, 2
        save_nifti(file, noise)
        save_nifti(dataset / "labelsTr" / file.name, label)
    plan_dataset(PlanRequest(tasks, dataset_dir=str(dataset)))
    return dataset, tasks


def overlay(folder: Path) -> Made:
    path = planned(folder)[1] / "Task77_Made_3d.json"

    def read() -> None:
        plan_from(merged_configs(BUNDLE / "configs", [path])["train.json"])
        workflow = load_workflow(BUNDLE, "inference.json", [str(path)], {"device": "cpu"})
        for name in ("plan", "labels", "network_def"):
            workflow.parser.get_parsed_content(name)

    return path, read


def rules(folder: Path) -> Made:
    path = folder / "best_overlay.json"
    write_json(path, {"keep_largest": [[1, 2], [1]]})
    return path, lambda: rules_of([str(path)], BUNDLE / "configs")


def fingerprint(folder: Path) -> Made:
    path = planned(folder)[1] / "fingerprints" / "Task77_Made.json"
    out = folder / "again.json"
    return path, lambda: plan_dataset(
        PlanRequest(folder, fingerprint=str(path), out=out, configuration="3d_fullres")
    )


def nnunet_fingerprint(folder: Path) -> Made:
    path, read = fingerprint(folder)
    content = json.loads(path.read_text())
    names = ("spacings_mm", "shapes_after_crop", "median_relative_size_after_cropping")
    facts = {name: content[name] for name in names}
    write_json(
        path, {**facts, "modality": "CT", "num_channels": 1, "num_classes_with_background": 3}
    )
    return path, read


def splits(folder: Path) -> Made:
    dataset, tasks = planned(folder)
    names = [f"case_{index}" for index in range(6)]
    path = tasks / "splits" / "Task77_Made.json"
    return path, lambda: read_folds(path, names)


def msd_dataset(folder: Path) -> Made:
    return make_dataset(folder) / "dataset.json", lambda: load_dataset(folder)


def nnunet_dataset(folder: Path) -> Made:
    content: dict[str, Any] = {
        "channel_names": {"0": "FLAIR", "1": "T1w"},
        "labels": {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3},
        "regions_class_order": [1, 2],
        "numTraining": 1,
        "file_ending": ".nii.gz",
        "dataset": {"a": {"images": ["raw/a_0.nii.gz", "raw/a_1.nii.gz"], "label": "raw/m.nii.gz"}},
    }
    touch(folder, "raw/a_0.nii.gz", "raw/a_1.nii.gz", "raw/m.nii.gz")
    touch(folder, "imagesTr/b_0000.nii.gz", "imagesTr/b_0001.nii.gz", "labelsTr/b.nii.gz")
    write_json(folder / "dataset.json", content)
    return folder / "dataset.json", lambda: load_dataset(folder)


def image_list(folder: Path) -> Made:
    path = folder / "list.json"
    write_json(path, ["a.nii.gz", ["b_t1.nii.gz", "b_t2.nii.gz"], {"image": "c.nii", "name": "x"}])
    return path, lambda: find_inputs(path)


def model_json(folder: Path) -> Made:
    weights, steps = folder / "model.pt", Compose([ScaleIntensityd("image")])
    facts = {
        "epoch": 3,
        "epochs": 5,
        "iterations_per_epoch": 2,
        "val_mean_dice": 0.5,
        "mirror_axes": [0, 1, 2],
        "training": {"num_cases": 4, "volumes_ml": {"organ": [1.0, 2.0]}, "components": {}},
        "learnt_from": {
            "fold": 0,
            "trained": {"0123456789abcdef": "0123456789abcdef"},
            "held_out": {"fedcba9876543210": None},
            "preprocessing": image_recipe(steps),
        },
    }
    save_weights(weights, {"weight": torch.zeros(2)}, PLAN, facts)
    (folder / "status.json").write_text('{"state": "stopped"}')
    template = json.loads((BUNDLE / "configs" / "train.json").read_text())

    use = ModelUse(str(weights), steps, [{"image": "a.nii"}])

    def read() -> None:
        learnt_mirroring(weights)
        use(Engine(lambda engine, batch: None))
        read_status(folder, 0.0, folder)
        score_basis(weights, [])
        model = read_weights(weights)[1]
        model_card(CardContent(PLAN, template, load_facts(None, PLAN), "0.1.0", model))

    return weights.with_suffix(".json"), read


def export_sidecar(folder: Path) -> Made:
    path = folder / "model_fp32.onnx"
    path.write_bytes(b"a program")
    write_json(
        sidecar_of(path), {"sha256": sha256_of(path), "plan": PLAN, "weights_sha256": "0" * 64}
    )
    return sidecar_of(path), lambda: require_own_export(path, PLAN)


def export_report(folder: Path) -> Made:
    path = folder / "export.json"
    rows = [ExportRow("torch", "fp32", "ok", wall_ms=9.0), ExportRow("onnx", "fp32", "ok")]
    machine = {"processor": "a processor", "cores": 2, "device": "cpu"}
    write_json(path, {"machine": machine, "models": [asdict(row) for row in rows]})

    def read() -> None:
        exports = read_json(path, ConfigError, REPORT_SCHEMA)
        recipe = json.loads((BUNDLE / "configs" / "train.json").read_text())
        facts = load_facts(None, PLAN)
        model_card(CardContent(PLAN, recipe, facts, "0.1.0", exports=exports))

    return path, read


def package_facts(folder: Path) -> Made:
    path = folder / "facts.json"
    write_json(path, {"subject": "the organ", "authors": "A", "references": ["B", "C"]})

    def read() -> None:
        make_metadata(PLAN, load_facts(path, PLAN), "Name", {"0.1.0": "First."}, "0.1.0")

    return path, read


def run_json(folder: Path) -> Made:
    save_cases(folder / "in", "a", "b")
    weights, output = threshold_weights(folder / "model.pt"), folder / "out"
    prediction(folder / "in", output, weights).run()
    cases = [{"image": str(folder / "in" / f"{name}.nii.gz")} for name in "ab"]

    def read() -> None:
        RunRecord(str(output), cases, str(weights), {}, {}, resume=True).remaining()
        given = {"label_names": None, "label_values": None}
        find_label_source(given, [], BUNDLE / "configs", output)
        run = with_names(read_run_json(output / "run.json"), {1: "other"})
        write_report(folder / "page.html", output, run=run)

    return output / "run.json", read


def scores(folder: Path) -> Made:
    rng = np.random.default_rng(0)
    measures = {
        case: [{measure: float(rng.random()) for measure in MEASURES} for _ in NAMES[1:]]
        for case in ("a", "b", "c")
    }
    summary = summarize_measures(measures, NAMES, 2.0)
    for part in ("mine", "theirs"):
        (folder / part).mkdir()
        write_json(folder / part / "scores.json", summary)
    path, other = folder / "mine" / "scores.json", folder / "theirs" / "scores.json"
    recipe = json.loads((BUNDLE / "configs" / "train.json").read_text())
    facts = load_facts(None, PLAN)
    results, held_out = ResultFolder(folder / "results"), [["a", "b", "c"]]

    def read() -> None:
        format_comparison(compare_files(path, other))
        format_comparison(compare_files(other, path))
        score_fold(results, 0, {"epoch": 1}, PLAN, held_out, lambda masks: 0, path.parent)
        format_folds(collect(results))
        found = read_json(path, ConfigError, MEANS_SCHEMA)
        make_metadata(PLAN, facts, "Name", {"0.1.0": "First."}, "0.1.0", found)
        model_card(CardContent(PLAN, recipe, facts, "0.1.0", scores=found))
        write_report(folder / "page.html", folder / "mine", scores=found)

    return path, read


def status(folder: Path) -> Made:
    engine = Engine(lambda engine, batch: None)
    engine.state = State(iteration=7, epoch_length=2, max_epochs=5)
    StatusFile(str(folder), "Task77_Made", world_size=2).write(engine, "running", "a message")
    log = [{"epoch": epoch, "loss": 0.5, "seconds": 1.5} for epoch in (1, 2)]
    (folder / "train_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    path = folder / "status.json"

    def read() -> None:
        status_content(path)
        found = read_status(folder, 0.0)
        describe_run(found)
        runs_table([found, found])

    return path, read


def failed_process(folder: Path) -> Made:
    path = folder / "failed_process_1.json"
    write_json(path, {"message": "process 1: it failed"})
    return path, StatusFile(str(folder), "Task77_Made").failure_of_others


def log_line(folder: Path) -> Made:
    path = folder / "train_log.jsonl"
    line = {
        "epoch": 1,
        "loss": 0.5,
        "learning_rate": 0.01,
        "dice": 0.25,
        "dice_by_class": {"organ": 0.5, "lesion": None},
        "best_dice": 0.25,
        "best_epoch": 1,
        "validation_seconds": 0.5,
        "seconds": 2.5,
        "patches_per_second": 3.5,
    }
    path.write_text(json.dumps(line))

    def read() -> None:
        draw_curves(read_log(path), NAMES, "Task77_Made")
        describe_run(read_status(folder, 0.0))

    return path, read


def fold_record(folder: Path) -> Made:
    run = make_run(folder / "run", noisy_probabilities(0, 0.1), save=False)
    results = ResultFolder(run / "cross_validation")
    held_out = read_run(run).held_out

    def read() -> None:
        is_scored(results, 0, {"epoch": 3}, PLAN, held_out)
        format_folds(collect(results))
        read_run(run)

    return results.fold_file(0), read


def candidate_scores(folder: Path) -> Made:
    dataset = make_dataset(folder / "data")
    run = make_run(folder / "run", noisy_probabilities(0, 0.1), save=False)
    files = {file.name.split(".")[0]: file for file in (dataset / "labelsTr").iterdir()}
    labels = ReferenceLabels(files, LabelScheme.from_plan(PLAN))
    candidate = Candidate((read_run(run),))
    wanted = score_candidate(candidate, labels, folder / "cache")

    def read() -> None:
        found = score_candidate(candidate, labels, folder / "cache")
        assert found.keys() == wanted.keys()

    return folder / "cache" / f"{candidate.name}.json", read


def probabilities(folder: Path) -> Made:
    for case in ("case_0", "case_1"):
        save_probabilities(folder, case, noisy_probabilities(0, 0.1)(case))
        save_nifti(folder / "images" / f"{case}.nii.gz", np.ones(SHAPE, np.float32), AFFINE)
    members = folder / "cross_validation" / "probabilities"

    def read() -> None:
        read_probabilities(members)
        write_ensemble(EnsembleRequest((members, members), folder / "images", folder / "out"))

    return members / "case_0.json", read


def ensemble_record(folder: Path) -> Made:
    probabilities(folder)
    members = folder / "cross_validation" / "probabilities"
    out = folder / "out"
    out.mkdir()
    record = {
        "members": [name_mark(str(members.resolve()))] * 2,
        "weights": None,
        "keep_largest": [],
    }
    write_json(out / "ensemble.json", record)
    request = EnsembleRequest((members, members), folder / "images", out, go_on=True)
    return out / "ensemble.json", lambda: write_ensemble(request)


def store_sidecar(folder: Path) -> Made:
    case = load_dataset(make_dataset(folder / "data")).training[:1]
    keys = ["image", "label"]
    transform = Compose(
        [LoadImaged(keys, ensure_channel_first=True), Orientationd(keys, "SAR", labels=None)]
    )

    def read() -> None:
        (found,) = PreparedDataset(case, transform, str(folder / "store"), 3).cases()
        assert found.shape == (12, 8, 14) and set(found.present) <= {1, 2}

    read()
    return next((folder / "store").glob("*.json")), read


def bundle_config(name: str) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        for file in (BUNDLE / "configs").glob("*.json"):
            write_json(touch(folder, f"configs/{file.name}"), json.loads(file.read_text()))
        checks = ["metadata", "json", "label", *(["code"] if name == "inference.json" else [])]
        return folder / "configs" / name, lambda: verify_bundle(folder, checks)

    return make


def large_files(folder: Path) -> Made:
    entry = {"path": "models/model.pt", "url": "x", "hash_val": "0" * 64, "hash_type": "sha256"}
    write_json(folder / "large_files.json", {"large_files": [entry]})
    return folder / "large_files.json", lambda: verify_bundle(folder, ["files", "sizes"])


KINDS: dict[str, tuple[Callable[[Path], Made], int]] = {
    "overlay": (overlay, 15),
    "rules": (rules, 10),
    "fingerprint": (fingerprint, 40),
    "fingerprint of nnU-Net": (nnunet_fingerprint, 30),
    "splits": (splits, 40),
    "dataset.json of the Decathlon": (msd_dataset, 50),
    "dataset.json of nnU-Net": (nnunet_dataset, 60),
    "list of images": (image_list, 40),
    "model.json": (model_json, 30),
    "JSON of an export": (export_sidecar, 20),
    "export.json": (export_report, 10),
    "facts of a package": (package_facts, 20),
    "run.json": (run_json, 15),
    "scores.json": (scores, 12),
    "status.json": (status, 50),
    "failed process": (failed_process, 10),
    "train_log.jsonl": (log_line, 10),
    "fold record": (fold_record, 30),
    "scores of a candidate": (candidate_scores, 10),
    "JSON of probabilities": (probabilities, 20),
    "ensemble.json": (ensemble_record, 15),
    "JSON of the store": (store_sidecar, 20),
    "metadata.json": (bundle_config("metadata.json"), 10),
    "inference.json": (bundle_config("inference.json"), 10),
    "large_files.json": (large_files, 20),
}
"""By the kind of file what makes it, and how many mutations a usual test run tries."""


def mutated(data: Any, number: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """The first mutations of a seed."""
    return islice(mutations(data, Random(seed)), number)  # noqa: S311 - nothing secret


def faults_of(made: Made, number: int, seed: int) -> list[str]:
    """Mutations that raise another exception than a BundleError of one line."""
    path, read = made
    valid = path.read_bytes()
    read()
    faults = []
    for name, content in mutated(json.loads(valid), number, seed):
        path.write_bytes(content)
        shown = f"{name}: {content[:300]!r}"
        try:
            read()
        except Exception as error:  # noqa: BLE001 - any kind but ours is the fault that is looked for
            # MONAI wraps what its components raise; scripts find the error inside in the same way
            message = str(find_user_error(error) or "\n")
            if len(message) > MAX_MESSAGE or not message.isprintable():
                faults.append(f"{shown} raises {error!r:.300}")
    path.write_bytes(valid)
    read()
    return faults


@pytest.mark.parametrize("kind", KINDS)
def test_a_mutated_file_gives_a_result_or_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make, number = KINDS[kind]
    assert not faults_of(make(tmp_path), number, SEED)
    assert not (tmp_path / "marker").exists(), "a text was run as code"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_mutated_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    make, number = KINDS[kind]
    assert not faults_of(make(tmp_path), 20 * number, SEED + 1)
    assert not (tmp_path / "marker").exists(), "a text was run as code"


def test_mutated_facts_of_a_survey_are_looked_for_again(tmp_path: Path) -> None:
    dataset = load_dataset(planned(tmp_path)[0])
    wanted = survey_dataset(dataset, 1, tmp_path / "cache")
    path = sorted((tmp_path / "cache").glob("*.npz"))[0]
    with np.load(path, allow_pickle=False) as archive:
        arrays = dict(archive)
    for _, content in mutated(json.loads(str(arrays["json"])), 40, SEED):
        text = content.decode("utf-8", "replace").replace("\0", "")
        np.savez(path, **{**arrays, "json": np.array(text)})
        found = survey_dataset(dataset, 1, tmp_path / "cache")
        assert [one.name for one in found] == [one.name for one in wanted]
        all_findings(found)
        facts = [one.facts for one in found]
        assert all(isinstance(one, CaseFacts) for one in facts)
