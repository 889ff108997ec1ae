"""Commands that need no folds work for a data set with fewer cases than folds."""

import json
from pathlib import Path

from conftest import TINY, run_script


def test_a_single_case_is_prepared_and_shown(own_phantom: Path, tmp_path: Path) -> None:
    path = own_phantom / "dataset.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "training": content["training"][:1], "numTraining": 1}))
    plan, store = tmp_path / "plan.json", tmp_path / "store"
    plan.write_text(
        json.dumps({name: value for name, value in TINY.items() if name != "num_folds"})
    )
    options = ("--dataset_dir", own_phantom, "--config_file", plan, "--prepared_dir", store)
    done = run_script("prepare", *options)
    assert done.returncode == 0, done.stderr
    assert len(list(store.glob("*.image.npy"))) == 1
    picture = tmp_path / "feed.png"
    shown = (*options, "--output", picture, "--columns", "1")
    done = run_script("preview_feed", *shown, "--fold", "0")
    assert done.returncode == 2 and "--fold full" in done.stderr
    done = run_script("preview_feed", *shown)
    assert done.returncode == 0 and picture.is_file(), done.stderr
