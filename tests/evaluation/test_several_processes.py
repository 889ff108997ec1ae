"""multi_gpu_evaluate.json: a bad case fails alone, and every process ends with the failures of all."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import BUNDLE, save_nifti
from helpers.made_runs import AFFINE, CASES, PLAN, make_dataset, truth_of
from helpers.predictions import THRESHOLD_PLAN, threshold_weights

from dynunet_bundle.errors import counted

CONFIGS = [BUNDLE / "configs" / name for name in ("train.json", "evaluate.json")]


def evaluate(folder: Path, dataset: Path, *held_out: str) -> subprocess.CompletedProcess[str]:
    """Evaluate cases in two processes, the first, third, ... of them in the first one."""
    overlay, splits = folder / "overlay.json", folder / "splits.json"
    overlay.write_text(json.dumps({**PLAN, "channel_names": ["CT"], **THRESHOLD_PLAN}))
    one, other = [CASES[-1]], list(held_out)
    splits.write_text(json.dumps([{"train": one, "val": other}, {"train": other, "val": one}]))
    files = [*CONFIGS, overlay, BUNDLE / "configs" / "multi_gpu_evaluate.json"]
    settings = {
        "config_file": json.dumps(list(map(str, files))),
        "dataset_dir": dataset,
        "splits_file": splits,
        "num_folds": 2,
        "weights_file": threshold_weights(folder / "model.pt"),
        "output_dir": folder / "out",
        "trust": True,
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "monai.bundle", "run", "evaluating"]
    command += [str(part) for name, value in settings.items() for part in (f"--{name}", value)]
    return subprocess.run(
        command,
        cwd=BUNDLE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize(
    ("held_out", "bad"),
    [
        (CASES[:5], [CASES[1], CASES[2], CASES[3]]),  # all of the second process, one of the first
        (CASES[:1], CASES[:1]),  # the second process has none of its own
    ],
)
def test_a_bad_case_fails_alone_in_every_process(
    tmp_path: Path, held_out: list[str], bad: list[str]
) -> None:
    dataset = make_dataset(tmp_path / "data")
    for case in held_out:
        path = dataset / "imagesTr" / f"{case}.nii.gz"
        save_nifti(path, 60.0 * truth_of(case), AFFINE)
        path.write_bytes(path.read_bytes()[: -30 if case in bad else None])
    result = evaluate(tmp_path, dataset, *held_out)
    assert result.returncode == 1
    assert f"{len(bad)} of {counted(len(held_out), 'case')} failed" in result.stderr
    assert all(f"case {case}: " in result.stderr for case in bad)
    scores = tmp_path / "out" / "scores.json"
    good = [case for case in held_out if case not in bad]
    assert not good or list(json.loads(scores.read_text())["cases"]) == good
    assert scores.is_file() == bool(good)
    # torchrun has a traceback of its own for processes that fail
    assert "PredictionError" not in result.stderr
