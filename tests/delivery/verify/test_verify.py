"""Each check passes on a fresh package and fails on a package with the fault that it looks for."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.package_cases import NAME, request_for

from dynunet_bundle.delivery.package.make import make_package
from dynunet_bundle.delivery.verify import files as verify_files
from dynunet_bundle.delivery.verify import probe as verify_probe
from dynunet_bundle.delivery.verify.bundle_folder import BundleProblem
from dynunet_bundle.delivery.verify.checks import (
    CHECKS,
    Result,
    VerificationError,
    format_result,
    require_passed,
    verify_bundle,
)
from dynunet_bundle.delivery.verify.commands import SCHEMA, small_patch
from dynunet_bundle.errors import ConfigError

QUICK = ("files", "sizes", "metadata", "json", "readme", "sums", "label")
LARGE_FILES = """\
large_files:
  - path: "{path}"
    url: "https://example.org/model.pt"
    hash_val: "{hash}"
    hash_type: "sha256"
"""


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(request_for(tmp_path_factory.mktemp("good"))).folder


@pytest.fixture
def bundle(good: Path, tmp_path: Path) -> Path:
    """A package that a test may modify."""
    return Path(shutil.copytree(good, tmp_path / NAME))


def edit(bundle: Path, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a config in place."""
    path = bundle / "configs" / name
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content, indent=4) + "\n")


def rewrite(bundle: Path, name: str, old: str, new: str) -> None:
    path = bundle / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def problems_of(bundle: Path, check: str) -> str:
    (result,) = verify_bundle(bundle, [check])
    assert not result.skipped
    return " ".join(f"{problem.message} {problem.remedy}" for problem in result.problems)


def image_format(metadata: dict[str, Any]) -> dict[str, Any]:
    return metadata["network_data_format"]["inputs"]["image"]


def pred_format(metadata: dict[str, Any]) -> dict[str, Any]:
    return metadata["network_data_format"]["outputs"]["pred"]


def test_the_quick_checks_pass_on_a_package_as_it_is_made(good: Path) -> None:
    assert verify_bundle(good, QUICK) == [Result(name) for name in QUICK]


@pytest.mark.parametrize("name", [*verify_files.REQUIRED, "models/model.pt"])
def test_a_missing_file_is_named(name: str, bundle: Path) -> None:
    (bundle / name).unlink()
    assert f"{name} is missing" in problems_of(bundle, "files")


def test_weights_may_be_named_in_large_files(bundle: Path) -> None:
    (bundle / "models" / "model.pt").unlink()
    entry = LARGE_FILES.format(path="models/model.pt", hash="0" * 64)
    (bundle / "large_files.yml").write_text(entry)
    assert problems_of(bundle, "files") == problems_of(bundle, "sizes") == ""
    (bundle / "large_files.yml").write_text(entry.replace("0" * 64, "0" * 32))
    assert "no valid sha256" in problems_of(bundle, "sizes")
    outside = LARGE_FILES.format(path="../model.pt", hash="0" * 64)
    (bundle / "large_files.yml").write_text(outside)
    assert "is outside the bundle" in problems_of(bundle, "sizes")
    (bundle / "large_files.yml").write_text('large_files:\n  - path: "models/model.pt"\n')
    assert "lacks hash_type, hash_val, url" in problems_of(bundle, "sizes")


def test_a_large_file_is_named(bundle: Path) -> None:
    with (bundle / "models" / "model.ts").open("wb") as file:
        file.truncate(26 * 10**6)
    assert "models/model.ts has 26 MB" in problems_of(bundle, "sizes")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda m: m.pop("authors"), '"authors"'),
        (lambda m: m.update(version="1.0"), 'version is "1.0"'),
        (lambda m: m.update(version="9.9.9"), "no entry for 9.9.9"),
        (lambda m: m.update(numpy_version=">=2"), 'numpy_version is ">=2"'),
        (lambda m: m.update(pytorch_version="2.13.0+cpu"), "pytorch_version"),
        (lambda m: m["required_packages_version"].update(scipy="latest"), 'scipy is "latest"'),
        (lambda m: m.update(optional_packages_version={"scipy": "1.0"}), "scipy is required and"),
        (lambda m: pred_format(m).update(num_channels=2), "for 2 channels"),
        (lambda m: pred_format(m)["channel_def"].update({"2": "toe"}), "toe"),
        (lambda m: pred_format(m).pop("channel_def"), "channel_def missing"),
        (lambda m: image_format(m).update(spatial_shape=["4*n"] * 3), "spatial_shape is"),
        (lambda m: m["network_data_format"].update(inputs={"img": {}}), 'no inputs "image"'),
    ],
)
def test_wrong_metadata_are_told(change: Callable[..., Any], told: str, bundle: Path) -> None:
    edit(bundle, "metadata.json", change)
    assert told in problems_of(bundle, "metadata")


