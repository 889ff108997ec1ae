"""Text from files and arguments never becomes code: the ways that once ran a command, and their neighbours."""

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import BUNDLE, ROOT, fork_server
from helpers.predictions import THRESHOLD_PLAN, save_cases, threshold_weights

from dynunet_bundle.configs.code_check import require_safe
from dynunet_bundle.configs.command_line import read_command_line
from dynunet_bundle.configs.overrides import check_overrides, known_ids
from dynunet_bundle.configs.workflow import load_workflow
from dynunet_bundle.cross_validation.commands import bundle_command
from dynunet_bundle.errors import BundleError, ConfigError
from dynunet_bundle.files import sha256_of

CONFIGS = BUNDLE / "configs"


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "marker"


def code(marker: Path) -> str:
    """An expression that makes a file."""
    return f"$__import__('pathlib').Path({str(marker)!r}).touch()"


def overlay(folder: Path, name: str = "overlay.json", **content: Any) -> str:
    path = folder / name
    path.write_text(json.dumps(content))
    return str(path)


def run_script(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: object) -> int:
    """Exit code of a script in this process."""
    script = ROOT / "scripts" / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    return 0


# --- overlays


UNPICKLER = "torch.utils.data.datapipes.utils.decoder.basichandlers"


@pytest.mark.parametrize(
    "content",
    [
        {"optimizer": {"_target_": UNPICKLER, "_mode_": "callable"}},
        {"optimizer": "$@network_def('x')"},
        {"optimizer": "$@cases.training('x')"},
        {"preprocessing#transforms#0#reader": "NumpyReader"},
        {"preprocessing#transforms#0#allow_pickle": True},
        {"preprocessing": {"_target_": "LoadImaged", "keys": "image", "reader": "NumpyReader"}},
        {"loss": {"_target_": "monai.data.PersistentDataset", "data": [], "cache_dir": "x"}},
        {"optimizer": {"_target_": "monai.bundle.run"}},
        {"+network_def": {"_target_": "os.system"}},
    ],
)
def test_an_overlay_brings_no_code(tmp_path, content):
    path = overlay(tmp_path, **content)
    with pytest.raises(ConfigError, match=r"overlay\.json would run code.*--trust"):
        load_workflow(BUNDLE, "train.json", [path])


def test_two_overlays_together_bring_no_code(tmp_path):
    ours = "dynunet_bundle.preprocessing.reader.ImageFileReader"
    reading = {"_target_": "LoadImaged", "keys": "image", "reader": ours}
    clean = overlay(tmp_path, "a.json", mask_augmentation=reading)
    for change in ({"mask_augmentation#reader": "NumpyReader"}, {"mask_augmentation#x": 1}):
        second = overlay(tmp_path, "b.json", **change)
        for single in (clean, second):
            require_safe([CONFIGS / "train.json", single], CONFIGS)
        with pytest.raises(ConfigError, match="would run code together: mask_augmentation"):
            load_workflow(BUNDLE, "train.json", [clean, second])


def test_a_macro_brings_no_code(tmp_path):
    first = overlay(tmp_path, "a.json", mask_augmentation="%preprocessing#transforms#0")
    second = overlay(tmp_path, "b.json", **{"mask_augmentation#reader": "NumpyReader"})
    with pytest.raises(ConfigError):
        load_workflow(BUNDLE, "train.json", [first, second])


@pytest.fixture
def own_configs(tmp_path: Path) -> Path:
    """Configs of a bundle, with an overlay of its author that is code."""
    configs = tmp_path / "bundle" / "configs"
    shutil.copytree(CONFIGS, configs)
    ours = {"seed": "$hash('ours')", "mask_augmentation": {"removal": {"_target_": "os.getpid"}}}
    overlay(configs, "ours.json", **ours, **{"loss#smooth": "%seed", "+train#handlers": ["$id(1)"]})
    return configs


@pytest.mark.parametrize(
    ("content", "is_safe"),
    [
        ({"epochs": 3}, True),
        ({"learning_rate": "@seed"}, True),
        ({"loss#focal_gamma": "@seed"}, True),
        ({"+train#handlers": [{"_target_": "StatsHandler"}]}, True),
        ({"mask_augmentation#removal#max_share": 1}, True),
        ({"learning_rate": "%seed"}, False),
        ({"loss#focal_gamma": "%loss#smooth"}, False),
        ({"mask_augmentation": {"morphology": "%mask_augmentation#removal"}}, False),
        ({"+lr_scheduler": "%train#handlers"}, False),
        ({"lr_scheduler": ["%mask_augmentation"]}, False),
    ],
)
def test_code_of_the_bundle_stays_at_its_id(tmp_path, own_configs, content, is_safe):
    ours = [own_configs / "train.json", own_configs / "ours.json"]
    require_safe(ours, own_configs)
    files = [*ours, overlay(tmp_path, **content)]
    if is_safe:
        require_safe(files, own_configs)
    else:
        with pytest.raises(ConfigError, match="would run code together|cannot be merged"):
            require_safe(files, own_configs)
    require_safe(files, own_configs, trust=True)


