"""The recipe of a training goes to model.json and comes back; it is checked as an overlay is."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import BUNDLE

from dynunet_bundle.configs.overlays import merged_configs
from dynunet_bundle.configs.recipe import command_facts, recipe_of_command, training_recipe
from dynunet_bundle.configs.workflow import load_workflow
from dynunet_bundle.errors import ConfigError, WeightsError
from dynunet_bundle.networks.model_json import model_files, model_recipe

CONFIGS = BUNDLE / "configs"


def test_a_recipe_has_neither_the_plan_nor_places() -> None:
    overlay = {"patch_size": [8, 8, 8], "epochs": 3, "optimizer#momentum": 0.9, "fold": 2}
    command = {"epochs": 5, "ckpt_dir": "/a", "device": "cpu", "splits_file": "/b", "seed": 1}
    assert training_recipe([overlay, command]) == {
        "epochs": 5,
        "optimizer#momentum": 0.9,
        "seed": 1,
    }
    assert training_recipe([{"loss": object(), "learning_rate": 1e-3}]) == {"learning_rate": 1e-3}
    assert training_recipe([]) == {}


def test_another_process_has_no_recipe() -> None:
    assert recipe_of_command() == {}
    assert command_facts() == {}


def test_a_command_is_named_without_its_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [str(CONFIGS / "train.json"), "/home/x/spleen.json", "configs/quick.json"]
    words = ["run", "training", "--config_file", str(files), "--epochs", "3"]
    monkeypatch.setattr("sys.argv", ["/site/monai/bundle/__main__.py", *words])
    assert command_facts() == {"run_id": "training", "overlays": ["spleen.json", "quick.json"]}


def test_the_recipe_lies_under_overlays_and_over_the_plan(tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.json"
    overlay.write_text(json.dumps({"epochs": 7}))
    recipe = {"epochs": 5, "learning_rate": 0.5, "optimizer#momentum": 0.25}

    def value(name: str, **given: Any) -> Any:
        workflow = load_workflow(BUNDLE, "train.json", recipe=recipe, **given)
        return workflow.parser.get(name)

    assert value("epochs") == 5
    assert value("epochs", overlays=[str(overlay)]) == 7
    assert value("epochs", overlays=[str(overlay)], overrides={"epochs": 9}) == 9
    assert value("optimizer#momentum") == 0.25
    configs = merged_configs(CONFIGS, [overlay], recipe)
    assert configs["train.json"]["epochs"] == 7 and configs["train.json"]["learning_rate"] == 0.5


@pytest.mark.parametrize(
    "recipe",
    [
        {"learning_rate": "$__import__('os').system('true')"},
        {"optimizer": {"_target_": "os.system", "command": "true"}},
        {"patch_size": "$[8, 8, 8]"},
    ],
)
def test_a_recipe_that_would_run_code_is_refused(recipe: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"model\.json would run code"):
        load_workflow(BUNDLE, "train.json", recipe=recipe)


def test_a_recipe_and_an_overlay_that_only_together_run_code_are_refused(tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.json"
    overlay.write_text(json.dumps({"optimizer#_target_": "%learning_rate"}))
    with pytest.raises(ConfigError, match="would run code"):
        load_workflow(
            BUNDLE, "train.json", overlays=[str(overlay)], recipe={"learning_rate": "os.system"}
        )


def test_the_models_of_a_run_are_its_folds_in_order(tmp_path: Path) -> None:
    for fold in ("0", "10", "2", "all"):
        folder = tmp_path / "run" / f"fold_{fold}" / "models"
        folder.mkdir(parents=True)
        (folder / "model.pt").touch()
    files = model_files(tmp_path / "run")
    assert [file.parts[-3] for file in files] == ["fold_0", "fold_2", "fold_10"]
    assert model_files(tmp_path / "run" / "fold_all")[0].parts[-3] == "fold_all"
    assert model_recipe(files[0]) == {}
    with pytest.raises(WeightsError, match=r"no fold_\*/models/model.pt"):
        model_files(tmp_path)
