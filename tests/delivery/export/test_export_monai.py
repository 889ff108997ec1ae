"""MONAI's own export commands on a copy of the bundle, and its TensorRT overlay on a machine without TensorRT."""

import json
import shutil
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import BUNDLE, fork_server
from export_cases import PLANS, make_model, network_of_plan
from monai.networks.nets import DynUNet

from dynunet_bundle.configs.workflow import load_workflow


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the bundle whose default plan is the tiny one, with weights of that plan."""
    root = tmp_path / "bundle"
    unwanted = shutil.ignore_patterns("eval", "*.egg-info", "__pycache__", "tasks")
    shutil.copytree(BUNDLE, root, ignore=unwanted)
    make_model(root / "models")
    path = root / "configs" / "inference.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **PLANS["3d"]}))
    metadata = root / "configs" / "metadata.json"
    content = json.loads(metadata.read_text())
    content["network_data_format"]["inputs"]["image"]["spatial_shape"] = [16, 16, 16]
    metadata.write_text(json.dumps(content))
    return root


def in_a_process(command: str, cwd: Path, name: str, **settings: Any) -> None:
    """``python -m monai.bundle COMMAND NAME --KEY VALUE ...``, as started by users."""
    flags = [text for key, value in settings.items() for text in (f"--{key}", str(value))]
    done = fork_server.run(["-m", "monai.bundle", command, name, *flags], cwd)
    assert done.returncode == 0, done.stderr


def in_this_process(command: str, cwd: Path, name: str, **settings: Any) -> None:
    """The function behind the command."""
    with chdir(cwd):
        getattr(monai.bundle, command)(name, **settings)


@pytest.fixture(params=[in_this_process, pytest.param(in_a_process, marks=pytest.mark.slow)])
def run(request: pytest.FixtureRequest) -> Callable[..., None]:
    return request.param


EXPORT = {
    "ckpt_file": "models/model.pt",
    "meta_file": "configs/metadata.json",
    "config_file": "configs/inference.json",
}
X = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(3))


def eager() -> torch.Tensor:
    with torch.no_grad():
        return network_of_plan("3d")(X)


def test_ckpt_export(bundle, run):
    run("ckpt_export", bundle, "network_def", filepath="models/model.ts", **EXPORT)
    inside = {"metadata.json": "", "inference.json": ""}
    network = torch.jit.load(str(bundle / "models" / "model.ts"), _extra_files=inside)
    with torch.no_grad():
        torch.testing.assert_close(network(X), eager(), atol=1e-4, rtol=1e-4)
    assert json.loads(inside["inference.json"])["patch_size"] == [16, 16, 16]
    assert json.loads(inside["metadata.json"])["name"]


def test_onnx_export(bundle, run):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    run("onnx_export", bundle, "network_def", filepath="models/model.onnx", **EXPORT)
    session = runtime.InferenceSession(str(bundle / "models" / "model.onnx"))
    (logits,) = session.run(None, {session.get_inputs()[0].name: X.numpy()})
    assert np.allclose(logits, eager(), atol=1e-4)


def test_without_tensorrt_its_overlay_gives_the_same_mask(bundle, phantom, tmp_path, run):
    names = {
        "plain": ["configs/inference.json"],
        "trt": ["configs/inference.json", "configs/inference_trt.json"],
    }
    for name, configs in names.items():
        run(
            "run",
            bundle,
            "inference",
            config_file=configs,
            input=str(sorted((phantom / "imagesTs").iterdir())[0]),
            output_dir=str(tmp_path / name),
            device="cpu",
            precision="float32",
        )
    plain, trt = (nib.load(next((tmp_path / name).glob("*.nii.gz"))) for name in names)
    mask = np.asarray(plain.dataobj)
    assert len(np.unique(mask)) > 1
    assert np.array_equal(mask, np.asarray(trt.dataobj))
    assert np.array_equal(plain.affine, trt.affine)
    assert not list((bundle / "models").glob("*.plan"))


def test_predict_takes_the_overlay_too(bundle, phantom, tmp_path):
    image = sorted((phantom / "imagesTs").iterdir())[0]
    overrides = {"input": str(image), "output_dir": str(tmp_path), "device": "cpu"}
    overlay = str(bundle / "configs" / "inference_trt.json")
    workflow = load_workflow(bundle, "inference.json", [overlay], overrides)
    workflow.run()
    assert list(tmp_path.glob("*.nii.gz"))
    assert isinstance(workflow.parser.get_parsed_content("network"), DynUNet)