def test_own_code_runs_with_trust(tmp_path, marker):
    path = overlay(tmp_path, seed=code(marker))
    workflow = load_workflow(BUNDLE, "inference.json", [path], trust=True)
    assert not marker.exists()
    own = overlay(tmp_path, initialize=[code(marker)])
    load_workflow(BUNDLE, "inference.json", [own], trust=True)
    assert marker.exists() and workflow


def run_bundle(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = ["-m", "monai.bundle", "run", "training", *map(str, arguments)]
    return fork_server.run(command, cwd=BUNDLE)


def test_the_bundle_command_checks_overlays_before_it_builds_anything(tmp_path, marker):
    path = overlay(tmp_path, bundle_root=code(marker), ckpt_dir=code(marker))
    files = f"['configs/train.json','{path}']"
    result = run_bundle("--config_file", files, "--output_dir", tmp_path / "out")
    assert result.returncode == 2 and "would run code: bundle_root" in result.stderr
    assert "Traceback" not in result.stderr and not marker.exists()
    run_bundle("--config_file", files, "--output_dir", tmp_path / "out", "--trust", "True")
    assert marker.exists()


@pytest.mark.parametrize("spelling", ["string", "list", "two files", "positional", "last wins"])
def test_overlays_are_checked_however_they_are_named(tmp_path, marker, spelling):
    train, clean = "configs/train.json", overlay(tmp_path, "clean.json", epochs=1)
    path = overlay(tmp_path, bundle_root=code(marker), ckpt_dir=code(marker))
    whole = json.loads((CONFIGS / "train.json").read_text()) | json.loads(Path(path).read_text())
    first = overlay(tmp_path, "args.json", config_file=overlay(tmp_path, "whole.json", **whole))
    second = overlay(tmp_path, "more_args.json", config_file=[train, path], epochs=1)
    arguments = {
        "string": ["--args_file", first],
        "list": [f"--args_file={second}"],
        "two files": ["--args_file", str([overlay(tmp_path, "a.json", epochs=1), second])],
        "positional": ["initialize", "finalize", "configs/metadata.json", str([train, path])],
        "last wins": ["--config_file", str([train, clean]), "--config-file", str([train, path])],
    }[spelling]
    files = read_command_line(["run", "training", *arguments]).config_files
    assert files[-1] == (path if spelling != "string" else str(tmp_path / "whole.json"))
    if spelling in ("list", "last wins"):
        result = run_bundle(*arguments, "--output_dir", tmp_path / "out")
        assert result.returncode == 2 and "would run code: bundle_root" in result.stderr
        assert "Traceback" not in result.stderr and not marker.exists()
        assert not (tmp_path / "out").exists()


def test_an_args_file_is_part_of_the_command_line(tmp_path):
    train = str(CONFIGS / "train.json")
    first = overlay(tmp_path, "a.json", config_file=train, epochs=1, trust=True)
    second = overlay(tmp_path, "b.json", epochs=2, **{"optimizer#momentum": 0.5})
    line = read_command_line(["run", "training", "--args_file", str([first, second]), "--seed=3"])
    expected = {"epochs": 2, "optimizer#momentum": 0.5, "seed": 3}
    assert expected.items() <= line.settings.items() and line.config_files == [train]
    assert not line.is_trusted


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epocs": 1}, 'the command line sets "epocs".*did you mean "epochs"'),
        ({"config_file": "OVERLAY"}, 'overlay.json sets "epocs"'),
        ([], "args.json cannot be read"),
        (None, "args.json cannot be read"),
    ],
)
def test_ids_of_args_files_are_checked(tmp_path, content, message):
    path = tmp_path / "args.json"
    text = json.dumps(content).replace("OVERLAY", overlay(tmp_path, epocs=1))
    path.write_text("{" if content is None else text)
    with pytest.raises(ConfigError, match=message):
        check_overrides(["run", "training", "--args_file", str(path)], known_ids(CONFIGS))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--trust"], True),
        (["--trust", "True", "--epochs", "1"], True),
        (["--trust=1"], True),
        (["--trust", "--epochs", "1"], True),
        (["--trust", "False"], False),
        (["--trust=0"], False),
        (["--epochs", "1"], False),
        (["--config_file", "trust"], False),
    ],
)
def test_trust_is_a_switch_of_the_command_line(arguments, expected):
    assert read_command_line(arguments).is_trusted is expected


def test_trust_is_not_an_id_of_overlays(tmp_path):
    path = overlay(tmp_path, trust=True, imports=["$import os"])
    with pytest.raises(ConfigError, match="which no config has"):
        load_workflow(BUNDLE, "train.json", [path])


def test_a_package_takes_no_code_from_an_overlay(tmp_path, monkeypatch, capsys):
    path = overlay(tmp_path, imports=["$import os"])
    weights = threshold_weights(tmp_path / "model.pt")
    arguments = ["--task_config", path, "--weights", weights, "--name", "liver_ct_segmentation"]
    assert run_script(monkeypatch, "package", *arguments, "--output_dir", tmp_path / "dist") == 2
    assert "would run code: imports" in capsys.readouterr().err
    assert not (tmp_path / "dist").exists()


