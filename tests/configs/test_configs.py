"""Every JSON config: parses, agrees with the others, names what exists, keeps the ids that clients rely on."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import BUNDLE, TINY, run_script, tiny_plan
from helpers import config_layout
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.networks.nets import DynUNet
from monai.utils import optional_import

from dynunet_bundle.configs.expressions import SEARCH_PATH
from dynunet_bundle.configs.workflow import load_workflow
from dynunet_bundle.errors import ConfigError
from dynunet_bundle.planning.plan import PLAN_IDS

CONFIGS = sorted((BUNDLE / "configs").glob("*.json"))
OVERLAYS = (
    "cpu.json",
    "evaluate.json",
    "multi_gpu_train.json",
    "quick.json",
    "seed_augmentation.json",
    "seed_recipe.json",
)
PREDICTION_IDS = {
    *("keep_largest", "mirror_axes", "overlap", "precision", "probabilities_dir"),
    *("backend", "backend_file"),
}
"""What decides masks, in evaluate.json as in inference.json."""

FROZEN_TRAIN_IDS = {
    "amp",
    "augmentation",
    "batch_dice",
    "bundle_root",
    "case_keys",
    "cases",
    "labels",
    "ckpt_dir",
    "dataset_dir",
    "deep_supervision",
    "device",
    "epochs",
    "feed_threads",
    "feed_workers",
    "fold",
    "gradient_clip",
    "imports",
    "initialize",
    "iterations_per_epoch",
    "learning_rate",
    "loss",
    "lr_epoch_level",
    "lr_scheduler",
    "mask_augmentation",
    "memory_format",
    "network",
    "network_def",
    "num_folds",
    "num_workers",
    "optimizer",
    "output_dir",
    "own_augmentation",
    "oversampling",
    "plan",
    "preflight",
    "prepared_dir",
    "recipe",
    "preprocessing",
    "previous_dir",
    "restart",
    "run",
    "seed",
    "splits_file",
    "store_dtype",
    "train",
    "training",
    "val_interval",
    "validate",
    "volumes_per_batch",
    "weights_file",
    "amp_dtype",
    "averaged_network",
    "checkpoint",
    "compile",
    "compile_mode",
    "deterministic",
    "early_stopping",
    "ema_decay",
    "gradient_accumulation",
    "finalize",
    "numerics",
    "processes",
    "pretrained",
    "rank",
    "skip_validation",
    "tf32",
    "world_size",
    *PLAN_IDS,
}


def content(name: str) -> dict[str, Any]:
    return json.loads((BUNDLE / "configs" / name).read_text())


def strings_in(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in strings_in(item)]
    if isinstance(value, list):
        return [text for item in value for text in strings_in(item)]
    return [value] if isinstance(value, str) else []


def targets_in(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["_target_"]] if "_target_" in value else []
        return own + [name for item in value.values() for name in targets_in(item)]
    if isinstance(value, list):
        return [name for item in value for name in targets_in(item)]
    return []


@pytest.mark.parametrize("path", config_layout.CONFIGS, ids=lambda path: path.name)
def test_configs_have_the_layout_that_make_format_gives(path):
    text = path.read_text(encoding="utf-8")
    assert text == config_layout.formatted(text)


def test_configs_are_short_enough_to_read():
    lines = {path.name: len(path.read_text().splitlines()) for path in config_layout.CONFIGS}
    assert lines["train.json"] < 500 and lines["inference.json"] < 300


def test_the_ids_of_train_json_are_frozen():
    assert set(content("train.json")) == FROZEN_TRAIN_IDS


def test_plan_defaults_and_preprocessing_are_the_same_in_training_and_inference():
    train, inference = content("train.json"), content("inference.json")
    load = inference["preprocessing"]["transforms"][0]
    # MONAI Label asks for every key of a LoadImaged, and a prediction has no label
    assert load["keys"] == "$[key for key in @case_keys if key != 'label']"
    load["keys"] = train["preprocessing"]["transforms"][0]["keys"]
    # it sets them for each prediction, and checks none
    check = inference["preprocessing"]["transforms"][2]
    assert check.pop("options") == "@displayable_configs" and check.pop("device") == "$str(@device)"
    for name in (*PLAN_IDS, "plan", "labels", "case_keys", "preprocessing"):
        assert train[name] == inference[name], name
    assert train["plan"] == {name: f"@{name}" for name in PLAN_IDS}
    # a validation is quick: as declared, without mirroring
    settings = {key: inference["inferer"][key] for key in ("_target_", "roi_size", "mode")}
    own = {
        "sw_batch_size": 2,
        "overlap": 0.5,
        "precision": "@train#precision",
        "require_finite": False,
    }
    assert train["validate"]["inferer"] == {**settings, **own}


def test_evaluation_and_inference_restore_masks_alike_with_a_plain_monai_network():
    evaluate, inference = content("evaluate.json"), content("inference.json")
    assert evaluate["network_def"] == inference["network_def"]
    assert type(ConfigParser(inference).get_parsed_content("network_def")) is DynUNet
    assert evaluate["network"] == inference["network"]
    decides = ("_target_", "roi_size", "mode", "overlap", "mirror_axes", "precision")
    for key in decides:
        assert evaluate["validate#inferer"][key] == inference["inferer"][key]
    # after the notes on quality, up to the saving of masks; only a prediction writes DICOM
    restore = inference["postprocessing"]["transforms"][1:5]
    assert [step["keys"] for step in restore] == ["pred"] * 3 + ["probability"]
    expected = evaluate["validate#postprocessing"]["transforms"][: len(restore)]
    restore[0]["probability_key"] = expected[0]["probability_key"]
    assert expected == restore


def test_overlays_only_set_ids_that_train_json_has():
    known = (
        FROZEN_TRAIN_IDS
        | {"evaluating", "masks_dir", "allow_trained_cases", "model_use"}
        | PREDICTION_IDS
    )
    for name in OVERLAYS:
        assert {key.split("#")[0] for key in content(name)} <= known


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_target_is_importable(path):
    for named in targets_in(content(path.name)):
        target = named
        # a name without a dot is one that MONAI finds by itself
        dotted = target if "." in target else ConfigParser({"c": {"_target_": target}})
        if isinstance(dotted, str):
            module, _, name = dotted.rpartition(".")
            assert optional_import(module, name=name)[1], target
        else:
            item = (
                dotted.ref_resolver.get_item("c")
                or dotted.parse()
                or dotted.ref_resolver.get_item("c")
            )
            assert item.resolve_module_name() != target, target


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_expressions_are_single_calls(path):
    for text in strings_in(content(path.name)):
        if not text.startswith("$") or text.startswith("$import ") or text == SEARCH_PATH:
            continue
        tree = ast.parse(text[1:].replace("@", "ref_").replace("#", "_"), mode="eval")
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        # choosing the device takes two
        assert len(calls) <= 1 or "torch.device" in text, text


@pytest.mark.parametrize(
    ("name", "alias"),
    [("train.json", "training"), ("evaluate.json", "evaluating"), ("inference.json", "inference")],
)
def test_the_whole_config_runs_once(name, alias):
    """3D Slicer has MONAI Label evaluate all ids; a copy of the list would train a second time."""
    assert content(name)[alias] == "@run"
    calls = []
    builtin = {"run": ["$@log.append(1)"], alias: content(name)[alias]}
    parser = ConfigParser({"log": "$calls", **builtin}, globals={"calls": calls})
    parser.get_parsed_content("")
    assert calls == [1]


def test_monai_finds_all_training_properties(train_workflow):
    workflow = train_workflow()
    assert workflow.check_properties() == []


def test_monai_finds_all_inference_properties(phantom, tmp_path):
    workflow = load_workflow(
        BUNDLE,
        "inference.json",
        overrides={"dataset_dir": str(phantom), "output_dir": str(tmp_path), "device": "cpu"},
    )
    assert workflow.check_properties() == []


def test_the_task04_defaults_are_the_seeds_table(real_data, tmp_path):
    overlay = tmp_path / "overlay.json"
    result = run_script(
        "plan",
        "--dataset_dir",
        real_data / "Task04_Hippocampus",
        "--preset",
        "seed",
        "--output",
        overlay,
    )
    assert result.returncode == 0, result.stderr
    train = content("train.json")
    plan = {name: train[name] for name in PLAN_IDS}
    splits = str(tmp_path / "splits" / "Task04_Hippocampus.json")
    assert json.loads(overlay.read_text()) == {**plan, "splits_file": splits}


def test_handlers_are_a_literal_list_that_clients_can_extend():
    handlers = content("train.json")["train"]["handlers"]
    assert isinstance(handlers, list)
    assert all(isinstance(handler.get("_target_"), str) for handler in handlers)


def test_clients_may_replace_the_raw_file_lists(train_workflow, phantom):
    pair = {
        "image": str(phantom / "imagesTr" / "phantom_000.nii.gz"),
        "label": str(phantom / "labelsTr" / "phantom_000.nii.gz"),
    }
    overrides = {"train#dataset#data": [pair], "validate#dataset#data": [pair], "epochs": 1}
    workflow = train_workflow(**overrides)
    workflow.run()
    assert len(workflow.parser.get_parsed_content("train#dataset")) == 1


def test_the_default_config_trains_for_an_iteration(real_data, tmp_path):
    """The Task04 defaults as they are, on real data; only the length is cut."""
    overrides = {
        "dataset_dir": str(real_data / "Task04_Hippocampus"),
        "ckpt_dir": str(tmp_path / "models"),
        "output_dir": str(tmp_path / "run"),
        "device": "cpu",
        "epochs": 1,
        "iterations_per_epoch": 1,
    }
    workflow = load_workflow(BUNDLE, "train.json", (), overrides)
    workflow.run()
    assert (tmp_path / "models" / "model.pt").is_file()


@pytest.mark.parametrize("name", ["quick.json", "cpu.json"])
def test_filters_for_a_cpu_serve_any_number_of_levels(name, train_workflow):
    workflow = train_workflow(str(BUNDLE / "configs" / name), filters=content(name)["filters"])
    network = workflow.parser.get_parsed_content("network_def")
    assert len(network.filters) == len(TINY["strides"])


@pytest.mark.parametrize("name", ["quick.json", "cpu.json"])
def test_filters_for_a_cpu_suffice_for_the_deepest_plan(name):
    """nnU-Net plans up to eight levels (2D slices of 512 x 512)."""
    assert len(content(name)["filters"]) >= 8


def test_cpu_json_augments_as_train_json_but_does_not_mirror():
    expected = content("train.json")["augmentation"]
    assert expected.pop("mirror")
    assert content("cpu.json")["augmentation"] == expected


def test_cpu_json_has_the_optimizer_and_the_schedule_of_quick_json():
    """One overlay is one whole recipe, so the two files repeat these components."""
    for name in ("optimizer", "lr_scheduler"):
        assert content("cpu.json")[name] == content("quick.json")[name]


@pytest.mark.parametrize("dims", [2, 3])
def test_the_seeds_augmentation_trains_in_2d_from_several_volumes_a_batch(dims, train_workflow):
    plan = {
        **tiny_plan(dims),
        "batch_size": 4,
        "epochs": 1,
    }
    workflow = train_workflow(str(BUNDLE / "configs" / "seed_augmentation.json"), **plan)
    loader = workflow.parser.get_parsed_content("train#dataloader")
    assert loader.sampling.slices_per_volume == (2 if dims == 2 else 1)
    assert set(loader.sampling.augmentation.kinds) == set(
        content("seed_augmentation.json")["augmentation"]
    )
    workflow.run()


def test_an_overlay_with_an_unknown_id_is_refused(tmp_path):
    overlay = tmp_path / "overlay.json"
    overlay.write_text('{"patch_sise": [16, 16, 16]}')
    with pytest.raises(ConfigError, match='"patch_sise".*did you mean "patch_size"'):
        load_workflow(BUNDLE, "train.json", [str(overlay)])


def test_an_overlay_may_set_a_part_of_a_section(tmp_path, train_workflow):
    overlay = tmp_path / "overlay.json"
    overlay.write_text('{"optimizer#momentum": 0.5, "inferer#overlap": 0.1}')
    optimizer = train_workflow(str(overlay)).parser.get_parsed_content("optimizer")
    assert optimizer.param_groups[0]["momentum"] == 0.5
    overlay.write_text('{"+train#handlers": []}')
    with pytest.raises(ConfigError, match="train#handlers.*monai.bundle run"):
        train_workflow(str(overlay))


def test_metadata_describes_the_default_plan():
    metadata, train = content("metadata.json"), content("train.json")
    image = metadata["network_data_format"]["inputs"]["image"]
    pred = metadata["network_data_format"]["outputs"]["pred"]
    assert image["spatial_shape"] == pred["spatial_shape"] == train["patch_size"]
    assert list(image["channel_def"].values()) == train["channel_names"]
    assert list(pred["channel_def"].values()) == train["label_names"]
    assert metadata["version"] in metadata["changelog"]


def test_changelogs_agree():
    text = (Path(BUNDLE).parent / "CHANGELOG.md").read_text()
    versions = [line[3:].strip() for line in text.splitlines() if line.startswith("## ")]
    released = [version for version in versions if version != "Unreleased"]
    assert released == list(content("metadata.json")["changelog"])


def test_config_workflow_opens_the_files_as_monai_does(phantom):
    """Without our loader: what ``monai.bundle run`` does with several files."""
    names = ("train.json", "evaluate.json", "quick.json")
    workflow = ConfigWorkflow(
        config_file=[str(BUNDLE / "configs" / name) for name in names],
        workflow_type="train",
        bundle_root=str(BUNDLE),
        dataset_dir=str(phantom),
    )
    workflow.initialize()
    assert workflow.parser["validate#dataset"]["_target_"].endswith("RawDataset")
    assert workflow.parser["filters"] == content("quick.json")["filters"]
