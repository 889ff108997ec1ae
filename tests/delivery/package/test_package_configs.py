"""Overlays are merged into configs as MONAI merges them on a command line."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import BUNDLE
from monai.bundle import ConfigParser

from dynunet_bundle.configs.overlays import merged_configs, set_id
from dynunet_bundle.errors import ConfigError
from dynunet_bundle.files import write_json

CONFIGS = BUNDLE / "configs"


def overlay(tmp_path: Path, **ids: Any) -> str:
    path = tmp_path / "overlay.json"
    path.write_text(json.dumps(ids))
    return str(path)


@pytest.mark.parametrize("name", ["quick.json", "seed_recipe.json", "seed_augmentation.json"])
def test_training_is_what_monai_merges(name: str) -> None:
    ours = merged_configs(CONFIGS, [CONFIGS / name])["train.json"]
    theirs = ConfigParser.load_config_files([str(CONFIGS / "train.json"), str(CONFIGS / name)])
    theirs["dataset_dir"] = ours["dataset_dir"]
    assert ours == theirs


def test_an_overlay_wins_over_evaluate_json_as_it_does_on_a_command_line(tmp_path: Path) -> None:
    path = overlay(
        tmp_path, keep_largest=[[1]], overlap=0.25, **{"validate#inferer#mode": "constant"}
    )
    ours = merged_configs(CONFIGS, [path])
    assert ours["evaluate.json"]["keep_largest"] == ours["inference.json"]["keep_largest"] == [[1]]
    assert ours["evaluate.json"]["validate#inferer"]["mode"] == "constant"
    assert ours["train.json"]["validate"]["inferer"]["mode"] == "constant"
    files = [str(CONFIGS / "train.json"), str(CONFIGS / "evaluate.json"), path]
    theirs = ConfigParser.load_config_files(files)
    for name in ("train.json", "evaluate.json"):
        write_json(tmp_path / name, ours[name])
    both = ConfigParser.load_config_files(
        [str(tmp_path / "train.json"), str(tmp_path / "evaluate.json")]
    )
    both["dataset_dir"] = theirs["dataset_dir"]
    assert both == theirs


def test_a_section_that_is_replaced_takes_its_parts_with_it() -> None:
    config = {"a#b": 1, "a#c": {"d": [0, {"e": 2}]}, "other": 3}
    set_id(config, "a#c#d#1#e", 5)
    assert config["a#c"] == {"d": [0, {"e": 5}]}
    set_id(config, "a#c::d::0", 7)
    assert config["a#c"]["d"][0] == 7
    set_id(config, "a", {"z": 1})
    assert config == {"other": 3, "a": {"z": 1}}
    set_id(config, "unknown", 1)
    assert "unknown" not in config


def test_a_part_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="optimizer has no such part"):
        merged_configs(CONFIGS, [overlay(tmp_path, **{"optimizer#groups#0": 1})])
    with pytest.raises(ConfigError, match="can merge"):
        merged_configs(CONFIGS, [overlay(tmp_path, **{"+train#handlers": []})])
    with pytest.raises(ConfigError, match='did you mean "patch_size"'):
        merged_configs(CONFIGS, [overlay(tmp_path, patch_sise=[1])])
