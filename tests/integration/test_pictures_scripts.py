"""scripts/draw_plan.py and scripts/preview_feed.py write a complete PNG or nothing."""

import json

import pytest
from conftest import TINY, run_script
from PIL import Image


@pytest.fixture
def overlay(tmp_path):
    path = tmp_path / "tiny.json"
    names = ("filters", "kernel_sizes", "strides", "patch_size", "spacing", "label_names")
    path.write_text(json.dumps({name: TINY[name] for name in names}))
    return path


@pytest.mark.parametrize(
    ("script", "extra"),
    [("draw_plan", "--cache_dir"), ("preview_feed", "--prepared_dir")],
)
def test_a_picture_is_drawn(script, extra, overlay, phantom, tmp_path):
    out = tmp_path / "new folder" / "picture.png"
    arguments = ("--dataset_dir", phantom, "--config_file", overlay, "--out", out)
    done = run_script(script, *arguments, extra, tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert str(out) in done.stdout
    picture = Image.open(out)
    picture.load()
    assert min(picture.size) > 300
    assert [path.name for path in out.parent.iterdir()] == ["picture.png"]


@pytest.mark.parametrize("script", ["draw_plan", "preview_feed"])
def test_a_data_set_that_is_not_there(script, tmp_path):
    done = run_script(script, "--dataset_dir", tmp_path, "--out", tmp_path / "picture.png")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "picture.png").exists()
