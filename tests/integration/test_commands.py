"""Bundle commands as called by users and clients, in subprocesses."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import BUNDLE, TINY, fork_server, run_script

CONFIGS = BUNDLE / "configs"


def run_bundle(
    *arguments: str | Path, cwd: Path = BUNDLE, tiny: bool = True, **overrides: Any
) -> subprocess.CompletedProcess[str]:
    """``python -m monai.bundle run ARGUMENTS`` with overrides."""
    settings = {"device": "cpu", **(TINY if tiny else {}), **overrides}
    flags = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    return fork_server.run(["-m", "monai.bundle", "run", *map(str, arguments), *flags], cwd)


@pytest.fixture(scope="module")
def trained(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny training, run by id from inside the bundle."""
    folder = tmp_path_factory.mktemp("trained")
    done = run_bundle(
        "training",
        "--config_file",
        "configs/train.json",
        dataset_dir=phantom,
        ckpt_dir=folder / "models",
        output_dir=folder / "run",
    )
    assert done.returncode == 0, done.stderr
    assert "epoch 2/2" in done.stderr and "ETA" in done.stderr
    return folder


def test_training_leaves_model_checkpoints_logs_and_store(trained, phantom):
    assert {path.name for path in (trained / "models").iterdir()} == {
        "model.pt",
        "model.json",
        "checkpoint_last.pt",
        "checkpoint_last.previous.pt",
    }
    assert list((trained / "run" / "tensorboard").glob("events*"))
    log = [json.loads(line) for line in (trained / "run" / "train_log.jsonl").open()]
    assert [record["epoch"] for record in log] == [1, 2]
    assert len(list((trained / "run" / "prepared").glob("*.image.npy"))) == 6
    assert torch.load(trained / "models" / "model.pt", weights_only=True)


@pytest.mark.parametrize("name", ["train", "trian", "epochs", "initialize", "train#trainer"])
def test_a_run_id_that_runs_nothing_is_refused(name: str) -> None:
    """MONAI builds the parts of a section, runs nothing, and ends with code 0."""
    done = run_bundle(name, "--config_file", "configs/train.json")
    assert done.returncode == 2, done.stdout
    shown = name.partition("#")[0]  # the rest is a comment to Fire
    assert f'the configs have no list "{shown}" to run' in done.stderr
    assert "They have run and training." in done.stderr


@pytest.mark.parametrize("word", ["false", "no"])
def test_restart_false_leaves_a_finished_training(trained: Path, phantom: Path, word: str) -> None:
    """MONAI takes both words for texts, and a text is true."""
    weights = (trained / "models" / "model.pt").read_bytes()
    done = run_bundle(
        "training",
        "--config_file",
        "configs/train.json",
        dataset_dir=phantom,
        ckpt_dir=trained / "models",
        output_dir=trained / "run",
        restart=word,
    )
    assert done.returncode == 0, done.stderr
    assert "epoch 1/2" not in done.stderr
    assert not (trained / "models" / "earlier_run_1").exists()
    assert (trained / "models" / "model.pt").read_bytes() == weights


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    """The tiny plan as a task overlay."""
    path = tmp_path / "tiny.json"
    names = ("filters", "kernel_sizes", "strides", "patch_size", "spacing", "label_names")
    path.write_text(json.dumps({name: TINY[name] for name in names}))
    return path


def test_evaluating_from_another_folder(trained, phantom, tmp_path):
    files = [str(CONFIGS / "train.json"), str(CONFIGS / "evaluate.json")]
    done = run_bundle(
        "evaluating",
        "--config_file",
        str(files),
        cwd=tmp_path,
        bundle_root=BUNDLE,
        dataset_dir=phantom,
        ckpt_dir=trained / "models",
        output_dir=tmp_path / "eval",
    )
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "eval" / "scores.json").read_text())
    assert len(scores["cases"]) == 2
    assert "mean of 2 cases" in done.stderr


def test_predicting_with_the_last_epoch(trained: Path, phantom: Path, tmp_path: Path) -> None:
    models = trained / "models"
    ways = {
        "named": ["--weights", models / "checkpoint_last.pt"],
        "chosen": ["--weights", models / "model.pt", "--checkpoint", "last", "--tta"],
    }
    for name, options in ways.items():
        out = tmp_path / name
        done = run_script("predict", "--input", phantom / "imagesTs", "--output_dir", out, *options)
        assert done.returncode == 0, done.stderr
        assert "weights: checkpoint_last.pt" in done.stderr


