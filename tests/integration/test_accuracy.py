"""Reproduce the figure in docs/benchmarks/quick_task04.md."""

import json

import pytest
from conftest import BUNDLE
from test_commands import run_bundle


@pytest.mark.slow
def test_quick_json_reaches_087_on_cases_it_was_not_trained_on(real_data, tmp_path):
    done = run_bundle(
        "training",
        "--config_file",
        str([str(BUNDLE / "configs" / name) for name in ("train.json", "quick.json")]),
        tiny=False,
        dataset_dir=real_data / "Task04_Hippocampus",
        ckpt_dir=tmp_path / "models",
        output_dir=tmp_path / "run",
    )
    assert done.returncode == 0, done.stderr
    last = json.loads((tmp_path / "run" / "train_log.jsonl").read_text().splitlines()[-1])
    assert last["dice"] >= 0.87  # of the last epoch, so that no epoch is chosen by this score
