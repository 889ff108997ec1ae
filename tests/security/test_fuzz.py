"""Spoiled inputs: each loads or is refused with a reason; none ends the process, hangs, or takes its memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pydicom")

import numpy as np
from fuzz_inputs import seeds, spoil
from helpers.predictions import prediction, run_of, threshold_weights

from dynunet_bundle.errors import BundleError

HERE = Path(__file__).parent


def probe(folder: Path, seed: int, count: int) -> list[dict[str, str]]:
    # a process that is ended leaves what it has extracted
    temporary = folder / "temporary"
    temporary.mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)}
    command = [sys.executable, str(HERE / "fuzz_probe.py"), str(seed), str(count), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (folder / "at").read_text().split()[0] == str(count - 1)
    assert not list(temporary.glob("dynunet-dicom-*"))
    faults = folder / "faults"
    return [json.loads(line) for line in faults.read_text().splitlines()] if faults.exists() else []


def test_spoiled_inputs_are_read_or_refused(tmp_path):
    assert probe(tmp_path, 0, 500) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_many_spoiled_inputs(tmp_path, seed):
    assert probe(tmp_path, seed, 5000) == []


def test_a_prediction_of_spoiled_inputs_leaves_whole_masks_only(tmp_path):
    given = {
        name: files for name, files in seeds().items() if not name.startswith(("dicom", "zip"))
    }
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for index, kind in enumerate(sorted(given) * 3):
        rng = np.random.default_rng([7, index])
        for name, content in spoil(rng, given[kind]).items():
            (folder / f"{index}_{name}").write_bytes(content)
    with pytest.raises(BundleError, match="cases failed"):
        prediction(folder, out, threshold_weights(tmp_path / "model.pt")).run()
    run = run_of(out)
    done = {case["mask"] for case in run["cases"].values() if case["status"] == "done"}
    assert {path.name for path in out.iterdir()} == {*done, "run.json"}
    failed = [case["error"] for case in run["cases"].values() if case["status"] == "failed"]
    assert len(failed) > 20 and len(done) + len(failed) == len(run["cases"])
    assert not any(str(tmp_path) in error for error in failed)
