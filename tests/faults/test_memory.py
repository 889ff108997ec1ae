"""Too little memory for one case is the error of that case: the others are predicted, prepared, surveyed, evaluated."""

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import BUNDLE
from helpers.predictions import run_of, save_cases, threshold_weights

TESTS = Path(__file__).parents[1]
SPARE_MIB = 400

LIMITED = """
import resource, sys
from pathlib import Path
import torch
from helpers.predictions import prediction
torch.set_num_threads(1)
folder = Path(sys.argv[1])
prediction(folder / "in" / "a.nii.gz", folder / "first", folder / "model.pt").run()
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + (int(sys.argv[2]) << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
"""
"""Once everything is loaded, memory to spare is limited."""

PREDICT = f"""{LIMITED}
from dynunet_bundle.errors import user_errors_exit
with user_errors_exit():
    prediction(folder / "in", folder / "out", folder / "model.pt").run()
"""


def limited(code: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python with some memory to spare."""
    path = os.pathsep.join([str(BUNDLE), str(TESTS)])
    return subprocess.run(
        [sys.executable, "-c", code, str(folder), str(SPARE_MIB)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path, **variables},
    )


LARGE = {"file": (600, 1.0), "resampled": (50, 10.0), "logits": (32, 10.0)}
"""Voxels along an axis and their mm, by what takes more memory than there is."""


def save_large(path: Path, kind: str) -> None:
    side, mm = LARGE[kind]
    array = np.zeros((side, side, side), np.int16)
    array[0, 0, 0] = array[-1, -1, -1] = 50
    nib.save(nib.Nifti1Image(array, np.diag([mm, mm, mm, 1])), path)


@pytest.mark.parametrize("unchecked", [False, True])
def test_large_cases_do_not_end_a_prediction(tmp_path, unchecked):
    threshold_weights(tmp_path / "model.pt")
    save_cases(tmp_path / "in", "a", "z")
    for kind in LARGE:
        save_large(tmp_path / "in" / f"{kind}.nii.gz", kind)
    # with the variable set, memory is not compared before it is taken: the libraries fail
    variables = {"DYNUNET_MAX_IMAGE_GIB": "8"} if unchecked else {}
    done = limited(PREDICT, tmp_path, **variables)
    assert done.returncode == 1, done.stderr[-3000:]
    cases = run_of(tmp_path / "out")["cases"]
    expected = {"a": "done", "z": "done", **dict.fromkeys(LARGE, "failed")}
    assert {name: case["status"] for name, case in cases.items()} == expected
    for name in LARGE:
        assert f"case {name}: there is not enough memory for" in done.stderr
        assert "Use a machine with more memory" in cases[name]["error"]
        assert unchecked or "are available" in cases[name]["error"]
    assert "Traceback" not in done.stderr
