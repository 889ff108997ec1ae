import shutil
import sys

import pytest
from conftest import BUNDLE

import dynunet_bundle
from dynunet_bundle.configs.overrides import CONFIG_SCHEMA, check_overrides, known_ids
from dynunet_bundle.configs.preflight import preflight, require_own_package
from dynunet_bundle.errors import ConfigError, OutputError
from dynunet_bundle.files import read_json

KNOWN = {"epochs", "train", "patch_size", "dataset_dir"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "training", "--epochs", "3"],
        ["run", "--train#trainer#max_epochs=3"],
        ["run", "--train::dataloader::num_threads", "3"],
        ["run", "--patch-size", "[1,2,3]"],
        ["run", "--config_file", "nowhere.json", "--meta_file", "m.json"],
        ["run", "--dataset_dir", "odd-folder"],
    ],
)
def test_known_ids_pass(arguments):
    check_overrides(arguments, KNOWN)


@pytest.mark.parametrize(
    ("flag", "nearest"),
    [("--epocs", "epochs"), ("--trian#trainer", "train"), ("--pach_size=3", "patch_size")],
)
def test_a_misspelt_id_is_an_error_with_the_nearest_name(flag, nearest):
    with pytest.raises(ConfigError, match=f'did you mean "{nearest}"'):
        check_overrides(["run", flag, "1"], KNOWN)


def test_a_misspelt_id_in_a_config_file_is_an_error(tmp_path):
    overlay = tmp_path / "overlay.json"
    overlay.write_text('{"+epochs": 1, "dataset_dri": "x"}')
    with pytest.raises(ConfigError, match="overlay.json sets .dataset_dri"):
        check_overrides(["run", f"--config_file=['{overlay}']"], KNOWN)


def test_known_ids_are_those_of_the_shipped_configs():
    ids = known_ids(BUNDLE / "configs")
    assert {"patch_size", "evaluating", "input", "optimizer", "validate"} <= ids
    assert "monai_version" not in ids


def test_folders_are_made_and_proved_writable(tmp_path):
    preflight(str(BUNDLE), [str(tmp_path / "a" / "b")])
    assert list((tmp_path / "a" / "b").iterdir()) == []
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(OutputError, match="cannot write to"):
        preflight(str(BUNDLE), [str(blocker / "run")])


def test_torchrun_without_an_overlay_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(ConfigError, match="8 processes"):
        preflight(str(BUNDLE))


@pytest.mark.parametrize(
    ("device", "problem"), [("cuda:99", "cuda:99.*--device cpu"), ("gpu", 'as "cuda:0"')]
)
def test_a_device_that_is_not_there_is_refused(device, problem):
    with pytest.raises(ConfigError, match=problem):
        preflight(str(BUNDLE), device=device)


@pytest.mark.parametrize("config", ["train.json", "inference.json", "evaluate.json"])
def test_every_config_has_its_device_checked(config):
    content = read_json(BUNDLE / "configs" / config, ConfigError, CONFIG_SCHEMA)
    assert content["preflight"]["device"] == "@device"


def test_the_hook_is_left_alone_in_a_server(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/some-server", "--epocs", "1"])
    before = sys.excepthook
    preflight(str(BUNDLE))
    assert sys.excepthook is before


def test_another_version_of_the_package_is_refused_and_an_equal_copy_is_not(tmp_path):
    copy = tmp_path / "dynunet_bundle"
    shutil.copytree(BUNDLE / "dynunet_bundle", copy)
    require_own_package(str(tmp_path))
    (copy / "__init__.py").write_text('__version__ = "99.0.0"\n')
    with pytest.raises(ConfigError, match="99.0.0") as caught:
        require_own_package(str(tmp_path))
    assert dynunet_bundle.__version__ in str(caught.value)
    assert str(copy) in str(caught.value)


@pytest.mark.parametrize(
    "arguments", [["--known", "None"], ["--known=null"], ["--other", "1", "--known", "null"]]
)
def test_a_value_of_none_is_refused(arguments: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"--known (None|null).*--known '\$None'"):
        check_overrides(arguments, {"known", "other"})


def test_no_arguments_are_fine() -> None:
    check_overrides([], set())


def test_none_as_an_expression_is_taken() -> None:
    check_overrides(["--known", "$None"], {"known"})
    # of MONAI's own arguments it is as good as nothing; MONAI Label passes it
    check_overrides(["--tracking", "None"], {"known"})