@pytest.mark.parametrize("backend", ["torchscript", "onnx"])
def test_evaluating_an_exported_model(
    trained: Path, phantom: Path, tmp_path: Path, backend: str
) -> None:
    """What ``--exec-mode export --load_sm True --validate True`` of NVIDIA's example does."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    weights = trained / "models" / "model.pt"
    done = run_script(
        "export", "--model", weights, "--output_dir", tmp_path / "out", "--formats", backend
    )
    assert done.returncode == 0, done.stderr
    (file,) = (path for path in (tmp_path / "out").iterdir() if path.suffix in (".ts", ".onnx"))
    scores = {}
    for name, exported in (("torch", {}), (backend, {"backend_file": file})):
        done = run_bundle(
            "evaluating",
            "--config_file",
            "['configs/train.json','configs/evaluate.json']",
            dataset_dir=phantom,
            ckpt_dir=trained / "models",
            output_dir=tmp_path / name,
            precision="float32",
            backend=name,
            **exported,
        )
        assert done.returncode == 0, done.stderr
        scores[name] = json.loads((tmp_path / name / "scores.json").read_text())
    assert scores[backend]["cases"].keys() == scores["torch"]["cases"].keys()
    assert scores[backend]["mean_dice"] == pytest.approx(scores["torch"]["mean_dice"], abs=1e-3)


def test_run_without_an_id_predicts_what_predict_py_predicts(trained, phantom, overlay, tmp_path):
    """The bundle's command is given the plan; predict.py reads it from model.json."""
    plan = {name: TINY[name] for name in json.loads(overlay.read_text())}
    done = run_bundle(
        "--config_file",
        "configs/inference.json",
        tiny=False,
        **plan,
        dataset_dir=phantom,
        weights_file=trained / "models" / "model.pt",
        output_dir=tmp_path / "ours",
    )
    assert done.returncode == 0, done.stderr
    weights = ("--weights", trained / "models" / "model.pt")
    done = run_script(
        "predict", "--input", phantom / "imagesTs", "--output_dir", tmp_path / "theirs", *weights
    )
    assert done.returncode == 0, done.stderr
    for image in (phantom / "imagesTs").iterdir():
        ours, theirs = (nib.load(tmp_path / name / image.name) for name in ("ours", "theirs"))
        source = nib.load(image)
        assert np.array_equal(np.asarray(ours.dataobj), np.asarray(theirs.dataobj))
        assert ours.shape == source.shape
        assert np.array_equal(ours.affine, source.affine)


def test_predict_py_refuses_an_overlay_of_another_plan(trained, phantom, overlay, tmp_path):
    overlay.write_text(json.dumps({**json.loads(overlay.read_text()), "spacing": [3.0, 3.0, 3.0]}))
    done = run_script(
        "predict",
        *("--input", phantom / "imagesTs", "--output_dir", tmp_path / "out"),
        *("--model", trained / "models" / "model.pt", "--config_file", overlay),
    )
    assert done.returncode == 2
    assert "another plan" in done.stderr and "spacing" in done.stderr


def test_a_plan_of_model_json_stays_text(trained, phantom, tmp_path):
    """Names in model.json that MONAI's parser would read as code or references."""
    folder, canary = tmp_path / "models", tmp_path / "canary"
    shutil.copytree(trained / "models", folder)
    facts = json.loads((folder / "model.json").read_text())
    facts["plan"]["task_name"] = f"$__import__('os').mkdir({str(canary)!r})"
    facts["plan"]["channel_names"] = ["@network_def"]
    (folder / "model.json").write_text(json.dumps(facts))
    done = run_script(
        "predict",
        *("--input", phantom / "imagesTs", "--output_dir", tmp_path / "out"),
        *("--model", folder / "model.pt"),
    )
    assert done.returncode == 0, done.stderr
    assert not canary.exists()


def test_prediction_works_without_dali(trained, phantom, tmp_path):
    """Inference must run where DALI cannot be installed."""
    script = BUNDLE.parent / "scripts" / "predict.py"
    arguments = [
        *(str(script), "--input", str(phantom / "imagesTs"), "--output", str(tmp_path / "out")),
        *("--weights", str(trained / "models" / "model.pt")),
    ]
    blocked = tmp_path / "blocked.py"
    blocked.write_text(
        "import runpy, sys; assert not any('dali' in name for name in sys.modules); "
        "sys.modules['nvidia'] = sys.modules['nvidia.dali'] = None; "
        f"sys.argv = {arguments!r}; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    done = fork_server.run([str(blocked)])
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 2


def test_prepare_py_does_what_training_would(phantom, overlay, tmp_path):
    done = run_script(
        "prepare",
        *("--dataset_dir", phantom, "--config_file", overlay),
        *("--prepared_dir", tmp_path / "prepared"),
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "prepared").glob("*.json"))) == 6


def test_weights_of_another_plan_are_refused_in_one_line(trained, phantom, tmp_path):
    done = run_bundle(
        *("inference", "--config_file", "configs/inference.json"),
        tiny=False,
        dataset_dir=phantom,
        weights_file=trained / "models" / "model.pt",
        output_dir=tmp_path / "out",
    )
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and "filters: [4, 8, 16] against [32, 64, 128, 256]" in last
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "out").glob("*.nii.gz"))
