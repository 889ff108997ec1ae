"""What names a patient reaches no log, no report, no result and no error; and nothing leaves the machine."""

import base64
import gzip
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from conftest import ROOT
from helpers.predictions import AFFINE, prediction, save_cases, threshold_weights
from PIL import Image

from dynunet_bundle.errors import BundleError

CANARY = "Zaphod7531"
"""Stands for a patient's name: in a folder, and wherever a header has room."""

POOR = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
"""A locale that knows ASCII only, as of a bare container."""

NO_SOCKETS = """
import socket

class Refused(socket.socket):
    def __init__(self, *args, **kwargs):
        raise AssertionError("a socket was opened")

def refuse(*args, **kwargs):
    raise AssertionError("a name was looked up")

socket.socket = Refused
socket.create_connection = socket.getaddrinfo = socket.gethostbyname = refuse
"""

OVERLAY = {
    "patch_size": [24, 24, 24],
    "normalization": ["ct"],
    "intensity_statistics": [{"lower": -1e9, "upper": 1e9, "mean": 0.0, "std": 1.0}],
    "network_def": {
        "_target_": "torch.nn.Conv3d",
        "in_channels": 1,
        "out_channels": 3,
        "kernel_size": 1,
    },
}


def found_in(content: bytes) -> bool:
    return CANARY.lower().encode() in content.lower()


