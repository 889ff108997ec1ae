"""Configs stay within what a config needs; whatever else one says is found without running it."""

import copy
import json
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from pydoc import locate
from typing import Any

import pytest
from conftest import BUNDLE, ROOT
from monai.bundle import ComponentLocator

from dynunet_bundle.configs.code_check import check_configs, config_faults, require_safe
from dynunet_bundle.configs.expressions import SEARCH_PATH, expression_faults
from dynunet_bundle.configs.targets import EXTENSIONS, MONAI_COMPONENTS, OWN_COMPONENTS
from dynunet_bundle.configs.workflow import load_workflow
from dynunet_bundle.errors import ConfigError

CONFIGS = BUNDLE / "configs"
TRAIN = json.loads((CONFIGS / "train.json").read_text())
INFERENCE = json.loads((CONFIGS / "inference.json").read_text())


def test_the_configs_of_the_bundle_are_clean():
    assert check_configs(CONFIGS) == []


EXPRESSIONS = [
    "$__import__('os').system('touch marker')",
    "$torch.os.system('touch marker')",
    "$monai.utils.misc.subprocess.run(['touch', 'marker'])",
    "$torch.load('x')",
    "$torch.hub.load('a', 'b')",
    "$monai.utils.set_determinism.__globals__",
    "$().__class__.__mro__[1].__subclasses__()",
    "$'{0.__class__}'.format(1)",
    "$f'{().__class__}'",
    "$(lambda: 1)()",
    "$open('/etc/passwd').read()",
    "$eval('1')",
    "$getattr(torch, 'os')",
    "$getattr(torch, @amp_dtype)",
    "$[torch for torch in [@network]]",
    "$[len for len in [1]][0]",
    "$torch",
    "$@network.modules",
    "$@network('touch marker')",
    "$@optimizer.run('x')('y')",
    "$[@network][0]('x')",
    "$sorted(['touch marker'], key=@network)",
    "$[f('x') for f in [@network]]",
    "$len.to(1)",
    "$@network.__class__",
    "$@no_such_id",
    "$@",
    "$@##network",
    "$9**9**9",
    "$(x := 1)",
    "$import os",
    "$import torch, os",
    "$from os import system",
    "$import torch.hub",
    "$1; 2",
    "$",
    "$" + "(" * 500,
    # MONAI puts __local_refs['f'] there, and what follows becomes an f-string
    "$'@f + {().__class__}'",
    # MONAI turns # into ::, so that nothing is a comment
    "$[1 #\n, torch.os]",
    "%/etc/other.json#id",
    "%../other.yaml::id",
    "%no_such_id",
    "@no_such_id",
    "@",
]


@pytest.mark.parametrize("text", EXPRESSIONS)
@pytest.mark.parametrize("place", ["device", "handlers"])
def test_an_expression_that_no_config_needs_is_refused(text, place):
    config = copy.deepcopy(INFERENCE)
    if place == "device":
        config["device"] = text
    else:
        config["handlers"][1]["path"] = text
    faults = config_faults(config, {"f": 1})
    assert len(faults) >= 1 and all(fault.startswith(place) for fault in faults), faults


@pytest.mark.parametrize(
    "text",
    [
        "$-(-len(@train#dataset) // (@world_size * (@volumes_per_batch or @batch_size)))",
        "$([8 / 15, 4 / 15] + [0.0] * 9)[:len(@strides) - 2] if @deep_supervision else [1.0]",
        "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "$[key != 'image' for key in @case_keys]",
        "$@validate::evaluator.run()",
        "$import monai",
        "@train#handlers",
        "%network_def",
        "50 % of a @sign, $ and %",
    ],
)
def test_what_configs_need_is_allowed(text):
    assert config_faults({"seed": text}, TRAIN) == []


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "torch.load",
        "torch.hub.load",
        "torch.nn.modules.module.torch.load",
        "monai.data.utils.os.system",
        "monai.networks.utils.warnings.warn",
        "run_cmd",
        "download_and_extract",
        "monai.utils.run_cmd",
        "monai.apps.utils.extractall",
        "benchmarks.measure.subprocess.run",
        "dynunet_bundle.cross_validation.commands.ProcessRunner",
        "dynunet_bundle.cross_validation.slurm.write_script",
        "dynunet_bundle.dataset.download.download",
        "dynunet_bundle.files.write_json",
        "dynunet_bundle.networks.dynunet.no_such_function",
        "dynunet_bundle.networks.dynunet",
        "monai.data.NoSuchThing",
        "$print",
        "%network_def",
        "@task_name",
        "@no_such_id",
        ["os.system"],
        None,
        "",
    ],
)
def test_a_component_from_elsewhere_is_refused(target):
    for config in (
        {"network_def": {"_target_": target}},
        {"network_def#_target_": target},
        {"+train::handlers": [{"_target_": target}]},
    ):
        assert config_faults(config, TRAIN), config


def test_a_component_is_named_where_it_stands():
    # an id could be set by another file
    assert config_faults({"network_def": {"_target_": "@task_name"}}, TRAIN)
    assert config_faults({"network_def": {"_target_": "$'os.system'"}}, TRAIN)
    assert config_faults({"network_def": {"_target_": ["os.system"]}}, TRAIN)


