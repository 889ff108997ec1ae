"""A prediction imports less of MONAI, and libraries that were left out can still be imported afterwards."""

import json
import os
import subprocess
import sys

import pytest
from conftest import BUNDLE

PROBE = """
import json, pkgutil, sys
walk = pkgutil.walk_packages
from dynunet_bundle.configs.lean_monai import OPTIONAL, SHARDED, import_monai
import_monai()
loaded = sorted(name for name in sys.modules if name.split(".")[0] in ("monai", "torch", "scipy", "matplotlib"))
import matplotlib.pyplot, scipy.signal
from torch.distributed.optim import ZeroRedundancyOptimizer
from ignite.handlers import Checkpoint
from monai.bundle import ConfigParser
config = ConfigParser({"a": {"_target_": "ScaleIntensityd", "keys": "x"}})
print(json.dumps({
    "loaded": loaded,
    "walk is back": pkgutil.walk_packages is walk,
    "optimizer": ZeroRedundancyOptimizer.__module__,
    "hann": len(scipy.signal.windows.hann(4)),
    "figure": callable(matplotlib.pyplot.figure),
    "short name": type(config.get_parsed_content("a")).__module__,
}))
"""


@pytest.fixture(scope="module")
def told() -> dict[str, object]:
    environment = {**os.environ, "PYTHONPATH": str(BUNDLE)}
    done = subprocess.run(
        [sys.executable, "-c", PROBE], env=environment, capture_output=True, text=True, check=True
    )
    facts: dict[str, object] = json.loads(done.stdout)
    return facts


def test_parts_that_no_prediction_needs_are_not_imported(told: dict[str, object]) -> None:
    loaded = told["loaded"]
    assert isinstance(loaded, list)
    left_out = {
        *("matplotlib.pyplot", "scipy.signal", "torch.distributed.optim"),
        *("monai.auto3dseg", "monai.apps.detection", "monai.fl"),
    }
    assert not left_out & set(loaded)
    assert "monai.engines.evaluator" in loaded


def test_what_was_left_out_can_be_imported_afterwards(told: dict[str, object]) -> None:
    assert told["walk is back"] is True
    assert told["optimizer"] == "torch.distributed.optim.zero_redundancy_optimizer"
    assert told["hann"] == 4
    assert told["figure"] is True


def test_overlays_may_name_transforms_without_their_module(told: dict[str, object]) -> None:
    assert told["short name"] == "monai.transforms.intensity.dictionary"
