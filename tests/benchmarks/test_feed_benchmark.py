"""The feed benchmark runs every installed contender on synthetic cases, and names the missing ones."""

import json
import sys

import numpy as np
import pytest
from conftest import BUNDLE

from benchmarks import feed_contender
from benchmarks.feed import Setting, make_cases, run

SMALL = Setting("small", 2, (18, 20, 16), 2, (8, 8, 8), 2, 2)


def test_made_cases_are_a_store_of_two_classes(tmp_path):
    stems = make_cases(SMALL, tmp_path)
    assert len(stems) == 2
    image, label, positions = (
        np.load(f"{stems[0]}.{name}.npy") for name in ("image", "label", "positions")
    )
    assert (image.shape, image.dtype) == ((2, 18, 20, 16), np.float32)
    assert set(np.unique(label)) == {0, 1, 2}
    for value in (1, 2):
        assert (label[0][tuple(positions[value - 1].T)] == value).all()


@pytest.mark.parametrize(
    "setting", [SMALL, Setting("2D", 2, (18, 20, 16), 1, (12, 12), 4, 2)], ids=["3D", "2D"]
)
def test_ours_and_monai_are_measured_and_an_absent_peer_is_named(setting, tmp_path):
    (rows,) = run(BUNDLE / "configs", tmp_path, tmp_path / "no peers", 0, None, (setting,)).values()
    ours, peer, monai = rows
    assert [row.contender for row in rows] == ["ours", "batchgeneratorsv2", "monai"]
    for row in (ours, monai):
        assert row.remark == "", row.remark
        assert row.cpu_s > 0 and row.peak_mib > 50
    assert peer.cpu_s is None and peer.remark.startswith("skipped: ")


@pytest.mark.parametrize("contender", ["ours", "monai"])
@pytest.mark.parametrize("patch", [[8, 8, 8], [12, 12]], ids=["3D", "2D"])
def test_a_contender_writes_figures_of_its_batches(contender, patch, tmp_path, monkeypatch):
    train = json.loads((BUNDLE / "configs" / "train.json").read_text())
    job = {
        "contender": contender,
        "cases": make_cases(SMALL, tmp_path),
        "shape": SMALL.shape,
        "patch": patch,
        "batch": 2,
        "num_batches": 2,
        "warm_up": 1,
        "oversampling": 0.5,
        "augmentation": train["augmentation"],
        "figures": str(tmp_path / "figures.json"),
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    monkeypatch.setattr(sys, "argv", ["program", str(tmp_path / "job.json")])
    feed_contender.main()
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["cpu_s"] > 0 and figures["wall_s"] > 0 and figures["peak_mib"] > 50