@pytest.mark.parametrize("config", ["train.json", "inference.json"])
def test_an_architecture_is_a_name_of_the_table(config, tmp_path):
    path = overlay(tmp_path, architecture="os.system")
    with pytest.raises(
        ConfigError, match=r'overlay\.json sets architecture to "os\.system"; it must be DynUNet'
    ):
        load_workflow(BUNDLE, config, [str(path)])


def targets(value: Any) -> Iterator[str]:
    """All components that a config names, also by a nested id."""
    if isinstance(value, dict):
        names = [name for key, name in value.items() if key.split("#")[-1] == "_target_"]
        yield from (name for name in names if isinstance(name, str))
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from targets(item)


def test_the_list_has_what_the_configs_name_and_the_extensions():
    configs = [json.loads(path.read_text()) for path in CONFIGS.glob("*.json")]
    assert set(targets(configs)) == MONAI_COMPONENTS | OWN_COMPONENTS


def test_the_extensions_exist():
    locator = ComponentLocator()
    for name in EXTENSIONS:
        home = locator.get_component_module_name(name) if "." not in name else None
        assert isinstance(home, str) or locate(name), name


def test_an_image_is_read_by_the_readers_of_this_package():
    ours = "dynunet_bundle.preprocessing.reader.ImageFileReader"
    right = {"_target_": "LoadImaged", "keys": "image", "reader": ours}
    assert config_faults({"preprocessing": right}, TRAIN) == []
    for wrong in ({"reader": "NumpyReader"}, {"allow_pickle": True}, {"reader": None}):
        assert config_faults({"preprocessing": right | wrong}, TRAIN), wrong


@pytest.mark.parametrize("change", [{"_mode_": "debug"}, {"_debug_": True}])
def test_a_debugger_is_refused(change):
    assert config_faults({"inferer": {"_target_": "SimpleInferer", **change}}, TRAIN)


# --- overlays from outside


def overlay(folder: Path, **content: object) -> Path:
    path = folder / "overlay.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    "content",
    [
        {"batch_size": "$2"},
        {"spacing": ["$1.0", 1.0, 1.0]},
        {"patch_size": "@spacing"},
        {"label_names": "%channel_names"},
        {"norm_name": {"_target_": "torch.nn.Identity"}},
        {"+filters": ["$1"]},
        {"patch_size#0": "$1"},
        {"imports": ["$import os"]},
        {"initialize": ["$__import__('os').system('touch marker')"]},
        {"optimizer": {"_target_": "dynunet_bundle.cross_validation.runs.train_folds"}},
        {"optimizer": {"_target_": "dynunet_bundle.inference.probabilities.write_probabilities"}},
    ],
)
def test_an_overlay_from_outside_brings_no_code(content, tmp_path):
    path = overlay(tmp_path, **content)
    with pytest.raises(ConfigError, match="would run code") as caught:
        require_safe([CONFIGS / "train.json", path], CONFIGS)
    assert next(iter(content)) in str(caught.value)
    with pytest.raises(ConfigError, match="would run code"):
        load_workflow(BUNDLE, "train.json", [str(path)])


def test_values_and_the_bundles_own_components_are_no_code(tmp_path):
    residual = "ResidualEncoderUNet"
    content = {
        "architecture": residual,
        "norm_name": ["INSTANCE", {"affine": True}],
        "optimizer": {"_target_": "torch.optim.SGD", "params": "$@network.to('cpu')", "lr": 0.1},
        "lr_scheduler": {
            "_target_": "dynunet_bundle.training.schedules.make_schedule",
            "optimizer": "@optimizer",
        },
    }
    require_safe([CONFIGS / "train.json", overlay(tmp_path, **content)], CONFIGS)


@pytest.mark.parametrize("name", ["quick", "seed_recipe", "seed_augmentation"])
def test_the_recipes_of_the_bundle_work_wherever_they_are_called_from(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    workflow = load_workflow(BUNDLE, "train.json", [str(CONFIGS / f"{name}.json")])
    assert workflow.parser.get_parsed_content("epochs") > 0


def test_an_overlay_that_is_no_object(tmp_path):
    path = tmp_path / "overlay.json"
    path.write_text("[]")
    with pytest.raises(ConfigError, match=r"overlay\.json: .*\[\] is not of type 'object'"):
        load_workflow(BUNDLE, "inference.json", [str(path)])


def test_predict_py_runs_nothing_of_an_overlay(tmp_path, monkeypatch, capsys):
    marker = tmp_path / "marker"
    path = overlay(tmp_path, device=f"$__import__('os').system('touch {marker}')")
    arguments = ["--input", tmp_path, "--output", tmp_path / "out", "--config_file", path]
    script = ROOT / "scripts" / "predict.py"
    monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(script), run_name="__main__")
    assert caught.value.code == 2 and "would run code: device" in capsys.readouterr().err
    assert not marker.exists() and not (tmp_path / "out").exists()


def test_the_expression_of_the_search_path_is_allowed_as_this_text_only():
    assert expression_faults(SEARCH_PATH, {}) == []
    assert expression_faults(SEARCH_PATH.replace("extend", "append"), {})
    assert expression_faults(f"{SEARCH_PATH} ", {})
