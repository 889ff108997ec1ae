"""The weights that come with the bundle. A checkout without them is complete, too."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
from conftest import BUNDLE, ROOT, fork_server, run_script

from dynunet_bundle.configs.overlays import merged_configs
from dynunet_bundle.files import sha256_of
from dynunet_bundle.networks.model_json import model_files
from dynunet_bundle.planning.plan import plan_from

MODELS = BUNDLE / "models"
CASES = ("hippocampus_003", "hippocampus_019", "hippocampus_243", "hippocampus_367")
"""Cases that four of the five networks were trained on: this finds a broken prediction, not an accuracy."""

MEAN_DICE = 0.88
"""Lower bound of their mean Dice; they score 0.887."""


@pytest.fixture(autouse=True)
def _there() -> None:
    if not (MODELS / "model.pt").is_file():
        pytest.skip("this checkout has no weights")


def test_they_are_what_their_json_and_their_card_say() -> None:
    files = model_files(MODELS)
    assert [file.name for file in files] == ["model.pt", *(f"model_{n}.pt" for n in range(2, 6))]
    recipe = merged_configs(BUNDLE / "configs", [BUNDLE / "configs" / "cpu.json"])["train.json"]
    card = (MODELS / "README.md").read_text()
    trained: list[str] = []
    for fold, file in enumerate(files):
        facts = json.loads(file.with_suffix(".json").read_text())
        assert facts["sha256"] == sha256_of(file)
        assert facts["plan"] == plan_from(recipe).overlay()
        length = (facts["epochs"], facts["iterations_per_epoch"])
        assert length == (recipe["epochs"], recipe["iterations_per_epoch"])
        learnt = facts["learnt_from"]
        assert (learnt["fold"], len(learnt["trained"]), len(learnt["held_out"])) == (fold, 160, 40)
        trained += learnt["trained"]
        assert f"| fold {fold} | 40 | " in card and f"| {facts['val_mean_dice']:.4f} |" in card
    # each case is in four of five trainings
    assert set(Counter(trained).values()) == {4} and len(set(trained)) == 200
    assert "CC BY-SA 4.0" in card
    assert sum(file.stat().st_size for file in files) <= 15e6


def test_they_predict_real_cases_at_once(real_data: Path, tmp_path: Path) -> None:
    data = real_data / "Task04_Hippocampus"
    for name in CASES:
        for kind in ("images", "labels"):
            (tmp_path / kind).mkdir(exist_ok=True)
            shutil.copy(data / f"{kind}Tr" / f"{name}.nii.gz", tmp_path / kind)
    done = run_script("predict", "--input", tmp_path / "images", "--output_dir", tmp_path / "masks")
    assert done.returncode == 0, done.stderr
    done = run_script(
        "evaluate",
        *("--predictions", tmp_path / "masks", "--labels", tmp_path / "labels"),
        *("--csv", tmp_path / "scores.csv"),
    )
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "masks" / "scores.json").read_text())
    assert len(scores["cases"]) == len(CASES)
    assert scores["mean_dice"] >= MEAN_DICE


def test_without_them_the_message_says_what_to_do(real_data: Path, tmp_path: Path) -> None:
    """A sparse checkout: everything except the weights."""
    for name in ("bundle", "scripts"):
        ignore = shutil.ignore_patterns("__pycache__", "eval", "model*.pt", "model*.json")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignore)
    images = real_data / "Task04_Hippocampus" / "imagesTs"
    script = str(tmp_path / "scripts" / "predict.py")
    done = fork_server.run([script, "--input", str(images), "--output", str(tmp_path / "out")])
    assert done.returncode == 2
    assert "there are no weights at" in done.stderr and "--model" in done.stderr
