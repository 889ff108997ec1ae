"""The verbs of ``monai.bundle``, in a Python without the package: they find the one in the bundle's folder."""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from client_bundles import HEAD_TAIL, package_bundle, predict

PURE = f"""
import json, sys
sys.path += {sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})!r}
import importlib.util
assert importlib.util.find_spec("dynunet_bundle") is None
"""
"""Start of a program that has MONAI, but not the package, which ``-S`` hides: its path comes from a ``.pth`` file."""


def run_python(program: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a folder that is not the bundle's."""
    command = [sys.executable, "-I", "-S", "-c", PURE + program, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh package."""
    return package_bundle(tmp_path_factory.mktemp("packages"), HEAD_TAIL)


@pytest.fixture(scope="module")
def images(phantom: Path) -> list[Path]:
    return sorted((phantom / "imagesTs").iterdir())[:2]


@pytest.fixture(scope="module")
def expected(
    bundle: Path, images: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> list[np.ndarray]:
    """The masks of ``monai.bundle run inference``."""
    folder = tmp_path_factory.mktemp("expected")
    return [mask_of(predict(bundle, image, folder)) for image in images]


def mask_of(file: Path) -> np.ndarray:
    return np.asanyarray(nib.load(file).dataobj)


def test_load_finds_the_code_of_the_bundle(bundle: Path, tmp_path: Path) -> None:
    program = """
import torch
from monai.bundle import load
name, folder, weights = sys.argv[1:]
network = load(name, bundle_dir=folder, workflow_type="inference")
stored = torch.load(weights, weights_only=True)
state = network.state_dict()
assert state.keys() == stored.keys() and all(torch.equal(state[key], stored[key]) for key in stored)
import dynunet_bundle
print(dynunet_bundle.__file__)
"""
    weights = bundle / "models" / "model.pt"
    done = run_python(program, tmp_path, bundle.name, str(bundle.parent), str(weights))
    assert done.stdout.strip().splitlines()[-1].startswith(str(bundle))


def test_a_workflow_runs_twice_and_takes_cases_from_its_client(
    bundle: Path, images: list[Path], expected: list[np.ndarray], tmp_path: Path
) -> None:
    program = """
from pathlib import Path
from monai.bundle import create_workflow
bundle, output, *images = sys.argv[1:]
workflow = create_workflow(
    config_file=f"{bundle}/configs/inference.json",
    workflow_type="infer",
    logging_file=False,
    bundle_root=bundle,
    output_dir=output,
    device="cpu",
    input=images[0],
)
assert workflow.check_properties() == []
assert [case["image"] for case in workflow.dataset_data] == images[:1]
for _ in range(2):
    workflow.run()
    workflow.finalize()
    found = sorted(path.name for path in Path(output).glob("*.nii.gz"))
    assert found == [Path(images[0]).name], found
    Path(output, found[0]).unlink()
    workflow.initialize()
workflow.dataset_data = [{"image": image} for image in images]
workflow.initialize()
workflow.run()
workflow.finalize()
"""
    output = tmp_path / "masks"
    run_python(program, tmp_path, str(bundle), str(output), *map(str, images))
    for image, mask in zip(images, expected, strict=True):
        np.testing.assert_array_equal(mask_of(output / image.name), mask)
    cases = json.loads((output / "run.json").read_text())["cases"]
    assert [facts["status"] for facts in cases.values()] == ["done", "done"]


@pytest.mark.parametrize(
    "verb",
    [
        ["run_workflow", "--workflow_type", "infer"],
        ["run_workflow", "--workflow_name", "ConfigWorkflow", "--properties_path", "own.json"]
        + ["--workflow_type", "infer"],
    ],
    ids=" ".join,
)
def test_a_command_outside_the_bundle_predicts(
    verb: list[str], bundle: Path, images: list[Path], expected: list[np.ndarray], tmp_path: Path
) -> None:
    own = {"network_def": {"description": "the network", "required": True, "id": "network_def"}}
    (tmp_path / "own.json").write_text(json.dumps({"infer": own}))
    arguments = ["--config_file", str(bundle / "configs" / "inference.json")]
    arguments += ["--bundle_root", str(bundle), "--input", str(images[0]), "--device", "cpu"]
    program = "import runpy; runpy.run_module('monai.bundle', run_name='__main__', alter_sys=True)"
    run_python(program, tmp_path, *verb, *arguments, "--output_dir", "masks")
    np.testing.assert_array_equal(mask_of(tmp_path / "masks" / images[0].name), expected[0])


def test_a_fresh_package_has_all_properties(bundle: Path, phantom: Path, tmp_path: Path) -> None:
    program = """
from monai.bundle import create_workflow
bundle, data = sys.argv[1:]
for kind, names in (
    ("infer", ["inference.json"]),
    ("train", ["train.json"]),
    ("train", ["train.json", "evaluate.json"]),
):
    workflow = create_workflow(
        config_file=[f"{bundle}/configs/{name}" for name in names],
        workflow_type=kind,
        logging_file=False,
        bundle_root=bundle,
        dataset_dir=data,
        prepared_dir="prepared",
        device="cpu",
    )
    assert workflow.check_properties() == [], names
    workflow.finalize()
"""
    run_python(program, tmp_path, str(bundle), str(phantom))
