"""MONAI Deploy's own application runs a package and a TorchScript file, on a CPU, with the masks of the command.

``make test-clients`` makes its environment and runs this. test_bundle_loading.py has a test of the same steps without
the SDK, which every run of the tests includes.
"""

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from client_bundles import HEAD_TAIL, package_bundle, predict
from conftest import ROOT
from helpers.made_dicom import make_series, oblique, straight
from scipy.ndimage import gaussian_filter

pytestmark = pytest.mark.clients

DEPLOY = ROOT / ".venv-deploy"
APP = Path(__file__).with_name("deploy_app.py")
TAGS = {"SeriesNumber": 3, "PatientBirthDate": "", "PatientSex": ""}
"""Attributes without which the SDK's loader and its writer fail."""

SERIES = {
    "signed": (np.int16, -200, oblique((1.0, 1.0, 2.5)), {}),
    "unsigned": (np.uint16, 0, straight((1.0, 1.0, 2.5)), {}),
    "rescaled": (np.int16, 0, oblique((1.0, 1.0, 1.0)), {"slopes": 0.37, "intercepts": -10.0}),
}
"""The SDK gives each its own data type: int16, uint16 and float64."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (DEPLOY / ".installed").is_file():
        pytest.skip("there is no .venv-deploy; make test-clients makes it")
    return package_bundle(tmp_path_factory.mktemp("packages"), HEAD_TAIL)


@pytest.fixture(scope="module")
def torchscript(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that MONAI's command writes, with the configs inside."""
    path = tmp_path_factory.mktemp("torchscript") / "model.ts"
    command = [sys.executable, "-m", "monai.bundle", "ckpt_export", "network_def"]
    command += ["--filepath", str(path), "--ckpt_file", "models/model.pt"]
    command += ["--meta_file", "configs/metadata.json", "--config_file", "configs/inference.json"]
    done = subprocess.run(command, cwd=bundle, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return path


def deploy(model: Path, series: Path, output: Path, bundle: Path) -> np.ndarray:
    """Run the application; give the mask ``[X, Y, Z]`` that its model sends to the writer."""
    command = [str(DEPLOY / "bin" / "python"), str(APP), str(model), str(series), str(output)]
    # a TorchScript file has no Python
    environment = {**os.environ, "PYTHONPATH": str(bundle) if model.is_file() else ""}
    done = subprocess.run(
        [*command, "head", "tail"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return np.load(output / "pred.npy").T


RUNS = [*(("package", kind) for kind in SERIES), ("torchscript", "signed")]

SHARE = {"package": 1.0, "torchscript": 0.995}
"""Smallest share of equal voxels. The layers of TorchScript round otherwise, and an untrained network has many ties."""


@pytest.mark.parametrize(("form", "kind"), RUNS)
def test_a_series_gets_the_mask_of_the_command(
    form: str, kind: str, bundle: Path, torchscript: Path, tmp_path: Path
) -> None:
    dtype, offset, affine, settings = SERIES[kind]
    noise = np.random.default_rng(0).normal(400, 120, (40, 34, 26))
    array = (gaussian_filter(noise, 1) + offset).astype(dtype)
    series = make_series(tmp_path / "series", array, affine, tags=TAGS, **settings)
    before = sorted(path for path in bundle.rglob("*") if path.suffix not in (".pyc", ""))
    mask = deploy(bundle if form == "package" else torchscript, series, tmp_path / "out", bundle)
    predict(bundle, series, tmp_path / "command")
    (expected,) = (tmp_path / "command").glob("*.nii.gz")
    equal = mask == np.asanyarray(nib.load(expected).dataobj)
    assert equal.mean() >= SHARE[form]
    assert len(np.unique(mask)) > 1
    (segmentation,) = (tmp_path / "out").glob("*.dcm")
    header = pydicom.dcmread(segmentation)
    assert header.Modality == "SEG"
    assert [segment.SegmentLabel for segment in header.SegmentSequence] == ["head", "tail"]
    # the operator leaves no file of its own
    assert sorted(p for p in bundle.rglob("*") if p.suffix not in (".pyc", "")) == before
