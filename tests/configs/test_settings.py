"""Each value of a command line, an overlay or an args file acts as it reads, or is refused in one line."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import BUNDLE, fork_server, run_script

from dynunet_bundle.configs.command import corrected_texts
from dynunet_bundle.configs.literals import literal
from dynunet_bundle.configs.overrides import check_overrides, known_ids
from dynunet_bundle.configs.settings import FITTING, SETTINGS
from dynunet_bundle.configs.values import monai_value, read_value, schema_of
from dynunet_bundle.configs.workflow import load_workflow
from dynunet_bundle.dicom_output.save_objects import KINDS
from dynunet_bundle.errors import ConfigError, DatasetError
from dynunet_bundle.networks.architectures import ARCHITECTURES
from dynunet_bundle.networks.exported import BACKENDS
from dynunet_bundle.networks.precision import PRECISIONS
from dynunet_bundle.preprocessing.normalize import SCHEMES
from dynunet_bundle.training.handlers.checkpoint import STRATEGIES
from dynunet_bundle.training.losses import PIXEL_LOSSES
from dynunet_bundle.training.optimizers import NO_DECAY, OPTIMIZERS
from dynunet_bundle.training.schedules import NAMES

CONFIGS = BUNDLE / "configs"
KNOWN = known_ids(CONFIGS)
FILES = {
    "training": ["train.json"],
    "evaluating": ["train.json", "evaluate.json"],
    "inference": ["inference.json"],
}


def corrected(run: str, *words: str, overlays: tuple[str, ...] = ()) -> dict[str, str]:
    files = [*(str(CONFIGS / name) for name in FILES[run]), *overlays]
    command = ["run", run, "--config_file", str(files), "--bundle_root", str(BUNDLE), *words]
    return corrected_texts(check_overrides(command, KNOWN), KNOWN)


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--restart", "false"], False),
        (["--restart", "False"], False),
        (["--restart=no"], False),
        (["--restart"], True),
        (["--amp", "No"], False),
        (["--amp", "on"], True),
        (["--deep_supervision", "false"], False),
        (["--optimizer#nesterov", "false"], False),
        (["--optimizer::nesterov", "false"], False),
        (["--train#trainer#max_epochs", "5"], 5),
        (["--epochs", "3", "--epochs", "7"], 7),
        (["--patch_size", "40,56,40"], [40, 56, 40]),
        (["--patch_size", "[40, 56, 40]"], [40, 56, 40]),
        (["--norm_name", '["INSTANCE", {"affine": false}]'], ["INSTANCE", {"affine": False}]),
        (["--intensity_statistics", "[null]"], [None]),
        (["--optimizer#lookahead", '{"steps": 6, "rate": 0.5}'], {"steps": 6, "rate": 0.5}),
        (["--label_names", "[background, a, b]"], ["background", "a", "b"]),
        (["--fold", "all"], "all"),
        (["--fold", "1"], 1),
        (["--learning_rate", "1"], 1),
        (["--gradient_clip", "$None"], "$None"),
        (["--task_name", "7"], "7"),
        (["--dataset_dir", "007"], "007"),
        (["--dataset_dir", "scan #2"], r"$'scan \x232'"),
        (["--dataset_dir", "a #2/b"], r"$'a \x232/b'"),
        (["--num_workers", "$2 * 3"], "$2 * 3"),
    ],
)
def test_a_value_is_what_the_id_holds(words: list[str], value: Any) -> None:
    texts = {
        name: text
        for name, text in check_overrides(["run", *words], KNOWN).texts.items()
        if name != "run_id"
    }
    (text,) = {**texts, **corrected("training", *words)}.values()
    found = monai_value(text)
    assert found == value
    assert type(found) is type(value)
    # what the command then has, needs no further correction
    (name,) = texts
    assert corrected("training", f"--{name}={text}") == {}


REFUSED = [
    ("restart", "maybe", "true or false"),
    ("amp", "1", "true or false"),
    ("amp", "0.0", "true or false"),
    ("epochs", "True", "a whole number, at least 1"),
    ("epochs", "0", "a whole number, at least 1"),
    ("epochs", "1.5", "a whole number"),
    ("epochs", "$None", "a whole number"),
    ("epochs", "1e30", "a whole number"),
    ("iterations_per_epoch", "0", "at least 1"),
    ("batch_size", "0", "at least 1"),
    ("val_interval", "0", "at least 1"),
    ("gradient_accumulation", "0", "at least 1"),
    ("oversampling", "1.5", "at most 1"),
    ("oversampling", "-0.1", "at least 0"),
    ("learning_rate", "nan", "a number"),
    ("learning_rate", "inf", "a number"),
    ("learning_rate", "-inf", "a number"),
    ("learning_rate", "1e999", "a number"),
    ("learning_rate", "False", "a number"),
    ("optimizer#momentum", "nan", "a number"),
    ("train#trainer#max_epochs", "0", "at least 1"),
    ("train#dataloader#num_threads", "x", "a whole number"),
    ("norm_name", "FOO", "a norm"),
    ("norm_name", '["FOO", {}]', "a norm"),
    ("validate#inferer#mode", "linear", "gaussian or constant"),
    ("device", "gpu", "a device such as cpu"),
    ("device", "0", "a device such as cpu"),
    ("augmentation", "[1]", "an object"),
    ("augmentation", "{mirror", "an object"),
    ("train#handlers", "5", "a list"),
    ("patch_size", "40", "a list"),
    ("patch_size", "[40, true, 40]", "a list"),
    ("dataset_dir", "", "a path"),
    ("checkpoint", "last", "last_and_best, last_only or none"),
    ("memory_format", "channels_last", "an expression"),
    ("seed", "abc", "a whole number"),
]


@pytest.mark.parametrize(("name", "text", "needed"), REFUSED)
def test_a_value_of_another_kind_is_refused(name: str, text: str, needed: str) -> None:
    with pytest.raises(ConfigError) as caught:
        corrected("training", f"--{name}={text}")
    message = str(caught.value)
    assert message.startswith(f"the command line sets {name} to ")
    assert needed in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "value", "needed"),
    [
        ("restart", "false", "true or false"),
        ("epochs", "3", "a whole number"),
        ("epochs", True, "a whole number"),
        ("oversampling", 2, "at most 1"),
        ("learning_rate", "1e-3", "a number"),
        ("validate#inferer#mode", "x", "gaussian or constant"),
        ("optimizer", {"_target_": "make", "nesterov": "no"}, "true or false"),
    ],
)
def test_an_overlay_a_script_and_an_args_file_are_checked_alike(
    tmp_path: Path, name: str, value: Any, needed: str
) -> None:
    file = tmp_path / "values.json"
    file.write_text(json.dumps({name: value}))
    with pytest.raises(ConfigError, match=rf"values\.json sets {name}.* must be .*{needed}"):
        corrected("training", overlays=(str(file),))
    with pytest.raises(ConfigError, match=rf"values\.json sets {name}.* must be .*{needed}"):
        load_workflow(BUNDLE, "train.json", [str(file)], trust=True)
    with pytest.raises(ConfigError, match=rf"sets {name}.* must be .*{needed}"):
        load_workflow(BUNDLE, "train.json", (), {name: value})
    with pytest.raises(ConfigError, match=rf"the args file sets {name}.* must be .*{needed}"):
        corrected("training", "--args_file", str(file))


@pytest.mark.parametrize(
    ("plan", "needed"),
    [
        ({"patch_size": [41, 56, 40]}, r"\[40, 56, 40\] or \[48, 56, 40\] would do"),
        ({"patch_size": [3, 56, 40]}, r"\[8, 56, 40\] would do"),
        ({"patch_size": [40, 56]}, "spatial_dims is 3. Give 3 values"),
        ({"spacing": [1.0, 1.0]}, "spatial_dims is 3. Give 3 values"),
        ({"spatial_dims": 2}, "Give 2 values"),
        ({"filters": [32, 64]}, "strides has 4 levels"),
        ({"kernel_sizes": [[3, 3, 3]] * 3}, "kernel_sizes has 3 levels and strides has 4"),
        ({"strides": [[1, 1]] * 4}, "Give 3 values per level"),
        ({"strides": [[2, 2, 2]] * 4}, r"first level must be \[1, 1, 1\]"),
        ({"norm_name": ["GROUP", {"num_groups": 3}]}, '"num_groups": 32'),
        ({"norm_name": ["GROUP", {}]}, "num_groups"),
        ({"normalization": ["zscore", "ct"]}, "Give one per channel"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(
    tmp_path: Path, plan: dict[str, Any], needed: str
) -> None:
    words = [f"--{name}={value}" for name, value in plan.items()]
    with pytest.raises(ConfigError, match=needed):
        corrected("training", *words)
    with pytest.raises(ConfigError, match=needed):
        corrected("inference", *words)
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(plan))
    for config in ("train.json", "inference.json"):
        with pytest.raises(ConfigError, match=needed):
            load_workflow(BUNDLE, config, [str(file)])


def test_a_part_of_a_plan_is_checked_with_the_whole() -> None:
    with pytest.raises(ConfigError, match=r"\[40, 56, 40\] or \[40, 56, 48\] would do"):
        corrected("training", "--patch_size#2", "41")


def test_the_defaults_and_the_recipes_pass() -> None:
    for overlay in ("quick.json", "seed_recipe.json", "seed_augmentation.json"):
        assert corrected("training", overlays=(str(CONFIGS / overlay),)) == {}
    for run in FILES:
        assert corrected(run) == {}


WRONG = {
    "boolean": ["1", "x", "nan", "[]"],
    "integer": ["1.5", "True", "nan", "x", "[1]"],
    "number": ["True", "nan", "-1e999", "x", "{}"],
    "string": ["", "\x00"],
    "array": ["5", "{}", "x", "nan"],
    "object": ["5", "[1]", "x", "nan"],
}
"""Texts that no id of a type can hold."""


@pytest.mark.parametrize("name", SETTINGS)
def test_each_setting_refuses_what_it_cannot_hold(name: str) -> None:
    schema = schema_of(name, {})
    assert schema is SETTINGS[name]
    kinds = schema.get("type", [])
    for kind in [kinds] if isinstance(kinds, str) else kinds[:1]:
        for text in () if name == "task_name" else WRONG[kind]:
            with pytest.raises(ConfigError, match=f"sets {name} to"):
                read_value(name, text, schema)
    if not kinds:
        with pytest.raises(ConfigError, match=f"sets {name} to"):
            read_value(name, "\x00", schema)


def test_the_table_has_the_names_that_the_code_knows() -> None:
    tables: dict[str, Any] = {
        "architecture": list(ARCHITECTURES),
        "checkpoint": list(STRATEGIES),
        "optimizer#name": list(OPTIMIZERS),
        "lr_scheduler#name": list(NAMES),
        "loss#pixel_loss": list(PIXEL_LOSSES),
        "amp_dtype": list(PRECISIONS),
        "precision": list(PRECISIONS),
    }
    for name, known in tables.items():
        assert SETTINGS[name]["enum"] == known, name
    lists = {"optimizer#no_decay": NO_DECAY, "dicom_objects": KINDS, "normalization": SCHEMES}
    for name, items in lists.items():
        assert SETTINGS[name]["items"]["enum"] == list(items), name
    assert set(SETTINGS["backend"]["enum"]) == {"torch", *BACKENDS}
    assert set(FITTING) <= set(SETTINGS)


@pytest.mark.parametrize(
    ("run", "words", "needed"),
    [
        ("inference", ["--ckpt_dir", "x"], "Pass --weights_file instead"),
        ("inference", ["--epochs", "3"], "inference does not use epochs"),
        ("inference", ["--amp", "false"], "Pass --precision instead"),
        ("inference", ["--masks_dir", "x"], "inference does not use masks_dir"),
        ("training", ["--precision", "float32"], "Pass --amp or --amp_dtype instead"),
        ("training", ["--weights_file", "x.pt"], "Pass --pretrained instead"),
        ("training", ["--input", "x"], "Pass --dataset_dir instead"),
        ("training", ["--backend", "onnx"], "training does not use backend"),
        ("evaluating", ["--amp", "false"], "Pass --precision instead"),
        ("evaluating", ["--input", "x"], "Pass --dataset_dir instead"),
        ("evaluating", ["--displayable_configs#mirroring", "true"], "--mirror_axes instead"),
        ("training", ["--train#trainr#max_epochs", "3"], 'did you mean "train#trainer"'),
        ("inference", ["--displayable_configs#mirorring", "true"], "#mirroring"),
        ("training", ["--optimizer#lookahead#steps", "3"], "whole value of optimizer#lookahead"),
        ("training", ["--+augmentation", "{}"], "only a config file can merge"),
        ("training", ["-epocs", "3"], 'did you mean "epochs"'),
    ],
)
def test_a_setting_that_would_not_act_is_refused(run: str, words: list[str], needed: str) -> None:
    with pytest.raises(ConfigError, match=needed):
        corrected(run, *words)


@pytest.mark.parametrize(
    ("run", "words"),
    [
        # the settings of a training, given again
        ("evaluating", ["--prepared_dir", "x", "--epochs", "3", "--num_workers", "1"]),
        ("evaluating", ["--backend", "onnx", "--backend_file", "x.onnx"]),
        ("training", ["--validate#inferer#device", "cpu"]),
        ("training", ["--tracking", "mlflow", "--run_name", "a", "--save_execute_config", "False"]),
        ("inference", ["--batch_size", "4", "--sw_batch_size", "4", "--mirror_axes", "[0]"]),
    ],
)
def test_a_setting_that_acts_is_taken(run: str, words: list[str]) -> None:
    assert corrected(run, *words) == {}


@pytest.mark.parametrize(
    ("run", "name", "text", "needed"),
    [
        (
            "training",
            "oversampling",
            "$1 - 2",
            "oversampling to -1; it must be a number, at least 0",
        ),
        ("training", "epochs", "$@val_interval - 10", "epochs to 0; it must be a whole number"),
        ("training", "optimizer#momentum", "$@learning_rate - 5", "optimizer#momentum to -4.99"),
        ("training", "amp", "$1 + 1", "amp to 2; it must be true or false"),
        ("training", "learning_rate", "$float('nan')", "learning_rate to NaN"),
        (
            "training",
            "patch_size",
            "$[41, 56] + [40]",
            r"patch_size is \[41, 56, 40\], which the str",
        ),
        ("evaluating", "validate#inferer#overlap", "$1 / 1", "overlap to 1.0; it must be"),
        ("inference", "sw_batch_size", "$2 - 2", "sw_batch_size to 0"),
    ],
)
def test_the_result_of_an_expression_is_checked(
    run: str, name: str, text: str, needed: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=needed):
        corrected(run, f"--{name}", text)
    overlay = tmp_path / "overlay.json"
    overlay.write_text(json.dumps({name: text}))
    with pytest.raises(ConfigError, match=needed):
        corrected(run, overlays=(str(overlay),))
    if run != "evaluating":
        with pytest.raises(ConfigError, match=needed):
            load_workflow(BUNDLE, FILES[run][0], [str(overlay)], trust=True)


@pytest.mark.parametrize(
    "text", ["$2 * 3", "$@val_interval", "$@world_size * 2", "$@network.nothing", "$1 // 0"]
)
def test_an_expression_that_gives_a_fitting_value_or_needs_the_run_is_left(text: str) -> None:
    assert corrected("training", "--epochs", text) == {}
    multi = str(CONFIGS / "multi_gpu_train.json")
    assert corrected("training", "--epochs", text, overlays=(multi,)) == {}


def test_a_file_of_folds_that_was_named_and_is_gone_is_refused(tmp_path: Path) -> None:
    for gone in (tmp_path / "x.json", tmp_path / "configs/tasks/splits/x #1.json"):
        overlay = tmp_path / "overlay.json"
        overlay.write_text(json.dumps({"splits_file": literal(gone)}))
        with pytest.raises(DatasetError, match=r"does not exist.*--splits_file '\$None'"):
            corrected("training", overlays=(str(overlay),))
        with pytest.raises(DatasetError, match="does not exist"):
            corrected("evaluating", "--splits_file", str(gone))
        with pytest.raises(DatasetError, match="does not exist"):
            load_workflow(BUNDLE, "train.json", [str(overlay)])
        assert corrected("training", "--splits_file", "$None", overlays=(str(overlay),)) == {}
        assert corrected("training", "--fold", "all", overlays=(str(overlay),)) == {}
        # predicting needs no folds
        load_workflow(BUNDLE, "inference.json", [str(overlay)], {"device": "cpu"})


def test_run_workflow_has_arguments_of_its_own() -> None:
    own = ["--workflow_name", "ConfigWorkflow", "--workflow_type", "train", "--run_id", "training"]
    words = ["run_workflow", *own, "--config_file", str(CONFIGS / "train.json")]
    given = [f"--bundle_root={BUNDLE}", "--properties_path=x.json", "--restart=false"]
    line = check_overrides([*words, *given], KNOWN)
    assert corrected_texts(line, KNOWN) == {"restart": "False"}


def run_bundle(*words: str | Path, cwd: Path = BUNDLE) -> Any:
    return fork_server.run(["-m", "monai.bundle", *map(str, words)], cwd)


def test_the_command_refuses_in_one_line_and_with_code_2(tmp_path: Path) -> None:
    for words in (["--restart", "maybe"], ["--seed", "x"], ["--patch_size", "[41,56,40]"]):
        folders = [f"--ckpt_dir={tmp_path}/models", f"--output_dir={tmp_path}/run"]
        command = ["run", "training", "--config_file", "configs/train.json", *folders]
        done = run_bundle(*command, *words)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith("error: ")
        assert "Traceback" not in done.stderr
        assert not list(tmp_path.iterdir())


def test_other_verbs_of_monai_take_their_arguments() -> None:
    own = ["--net_id", "network_def", "--device", "cpu", "--p", "1", "--n", "1", "--any", "16"]
    files = ["--config_file", "configs/inference.json", "--meta_file", "configs/metadata.json"]
    done = run_bundle("verify_net_in_out", *own, *files)
    assert done.returncode == 0, done.stderr


def test_from_another_folder_it_asks_for_the_bundle_root(tmp_path: Path) -> None:
    files = f"['{CONFIGS}/train.json','{CONFIGS}/quick.json']"
    done = run_bundle("run", "training", "--config_file", files, "--dataset_dir", "x", cwd=tmp_path)
    assert done.returncode == 2
    assert f"Pass --bundle_root {BUNDLE}" in done.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", ["train", "slurm"])
@pytest.mark.parametrize(
    ("words", "needed"),
    [
        (["--restart", "maybe"], "true or false"),
        (["--patch_size", "[41,56,40]"], "would do"),
        (["--input", "x"], "does not use input"),
        (["--epochs", "nan"], "a whole number"),
    ],
)
def test_the_scripts_that_train_refuse_alike(
    phantom: Path, tmp_path: Path, script: str, words: list[str], needed: str
) -> None:
    out = tmp_path / "out"
    done = run_script(script, "--dataset_dir", phantom, "--out", out, *words)
    assert done.returncode == 2
    assert needed in done.stderr.splitlines()[-1]
    assert not out.exists()
