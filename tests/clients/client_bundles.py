"""Two packaged bundles of different tasks: a 3D one and a 2D one, with other labels."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from conftest import TINY, tiny_plan
from helpers import package_cases

from dynunet_bundle.delivery.package.make import make_package

HEAD_TAIL, FRONT_BACK = "phantom_mr_segmentation", "body_mr_segmentation"
PLANS: dict[str, dict[str, Any]] = {
    HEAD_TAIL: {"label_names": TINY["label_names"]},
    FRONT_BACK: {
        **tiny_plan(2),
        "task_name": "Task98_Body",
        "label_names": ["background", "Front", "Back"],
    },
}


def package_bundle(folder: Path, name: str) -> Path:
    """Package a made model of one of PLANS; give the bundle's folder."""
    package_cases.PLANS[name] = PLANS[name]
    return make_package(package_cases.request_for(folder / name, name, name=name)).folder


def predict(bundle: Path, image: Path, output: Path) -> Path:
    """Run the bundle's own inference as its model card says; give the mask."""
    command = [sys.executable, "-m", "monai.bundle", "run", "inference"]
    command += ["--config_file", "configs/inference.json"]
    command += ["--input", str(image), "--output_dir", str(output), "--device", "cpu"]
    done = subprocess.run(command, cwd=bundle, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return output / image.name