# --- values of files and arguments


SPECIAL = ["$(1)", "@seed", "%seed", "a#b", "a::b", "$__import__('os').system('touch marker')"]


@pytest.mark.parametrize("name", SPECIAL)
def test_paths_are_literals(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    save_cases(Path(name), "a", "$b", "@c", "%d", "e#1")
    weights = threshold_weights(tmp_path / "model.pt")
    plan = overlay(tmp_path, **THRESHOLD_PLAN)
    options = ["--weights", weights, "--config_file", plan, "--trust"]
    options += ["--save_probabilities", f"{name} p"]
    assert (
        run_script(monkeypatch, "predict", "--input", name, "--output_dir", f"{name} o", *options)
        == 0
    )
    masks = {path.name for path in Path(f"{name} o").glob("*.nii.gz")}
    assert masks == {f"{case}.nii.gz" for case in ("a", "$b", "@c", "%d", "e#1")}
    assert len(list(Path(f"{name} p").glob("*.npy"))) == 5
    made = {name, f"{name} o", f"{name} p", "model.pt", "overlay.json"}
    assert {path.name for path in tmp_path.iterdir()} - made <= {"model.json"}


@pytest.mark.parametrize("option", ["--series", "--device", "--previous", "--input", "--weights"])
def test_arguments_run_nothing(tmp_path, monkeypatch, marker, capsys, option):
    save_cases(tmp_path / "in", "a")
    values = {
        "--input": tmp_path / "in",
        "--output": tmp_path / "out",
        "--weights": threshold_weights(tmp_path / "model.pt"),
    } | {option: code(marker)}
    arguments = [text for pair in values.items() for text in pair]
    run_script(monkeypatch, "predict", *arguments)
    assert not marker.exists() and "Traceback" not in capsys.readouterr().err


def test_the_facts_of_weights_run_nothing(tmp_path, monkeypatch, marker, capsys):
    save_cases(tmp_path / "in", "a")
    weights = threshold_weights(tmp_path / "model.pt")
    facts = {"sha256": sha256_of(weights), "mirror_axes": code(marker)}
    weights.with_suffix(".json").write_text(json.dumps(facts))
    arguments = ["--input", tmp_path / "in", "--output", tmp_path / "out", "--weights", weights]
    assert run_script(monkeypatch, "predict", *arguments, "--mirroring") == 2
    assert "mirror_axes" in capsys.readouterr().err and not marker.exists()


def test_settings_of_bundle_commands_are_literals():
    command = bundle_command("training", BUNDLE, ["train.json"], {"dataset_dir": Path("/$(x)")})
    assert command[command.index("--dataset_dir") + 1] == r"$'/\x24(x)'"


def test_overrides_of_train_py_run_nothing(tmp_path, monkeypatch, phantom, marker, capsys):
    arguments = ["--dataset_dir", phantom, "--out", tmp_path / "run", "--seed", code(marker)]
    assert run_script(monkeypatch, "train", *arguments) == 2
    assert "the command line would run code: seed" in capsys.readouterr().err
    assert not marker.exists()


# --- names of data sets


@pytest.mark.parametrize(
    "name", ["$print(1)", "@seed", "%seed", "tumour #1", "a::b", "a\x1b[31m", ""]
)
@pytest.mark.parametrize("kind", ["labels", "channel_names"])
def test_names_that_would_be_code_are_refused(own_phantom, name, kind):
    from dynunet_bundle.dataset.layouts import read_layout

    file = own_phantom / "dataset.json"
    content = json.loads(file.read_text())
    key = "modality" if kind == "channel_names" and "modality" in content else kind
    index = sorted(content[key])[-1]
    content[key][index] = name
    file.write_text(json.dumps(content))
    with pytest.raises(BundleError, match=r"(class|channel) name.*(Rename it|a name)\."):
        read_layout(own_phantom)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mean", "heading of the tables"),
        ("case", "heading of the tables"),
        ("background", "given twice"),
        (" background", "given twice"),
    ],
)
def test_names_that_tables_would_confuse_are_refused(own_phantom, name, message):
    from dynunet_bundle.dataset.layouts import read_layout

    file = own_phantom / "dataset.json"
    content = json.loads(file.read_text())
    content["labels"][max(content["labels"])] = name
    file.write_text(json.dumps(content))
    with pytest.raises(BundleError, match=f"class name .*{message}.*Rename"):
        read_layout(own_phantom)


def test_the_name_of_a_folder_becomes_a_plain_task_name(own_phantom, tmp_path, monkeypatch):
    folder = tmp_path / "$print('x') #1"
    own_phantom.rename(folder)
    path = tmp_path / "plan.json"
    assert run_script(monkeypatch, "plan", "--dataset_dir", folder, "--output", path) == 0
    assert json.loads(path.read_text())["task_name"] == "_print('x') _1"
    assert (tmp_path / "splits" / "_print('x') _1.json").is_file()
    load_workflow(BUNDLE, "train.json", [str(path)], {"dataset_dir": str(folder)})