def leaks(folder: Path) -> list[str]:
    """Files that hold the canary: as they are, unpacked, or in a picture of a page."""
    names = []
    for path in (path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        parts = [content, str(path.relative_to(folder)).encode()]
        if path.suffix == ".gz":
            parts.append(gzip.decompress(content))
        for picture in re.findall(rb"data:image/png;base64,([A-Za-z0-9+/=]+)", content):
            parts.append(base64.b64decode(picture))
            parts.append(str(Image.open(io.BytesIO(parts[-1])).info).encode())
        if any(map(found_in, parts)):
            names.append(path.name)
    return names


def named_nifti(path: Path, array: np.ndarray) -> None:
    """A NIfTI file whose every text names the patient, extensions too."""
    image = nib.Nifti1Image(array, AFFINE)
    for field in ("descrip", "aux_file", "intent_name", "db_name"):
        image.header[field] = CANARY
    broken = b"\x08\0\x18\0UI\x0c\0" + CANARY.encode() + b"\x10\0\x10\0PN\x0a\0" + CANARY.encode()
    for code, text in ((6, CANARY.encode()), (4, CANARY.encode()), (2, broken)):
        image.header.extensions.append(nib.nifti1.Nifti1Extension(code, text))
    nib.save(image, path)


def named_sitk(path: Path, array: np.ndarray) -> None:
    image = sitk.GetImageFromArray(array.T)
    for key in ("Comment", "PatientName", "0010|0010", "ITK_FileNotes"):
        image.SetMetaData(key, CANARY)
    sitk.WriteImage(image, str(path))


def nifti_with_damage(path: Path, array: np.ndarray) -> None:
    named_nifti(path, array)
    path.write_bytes(path.read_bytes()[:2000])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder called after a patient, with images of every format, weights and an overlay in it."""
    home = tmp_path_factory.mktemp("home") / f"{CANARY}^1970" / "study of Zürich"
    images = home / "images"
    array = next(iter(save_cases(images, "plain", "größe 1").values()))
    named_nifti(images / "named.nii.gz", array)
    named_nifti(images / "raw.nii", array)
    named_sitk(images / "slices.nrrd", array)
    named_sitk(images / "meta.mha", array)
    nrrd = (images / "slices.nrrd").read_bytes()
    assert CANARY.encode() in nrrd
    (images / "slices.nrrd").write_bytes(nrrd.replace(b"\n", f"\n# {CANARY}\n".encode(), 1))
    for name in ("damaged.nii.gz", "damaged_too.nii"):
        nifti_with_damage(images / name, array)
    for suffix in ("nrrd", "mha", "png", "bmp", "tif"):
        (images / f"cut_{suffix}.{suffix}").write_bytes(b"NRRD0004\ntype: uint8\n\n")
    threshold_weights(home / "model.pt")
    (home / "overlay.json").write_text(json.dumps(OVERLAY))
    (home / "site").mkdir()
    (home / "site" / "sitecustomize.py").write_text(NO_SOCKETS)
    return home


def predict(home: Path, out: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """``scripts/predict.py`` as a user runs it in that folder, without sockets and without HOME."""
    command = [sys.executable, str(ROOT / "scripts" / "predict.py")]
    command += ["--input", "images", "--output", out, "--weights", "model.pt", "--device", "cpu"]
    command += [
        "--trust",
        "--config_file",
        "overlay.json",
        "--report",
        f"{out}/report.html",
        "--json",
    ]
    command += ["--save_probabilities", f"{out}/probabilities", "--precision", "float32"]
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    paths = os.pathsep.join([str(home / "site"), os.environ.get("PYTHONPATH", "")])
    environment |= {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(command, capture_output=True, check=False, cwd=home, env=environment)


@pytest.fixture(scope="module")
def predicted(home: Path) -> subprocess.CompletedProcess[bytes]:
    return predict(home, "out")


@pytest.mark.slow
def test_ascii_is_enough(home, predicted):
    done = predict(home, "ascii", **POOR)
    assert done.returncode == 1, done.stderr[-3000:].decode()
    assert b"Traceback" not in done.stderr
    assert not found_in(done.stdout + done.stderr)
    assert {path.name for path in (home / "ascii").iterdir()} == {
        path.name for path in (home / "out").iterdir()
    }
    assert leaks(home / "ascii") == []


def test_a_prediction_opens_no_socket(home, predicted):
    # some images are damaged on purpose
    assert predicted.returncode == 1, predicted.stderr[-3000:].decode()
    assert b"a socket was opened" not in predicted.stderr + predicted.stdout
    assert b"Traceback" not in predicted.stderr
    masks = {path.name for path in (home / "out").iterdir()}
    assert masks >= {
        "plain.nii.gz",
        "größe 1.nii.gz",
        "named.nii.gz",
        "raw.nii.gz",
        "slices.nrrd",
        "meta.mha",
    }


def test_the_sockets_are_really_closed(home):
    environment = {**os.environ, "PYTHONPATH": str(home / "site")}
    code = "import urllib.request as r; r.urlopen('http://127.0.0.1:9')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert "AssertionError" in done.stderr


def test_no_log_and_no_result_names_the_patient(home, predicted):
    assert not found_in(predicted.stdout), predicted.stdout.decode()
    assert not found_in(predicted.stderr), predicted.stderr.decode()
    assert leaks(home / "out") == []


def test_every_failure_is_told_without_its_folder(home, predicted):
    cases = json.loads((home / "out" / "run.json").read_text())["cases"]
    failed = {name: case["error"] for name, case in cases.items() if case["status"] == "failed"}
    assert {"damaged", "damaged_too"} <= set(failed) and len(failed) >= 6
    for name, error in failed.items():
        assert name in error and "/" not in error.replace("image/label", "")


# --- whole paths on the command line, DICOM, errors


def run_quietly(source: Path, home: Path, capfd: pytest.CaptureFixture[str], **ids: object) -> str:
    """Predict with absolute paths; all that was said, on the terminal, in logs and by the error."""
    try:
        prediction(source, home / "absolute", home / "model.pt", **ids).run()
    except BundleError as error:
        said = str(error)
    else:
        said = ""
    return said + "".join(capfd.readouterr())


@pytest.mark.parametrize("name", ["images", "images/damaged.nii.gz", "images/cut_nrrd.nrrd"])
def test_whole_paths_are_not_repeated(home, capfd, name):
    said = run_quietly(home / name, home, capfd, probabilities_dir=str(home / "absolute" / "p"))
    assert ("case" in said or "weights" in said) and not found_in(said.encode()), said
    assert leaks(home / "absolute") == []


@pytest.mark.parametrize("kind", ["folder", "zip", "damaged"])
def test_dicom_names_nobody(home, capfd, kind, tmp_path, monkeypatch):
    made_dicom = pytest.importorskip("fuzz_inputs").made_dicom
    monkeypatch.setattr(made_dicom, "PATIENT", f"{CANARY}^Jane")
    array = np.random.default_rng(0).integers(1, 90, (20, 18, 6)).astype(np.int16)
    tags = {"StudyDescription": CANARY, "InstitutionName": CANARY, "ImageComments": CANARY}
    folder = made_dicom.make_series(
        home / f"dicom {kind}" / CANARY, array, made_dicom.straight(), tags=tags
    )
    first = next(iter(folder.iterdir()))
    assert found_in(first.read_bytes())
    if kind == "damaged":
        first.write_bytes(first.read_bytes()[:-200])
    source = folder
    if kind == "zip":
        files = {f"{CANARY}/{file.name}": file.read_bytes() for file in folder.iterdir()}
        source = home / f"{CANARY}.zip"
        source.write_bytes(pytest.importorskip("fuzz_inputs").zipped(files))
    said = run_quietly(source, home, capfd)
    assert "series_" in said and not found_in(said.encode()), said
    assert ("truncated" in said) == (kind == "damaged")
    # objects for a PACS are the patient's, as those of the series are
    assert {name for name in leaks(home / "absolute") if not name.endswith(".dcm")} == set()
