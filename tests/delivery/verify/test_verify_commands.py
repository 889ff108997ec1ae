"""Checks that run the bundle: all pass on a fresh package, each fails on a faulty one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import run_script
from helpers.package_cases import NAME, request_for
from test_verify import edit, pred_format, problems_of, rewrite

from dynunet_bundle.delivery.package.make import make_package
from dynunet_bundle.delivery.verify.checks import CHECKS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(request_for(tmp_path_factory.mktemp("good"))).folder


@pytest.fixture
def bundle(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / NAME))


@pytest.mark.parametrize("plan", ["2d", "regions"])
def test_a_package_as_it_is_made_passes_all_checks(plan: str, tmp_path: Path) -> None:
    folder = make_package(request_for(tmp_path, plan)).folder
    before = sorted(path.name for path in folder.rglob("*"))
    done = run_script("verify_bundle", folder, "--json")
    rows = json.loads(done.stdout)
    assert [row["check"] for row in rows if row["problems"] or row["skipped"]] == []
    assert len(rows) == len(CHECKS)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(path.name for path in folder.rglob("*")) == before


def test_the_script_lists_what_failed(bundle: Path) -> None:
    (bundle / "LICENSE").unlink()
    done = run_script("verify_bundle", bundle, "--only", "files", "readme")
    assert done.returncode == 1
    assert "FAILED   files: LICENSE is missing." in done.stdout
    assert "passed   readme" in done.stdout
    assert "error: 1 check failed: files." in done.stderr


def test_what_the_bundles_own_code_says_of_it(bundle: Path) -> None:
    """A package with five faults that do not hide each other."""
    edit(bundle, "evaluate.json", lambda e: e.update(imports=["$import no_such_thing"]))
    edit(bundle, "train.json", lambda t: t["loss"].update(pixel_loss="unknown"))
    edit(bundle, "inference.json", lambda i: i["inferer"].update(roi="unknown"))
    rewrite(bundle, "configs/logging.conf", "args=(sys.stderr,)", "args=(os.system('true'),)")
    weights = bundle / "models" / "model.pt"
    state = torch.load(weights, weights_only=True)
    torch.save({f"module.{key}": value for key, value in state.items()}, weights)
    assert "no_such_thing" in problems_of(bundle, "imports")
    assert "unknown" in problems_of(bundle, "train")
    assert "roi" in problems_of(bundle, "inference")
    assert "refusing to apply logging config" in problems_of(bundle, "logging")
    assert "start with module." in problems_of(bundle, "weights")


def spoil_weights(bundle: Path) -> None:
    path = bundle / "models" / "model.pt"
    torch.save({**torch.load(path, weights_only=True), "head": torch.zeros(1)}, path)


@pytest.mark.parametrize(
    ("check", "spoil", "told"),
    [
        (
            "schema",
            lambda b: edit(b, "metadata.json", lambda m: m.update(surprise=1)),
            "surprise",
        ),
        (
            "network",
            lambda b: edit(b, "metadata.json", lambda m: pred_format(m).update(num_channels=4)),
            "channel number",
        ),
        ("export", spoil_weights, "head"),
        (
            "single-process",
            lambda b: edit(
                b,
                "train.json",
                lambda t: t.update(
                    json.loads((b / "configs" / "multi_gpu_train.json").read_text())
                ),
            ),
            "torchrun",
        ),
    ],
)
def test_a_command_that_fails_is_told(
    check: str, spoil: Callable[..., Any], told: str, bundle: Path
) -> None:
    spoil(bundle)
    found = problems_of(bundle, check)
    assert "monai.bundle" in found
    assert told in found
