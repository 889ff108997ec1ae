"""The resampling benchmark measures the right thing and compares results honestly."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import run_script

from benchmarks import resample, resample_contender
from dynunet_bundle.errors import ConfigError


def test_the_made_ct_is_the_same_every_time_and_has_all_organs():
    image, label = resample.make_ct((24, 40, 40))
    again, _ = resample.make_ct((24, 40, 40))
    np.testing.assert_array_equal(image, again)
    assert image.shape == label.shape == (1, 24, 40, 40)
    assert (image.dtype, label.dtype) == (np.float32, np.uint8)
    assert 5 <= len(np.unique(label)) <= resample.NUM_ORGANS + 1
    assert np.isfinite(image).all()


def save(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def test_agreement(tmp_path: Path):
    image = np.random.default_rng(0).normal(size=(1, 40, 8, 8)).astype(np.float32)
    other = image.copy()
    other[0, 33, 2, 2] += 2 * image.std()
    one, two = save(tmp_path / "1.npy", image), save(tmp_path / "2.npy", other)
    assert resample.agreement(one, two) == "differs from ours by at most 2.0e+00 std"
    label = np.zeros((1, 10, 10, 10), np.uint8)
    changed = label.astype(np.int8)
    changed[0, 0, 0, :5] = 1
    one, three = save(tmp_path / "1.npy", label), save(tmp_path / "3.npy", changed)
    assert resample.agreement(one, three) == "99.500000% of voxels equal ours"
    assert resample.agreement(one, two) == "shape (1, 40, 8, 8), ours (1, 10, 10, 10)"


@pytest.mark.parametrize("kind", ["image", "label"])
def test_the_contender_does_its_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str):
    made = dict(zip(("image", "label"), resample.make_ct((12, 20, 20)), strict=True))
    job = {
        "contender": "ours",
        "kind": kind,
        "shape": [18, 23, 23],
        "old_spacing": resample.OLD_SPACING,
        "new_spacing": resample.NEW_SPACING,
        "input": str(save(tmp_path / "in.npy", made[kind])),
        "output": str(tmp_path / "out.npy"),
        "figures": str(tmp_path / "figures.json"),
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    monkeypatch.setattr(sys, "argv", ["program", str(tmp_path / "job.json")])
    resample_contender.main()
    result = np.load(tmp_path / "out.npy")
    assert result.shape == (1, 18, 23, 23)
    assert result.dtype == made[kind].dtype
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["cpu_s"] > 0
    assert figures["peak_mib"] > 10


def test_the_script_skips_who_is_not_there(tmp_path: Path):
    out = tmp_path / "out.json"
    result = run_script(
        "benchmark", "resample", "--shape", "8", "16", "16", "--json", out, "--peers", tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("skipped: ") == 2
    sections = json.loads(out.read_text())["sections"]
    assert list(sections) == [
        "image, [8, 16, 16] to [12, 18, 18]",
        "label, [8, 16, 16] to [12, 18, 18]",
    ]
    for ours, other in sections.values():
        assert ours["cpu_s"] > 0
        assert other["cpu_s"] is None


def test_impossible_shapes_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="sizes must be positive"):
        resample.run((0, 4, 4), tmp_path, tmp_path, 0)
