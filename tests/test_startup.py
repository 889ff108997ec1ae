"""Commands that only look at data, or prepare it, start without the libraries that they have no use for."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from conftest import ROOT, TINY, run_script

WITHOUT = """
import runpy, sys
sys.modules |= dict.fromkeys(sys.argv[1].split(","))
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

LOADED_BY = """
import atexit, runpy, sys
names = sys.argv[1].split(",")
sys.argv = sys.argv[2:]
atexit.register(lambda: print("loaded:", *[name for name in names if name in sys.modules]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_with(program: str, modules: str, script: str, *arguments: Any) -> str:
    """Run a script inside a small program, and give what it prints."""
    command = [sys.executable, "-c", program, modules, str(ROOT / "scripts" / f"{script}.py")]
    done = subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_planning_and_checking_need_no_torch(phantom: Path, tmp_path: Path):
    heavy = "torch,monai,ignite,SimpleITK"
    outs = [tmp_path / name / "overlay.json" for name in ("light", "usual")]
    plan = ("--dataset_dir", phantom, "--cache_dir", tmp_path / "surveys", "--out")
    run_with(WITHOUT, heavy, "plan", *plan, outs[0])
    assert run_script("plan", *plan, outs[1]).returncode == 0
    one, other = (json.loads(out.read_text()) for out in outs)
    splits = [Path(plan.pop("splits_file")) for plan in (one, other)]
    assert one == other
    assert all(path.is_relative_to(out.parent) for path, out in zip(splits, outs, strict=True))
    told = run_with(WITHOUT, heavy, "check_dataset", phantom)
    assert told.strip() == "8 cases: 0 errors, 0 warnings"


def test_formats_other_than_nifti_need_no_torch_either(tmp_path: Path):
    array = np.random.default_rng(0).integers(1, 200, (6, 8, 9)).astype(np.uint8)
    for folder, values in (("images", array), ("labels", array > 100)):
        (tmp_path / folder).mkdir()
        image = sitk.GetImageFromArray(values.astype(np.uint8))
        sitk.WriteImage(image, str(tmp_path / folder / "a.nrrd"))
    told = run_with(WITHOUT, "torch,monai,ignite", "check_dataset", tmp_path)
    assert told.strip() == "1 case: 0 errors, 0 warnings"


def test_preparing_loads_nothing_of_training_and_gives_what_training_prepares(
    phantom: Path, tmp_path: Path, train_workflow: Callable[..., Any]
):
    overlay = tmp_path / "overlay.json"
    overlay.write_text(json.dumps(TINY))
    store = tmp_path / "by_script"
    arguments = ("--dataset_dir", phantom, "--config_file", overlay, "--prepared_dir", store)
    printed = run_with(LOADED_BY, "monai.transforms,nvidia.dali", "prepare", *arguments)
    assert printed.splitlines()[-1] == "loaded: monai.transforms"
    workflow = train_workflow()
    for section in ("train", "validate"):
        workflow.parser.get_parsed_content(f"{section}#dataset").cases()
    contents = [
        {path.name: path.read_bytes() for path in folder.iterdir()}
        for folder in (store, tmp_path / "prepared")
    ]
    assert len(contents[0]) == 4 * 6
    assert contents[0] == contents[1]