def test_faults_of_json_are_told(bundle: Path) -> None:
    rewrite(bundle, "configs/train.json", '"epochs": 1,', '"epochs": 1, "epochs": 2,')
    assert 'the key "epochs" is duplicated' in problems_of(bundle, "json")
    rewrite(bundle, "configs/train.json", '"epochs": 1, "epochs": 2,', '"epochs": 1,')
    rewrite(bundle, "configs/train.json", "/workspace/data", "/home/anna/data")
    assert "/home/anna" in problems_of(bundle, "json")
    rewrite(bundle, "configs/evaluate.json", '    "masks_dir"', '  "masks_dir"')
    assert "evaluate.json is not indented by four" in problems_of(bundle, "json")
    path = bundle / "configs" / "metadata.json"
    path.write_text(path.read_text().rstrip())
    assert "metadata.json does not end with one newline" in problems_of(bundle, "json")
    path.write_text("{")
    assert "metadata.json cannot be read" in problems_of(bundle, "json")


def test_what_a_model_card_lacks_is_told(bundle: Path) -> None:
    rewrite(bundle, "docs/README.md", "## Output", "## Result")
    rewrite(bundle, "docs/README.md", "ckpt_export", "export")
    rewrite(bundle, "docs/README.md", "## Data\n", "## Data\n\n![](nowhere.png)\n")
    found = problems_of(bundle, "readme")
    for fault in (
        'no section "Output"',
        "ckpt_export",
        "nowhere.png has no",
        "nowhere.png does not",
    ):
        assert fault in found, fault


def test_files_that_are_not_those_packaged_are_told(bundle: Path) -> None:
    rewrite(bundle, "LICENSE", "Apache", "apache")
    rewrite(bundle, "dynunet_bundle/__init__.py", "Python", "python")
    (bundle / "extra.txt").touch()
    (bundle / "docs" / "data_license.txt").unlink()
    found = problems_of(bundle, "sums")
    for fault in (
        "LICENSE is not the file",
        "dynunet_bundle/__init__.py is not the file",
        "if a formatter changed the code, remove SHA256SUMS_CODE",
        "extra.txt was not",
        "data_license.txt was packaged and",
    ):
        assert fault in found, fault
    (bundle / "SHA256SUMS").write_text("x\n")
    assert "HASH  NAME" in problems_of(bundle, "sums")
    (bundle / "SHA256SUMS").unlink()
    (bundle / "SHA256SUMS_CODE").unlink()
    assert verify_bundle(bundle, ["sums"])[0].skipped


def test_what_monai_label_cannot_use_is_told(bundle: Path) -> None:
    edit(bundle, "metadata.json", lambda m: pred_format(m)["channel_def"].update({"2": "Head"}))
    edit(bundle, "train.json", lambda t: t["train"].update(handlers="$@handlers[:-1]"))
    edit(
        bundle,
        "inference.json",
        lambda i: i["preprocessing"]["transforms"][0].update(keys=["image", "label"]),
    )
    renamed = bundle.rename(bundle.with_name("Bundle"))
    found = problems_of(renamed, "label")
    for fault in (
        'two labels are called "head"',
        "is not a list",
        "does not load exactly",
        '"Bundle"',
    ):
        assert fault in found, fault


def test_a_config_without_an_id_of_monai_is_told(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probed = {"inference": [], "train": ["property loss is missing"]}
    monkeypatch.setattr("dynunet_bundle.delivery.verify.bundle_folder.BundleFolder.probed", probed)
    edit(bundle, "inference.json", lambda i: i.pop("evaluator"))
    edit(bundle, "train.json", lambda t: t["train"]["trainer"].pop("max_epochs"))
    edit(bundle, "train.json", lambda t: t["train"]["trainer"].update(train_handlers=[]))
    assert "inference.json lacks the id evaluator" in problems_of(bundle, "inference")
    found = problems_of(bundle, "train")
    assert "train#trainer#max_epochs" in found
    assert 'Write "@train#handlers"' in found
    assert "property loss is missing" in found


def test_a_config_that_calls_something_else_is_told(bundle: Path) -> None:
    assert problems_of(bundle, "code") == ""
    edit(bundle, "inference.json", lambda i: i.update(extra="$__import__('os').system('true')"))
    assert "inference.json: extra" in problems_of(bundle, "code")


def test_imports_that_lead_nowhere_are_found() -> None:
    config = {
        "imports": ["$import torch", "$import no_such_thing"],
        "a": {"_target_": "dynunet_bundle.training.losses.NoLoss"},
        "b": [{"_target_": "LoadImaged"}, {"_target_": "NoSuchTransform"}],
    }
    found = verify_probe.unimportable(config)
    assert len(found) == 3
    assert "no_such_thing" in found[0]
    assert "NoLoss" in " ".join(found)
    assert "NoSuchTransform" in " ".join(found)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: {f"module.{key}": value for key, value in s.items()}, "start with module."),
        (lambda s: {**s, "heads.0.weight": torch.zeros(1)}, "that the network lacks: heads.0"),
        (lambda s: dict(list(s.items())[1:]), "model.pt lacks"),
        (lambda s: {key: value[:1] for key, value in s.items()}, "the shape of"),
    ],
)
def test_weights_that_do_not_fit_are_found(
    change: Callable[..., Any], told: str, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bundle)
    assert verify_probe.wrong_weights() == []
    path = bundle / "models" / "model.pt"
    torch.save(change(torch.load(path, weights_only=True)), path)
    assert told in " ".join(verify_probe.wrong_weights())


def test_weights_that_hold_code_are_found(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle)
    torch.save({"network": Path}, "models/model.pt")
    (found,) = verify_probe.attempt(verify_probe.wrong_weights)
    assert "UnpicklingError" in found


def test_weights_of_another_file_are_told(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "dynunet_bundle.delivery.verify.bundle_folder.BundleFolder.probed", {"weights": ["x fails"]}
    )
    digest = hashlib.sha256((bundle / "models" / "model.pt").read_bytes()).hexdigest()
    rewrite(bundle, "models/model.json", digest, "0" * 64)
    found = problems_of(bundle, "weights")
    assert "x fails" in found
    assert "not the file that model.json describes" in found
    (bundle / "models" / "model.pt").unlink()
    assert "download_large_files" in verify_bundle(bundle, ["weights"])[0].skipped


def test_the_schema_is_strict(good: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(SCHEMA.read_text())
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    text = (good / "configs" / "metadata.json").read_text()
    assert list(validator.iter_errors(json.loads(text))) == []
    for change in (
        lambda m: m.update(labels=3),
        lambda m: m.update(version="01.0.0"),
        lambda m: m.update(authors=""),
        lambda m: m["changelog"].update(next="soon"),
        lambda m: pred_format(m).update(label_def={}),
        lambda m: pred_format(m).update(dtype="float16"),
        lambda m: image_format(m).update(spatial_shape=["4*n"] * 3),
        lambda m: image_format(m).pop("modality"),
        lambda m: m["network_data_format"]["outputs"].update(other={}),
        lambda m: m["eval_metrics"].update(dice="0.9"),
    ):
        metadata = json.loads(text)
        change(metadata)
        assert list(validator.iter_errors(metadata)), change


def test_a_patch_for_one_step_keeps_two_voxels_an_axis() -> None:
    strides = [[1, 1, 1], [1, 2, 2], [2, 2, 2]]
    assert small_patch({"strides": strides, "patch_size": [64, 64, 6]}) == [4, 8, 6]


def test_results_are_told_with_their_remedy(good: Path) -> None:
    failed = Result("files", (BundleProblem("A is missing.", "Add it."),))
    assert format_result(failed) == "FAILED   files: A is missing. Add it."
    assert format_result(Result("sums", skipped="no list")) == "skipped  sums: no list"
    with pytest.raises(VerificationError, match=r"1 check failed: files") as error:
        require_passed([failed, Result("sums")])
    assert error.value.exit_code == 1
    with pytest.raises(ConfigError, match="there is no check fils"):
        verify_bundle(good, ["fils"])
    with pytest.raises(ConfigError, match="is not a folder"):
        verify_bundle(good / "configs.zip")
    assert len(CHECKS) == 17


def test_a_check_that_lacks_its_file_is_skipped(bundle: Path) -> None:
    (bundle / "configs" / "metadata.json").unlink()
    (result,) = verify_bundle(bundle, ["metadata"])
    assert result.skipped == "configs/metadata.json is missing"
