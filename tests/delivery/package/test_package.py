"""Packages: their content, reproducible bytes, and no partial files after a failure."""

import dataclasses
import json
import os
import re
import subprocess
import tomllib
import zipfile
from pathlib import Path

import jsonschema
import pytest
from conftest import BUNDLE, ROOT, run_script
from helpers.package_cases import NAME, make_model, overlay_of, request_for

from dynunet_bundle.delivery.package import archive as package_archive
from dynunet_bundle.delivery.package import make as package
from dynunet_bundle.delivery.package import metadata as package_metadata
from dynunet_bundle.delivery.package.make import Package, display_name, make_package
from dynunet_bundle.delivery.package.metadata import REQUIRED_PACKAGES
from dynunet_bundle.delivery.package.template import template_files
from dynunet_bundle.errors import ConfigError, OutputError, WeightsError
from dynunet_bundle.files import sha256_of
from dynunet_bundle.networks.model_json import model_settings

SCORES = {
    "mean_dice": 0.5,
    "cases": {"canary_anna": {"head": 0.5, "tail": 0.5}},
    "mean": {"head": 0.25, "tail": 0.75},
    "num_cases": {"head": 1, "tail": 1},
    "statistics": {
        "head": {
            "dice": {"mean": 0.25, "median": 0.25, "ci95": [0.2, 0.31]},
            "hd95_mm": {"mean": 3.25, "median": 3.0, "ci95": None},
            "nsd": {"mean": 0.123456, "median": 0.1, "ci95": None},
        },
        "tail": {"hd95_mm": {"mean": None, "median": None, "ci95": None}},
    },
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return make_package(request_for(tmp_path_factory.mktemp("package")))


def config(made: Package, name: str) -> dict:
    return json.loads((made.folder / "configs" / name).read_text())


def test_each_config_holds_the_values_of_the_overlay(made: Package) -> None:
    overlay = overlay_of("3d")
    train, inference = config(made, "train.json"), config(made, "inference.json")
    template = json.loads((BUNDLE / "configs" / "train.json").read_text())
    for name, value in overlay.items():
        assert train[name] == value != template.get(name, object()) or template[name] == value
        if name in inference:
            assert inference[name] == value
    assert "epochs" not in inference
    assert train["dataset_dir"] == inference["dataset_dir"] == "/workspace/data/Task99_Phantom"
    assert train["network_def"] == template["network_def"]


def test_a_package_holds_what_travels_and_no_more(made: Package) -> None:
    files = {path.relative_to(made.folder).as_posix() for path in made.folder.rglob("*")}
    assert {"LICENSE", "SHA256SUMS", "models/model.pt", "models/model.json"} <= files
    assert {
        "docs/README.md",
        "docs/data_license.txt",
        "dynunet_bundle/networks/dynunet.py",
    } <= files
    assert {"dynunet_bundle/delivery/verify/metadata_schema.json"} <= files
    assert not [name for name in files if "__pycache__" in name or "egg-info" in name]
    assert not [name for name in files if name.endswith((".pyc", ".part"))]
    configs = {path.name for path in (made.folder / "configs").iterdir()}
    assert configs == {
        "train.json",
        "multi_gpu_train.json",
        "evaluate.json",
        "multi_gpu_evaluate.json",
        "inference.json",
        "inference_trt.json",
        "metadata.json",
        "logging.conf",
    }


@pytest.mark.parametrize(("sums", "is_code"), [("SHA256SUMS", False), ("SHA256SUMS_CODE", True)])
def test_the_sums_are_those_that_sha256sum_checks(made: Package, sums: str, is_code: bool) -> None:
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", sums],
        cwd=made.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = (made.folder / sums).read_text().splitlines()
    files = [path for path in made.folder.rglob("*") if path.is_file()]
    kind = [path for path in files if (path.suffix == ".py") == is_code]
    assert len(lines) == len(kind) - (0 if is_code else 2)


def test_the_files_of_the_sums_are_in_the_form_of_the_zoos_hooks(made: Package) -> None:
    """pretty-format-json, end-of-file-fixer, trailing-whitespace and mixed-line-ending change nothing in them."""
    for line in (made.folder / "SHA256SUMS").read_text().splitlines():
        path = made.folder / line.split(maxsplit=1)[1]
        if path.suffix == ".json":
            content = json.loads(path.read_text())
            assert path.read_text() == json.dumps(content, indent=4) + "\n", path
        elif path.suffix not in (".pt", ".png"):
            text = path.read_bytes().decode()
            assert text.endswith("\n") and not text.endswith("\n\n") and "\r" not in text, path
            assert all(row == row.rstrip() for row in text.splitlines()), path


@pytest.mark.parametrize("plan", ["3d", "2d", "gaps", "regions"])
def test_metadata_fit_the_official_schema(plan: str, tmp_path: Path) -> None:
    path = ROOT.parent / "shared" / "reference" / "meta_schema_20240725.json"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    schema = json.loads(path.read_text())
    metadata = config(make_package(request_for(tmp_path, plan)), "metadata.json")
    jsonschema.validate(metadata, schema)
    jsonschema.validate(json.loads((BUNDLE / "configs" / "metadata.json").read_text()), schema)
    assert metadata["schema"].endswith(path.name)


@pytest.mark.parametrize(
    ("normalization", "statistics", "wanted"),
    [
        (["zscore"], [None], [-8, 8]),
        (["ct"], [{"lower": -50, "upper": 250, "mean": 100, "std": 50}], [-3, 3]),
        (["rgb_to_0_1"] * 3, [None] * 3, [0, 1]),
        (["zscore_nonzero", "rescale_to_0_1"], [None, None], [-8, 8]),
        (["zscore", "none"], [None, None], []),
    ],
)
def test_the_range_of_the_input_follows_from_the_normalization(
    normalization: list[str], statistics: list, wanted: list[float]
) -> None:
    plan = {"normalization": normalization, "intensity_statistics": statistics}
    assert package_metadata._input_range(plan) == wanted


def test_the_zip_holds_the_folder_and_no_trace_of_time_or_machine(made: Package) -> None:
    assert made.archive.name == f"{NAME}_v{made.version}.zip"
    with zipfile.ZipFile(made.archive) as archive:
        assert archive.testzip() is None
        entries = archive.infolist()
        for entry in entries:
            name = entry.filename.removeprefix(f"{NAME}/")
            assert archive.read(entry) == (made.folder / name).read_bytes()
            assert entry.filename.startswith(f"{NAME}/")
            assert entry.date_time == (1980, 1, 1, 0, 0, 0)
            assert entry.external_attr >> 16 == 0o100644
    names = [entry.filename for entry in entries]
    assert names == sorted(names)
    assert len(names) == sum(path.is_file() for path in made.folder.rglob("*"))


def test_the_same_inputs_give_the_same_bytes_from_another_folder_and_umask(
    tmp_path: Path,
) -> None:
    weights, overlay = make_model(tmp_path / "else" / "where")
    made = make_package(request_for(tmp_path))
    arguments = ["--task_config", overlay, "--weights", weights, "--name", NAME, "--out", "here"]
    before = os.umask(0o077)
    try:
        done = run_script("package", *arguments, cwd=tmp_path)
    finally:
        os.umask(before)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "here" / made.archive.name).read_bytes() == made.archive.read_bytes()
    assert str(Path("here", NAME)) in done.stdout


def test_metadata_describe_the_plan_and_the_evaluation(tmp_path: Path) -> None:
    scores = tmp_path / "scores.json"
    scores.write_text(json.dumps(SCORES))
    made = make_package(request_for(tmp_path, scores=scores))
    metadata = config(made, "metadata.json")
    data = metadata["network_data_format"]
    assert data["inputs"]["image"]["modality"] == "MR"
    assert data["inputs"]["image"]["spatial_shape"] == [16, 16, 16]
    channels = {"0": "background", "1": "head", "2": "tail"}
    assert data["outputs"]["pred"]["channel_def"] == channels
    assert data["outputs"]["pred"]["num_channels"] == 3
    assert metadata["name"] == "Phantom MR segmentation"
    assert "+" not in metadata["pytorch_version"]
    assert metadata["eval_metrics"] == {
        "mean_dice": 0.5,
        "dice_head": 0.25,
        "dice_tail": 0.75,
        "hd95_mm_head": 3.25,
        "nsd_head": 0.1235,
    }
    card = (made.folder / "docs" / "README.md").read_text()
    assert "| head | 1 | 0.2500 (0.2000 to 0.3100) | 3.00 | 0.1235 |" in card
    assert "| tail | 1 | 0.7500 | - | - |" in card


def test_no_name_of_a_case_and_no_path_gets_into_a_package(tmp_path: Path) -> None:
    scores = tmp_path / "scores.json"
    scores.write_text(json.dumps(SCORES))
    made = make_package(request_for(tmp_path, scores=scores))
    content = made.archive.read_bytes()
    for secret in ("canary_anna", str(tmp_path), str(ROOT)):
        assert secret.encode() not in content, secret


def test_regions_are_the_channels_of_the_output(tmp_path: Path) -> None:
    made = make_package(request_for(tmp_path, "regions"))
    data = config(made, "metadata.json")["network_data_format"]
    assert data["inputs"]["image"]["channel_def"] == {"0": "T1", "1": "T2"}
    assert data["outputs"]["pred"]["channel_def"] == {"0": "whole", "1": "core"}
    assert "2 channels: whole, core" in (made.folder / "docs" / "README.md").read_text()


def test_the_facts_of_a_file_win_over_those_that_are_known(tmp_path: Path) -> None:
    facts = tmp_path / "facts.json"
    facts.write_text(
        json.dumps({"subject": "a bent body", "data_license": "CC0.", "memory": "1 GB."})
    )
    made = make_package(request_for(tmp_path, facts=facts))
    assert config(made, "metadata.json")["task"] == "Segmentation of a bent body"
    assert (made.folder / "docs" / "data_license.txt").read_text() == "CC0.\n"
    assert "1 GB. Prepared cases" in (made.folder / "docs" / "README.md").read_text()
    facts.write_text('{"licence": "CC0"}')
    with pytest.raises(ConfigError, match="licence.*data_license"):
        make_package(request_for(tmp_path, facts=facts))
    facts.write_text('{"references": [1]}')
    with pytest.raises(ConfigError, match="references"):
        make_package(request_for(tmp_path, facts=facts))


def test_a_version_must_be_in_the_changelog(tmp_path: Path) -> None:
    changelog = tmp_path / "CHANGES.md"
    changelog.write_text(
        "# Mine\n\n## Unreleased\n\n## 2.1.0\n\n- Better\n  again.\n- More.\n\n## 2.0.0\nNew.\n\nOld.\n"
    )
    made = make_package(request_for(tmp_path, changelog=changelog))
    assert made.version == "2.1.0"
    assert config(made, "metadata.json")["changelog"] == {"2.1.0": "Better again.", "2.0.0": "New."}
    with pytest.raises(ConfigError, match=r"no entry for version 3\.0\.0, only for 2\.1\.0"):
        make_package(request_for(tmp_path, changelog=changelog, version="3.0.0"))
    changelog.write_text("nothing")
    with pytest.raises(ConfigError, match=r"## X\.Y\.Z"):
        make_package(request_for(tmp_path, changelog=changelog))


@pytest.mark.parametrize(
    "name", ["Spleen_CT_segmentation", "spleen", "spleen_ct", "a__b_c", "../a_b_c"]
)
def test_the_name_is_that_of_a_bundle(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="organ_modality_task"):
        request_for(tmp_path, name=name)


def test_names_for_people() -> None:
    assert display_name("lung_ct_segmentation") == "Lung CT segmentation"


def test_weights_of_another_plan_are_refused_and_the_old_package_stays(tmp_path: Path) -> None:
    request = request_for(tmp_path)
    made = make_package(request)
    before = sha256_of(made.archive)
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**overlay_of("3d"), "filters": [4, 8, 12]}))
    with pytest.raises(WeightsError, match="filters"):
        make_package(dataclasses.replace(request, overlays=[str(other)]))
    assert sha256_of(made.archive) == before
    assert sorted(path.name for path in request.output.iterdir()) == [NAME, made.archive.name]


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = request_for(tmp_path)
    made = make_package(request)
    marker = made.folder / "marker"
    marker.touch()

    def fail(*arguments: object) -> None:
        raise OutputError("the disk is full")

    monkeypatch.setattr(package, "write_zip", fail)
    with pytest.raises(OutputError):
        make_package(request)
    assert marker.is_file()
    assert sorted(path.name for path in request.output.iterdir()) == [NAME, made.archive.name]
    monkeypatch.undo()
    make_package(request)
    assert not marker.exists()


def test_what_is_no_bundle_is_not_replaced(tmp_path: Path) -> None:
    request = request_for(tmp_path)
    (request.output / NAME).mkdir(parents=True)
    (request.output / NAME / "thesis.txt").touch()
    with pytest.raises(OutputError, match="is not a bundle"):
        make_package(request)
    assert (request.output / NAME / "thesis.txt").is_file()


def test_a_folder_that_cannot_be_replaced_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, fresh = tmp_path / "target", tmp_path / "stage" / "target"
    target.mkdir()
    (target / "old").touch()
    fresh.mkdir(parents=True)
    rename = Path.rename

    def refuse(path: Path, other: Path) -> Path:
        if path == fresh:
            raise OSError(13, "Permission denied")
        return rename(path, other)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OutputError, match="Permission denied"):
        package_archive.publish(fresh, target)
    assert (target / "old").is_file()


def test_codes_of_an_overlay_are_in_the_package_for_all_clients(
    tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    codes = {"head": "left kidney", "tail": "liver"}
    (tmp_path / "codes.json").write_text(json.dumps({"label_codes": codes}))
    request = request_for(tmp_path)
    overlays = [*request.overlays, str(tmp_path / "codes.json")]
    made = make_package(dataclasses.replace(request, overlays=overlays))
    assert "no DICOM code" not in log.text
    assert config(made, "inference.json")["label_codes"] == codes
    assert model_settings(made.folder / "models" / "model.pt")["label_codes"] == codes
    again = dataclasses.replace(request, weights=made.folder / "models" / "model.pt")
    assert config(make_package(again), "inference.json")["label_codes"] == codes


def test_large_weights_are_named_with_their_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(package, "MAX_FILE_BYTES", 1000)
    made = make_package(request_for(tmp_path))
    assert (made.folder / "models" / "model.pt").is_file()
    assert "--weights_url" in log.text
    url = "https://example.org/model.pt"
    request = request_for(tmp_path, weights_url=url)
    made = make_package(request)
    assert not (made.folder / "models" / "model.pt").exists()
    monkeypatch.setattr(package, "MAX_FILE_BYTES", 10**9)
    small = make_package(request)
    assert (small.folder / "large_files.yml").is_file()
    assert (small.folder / "models" / "model.pt").is_file()
    entries = package.LARGE_FILES.format(url=url, sha256=sha256_of(request.weights))
    assert (made.folder / "large_files.yml").read_text() == entries
    assert json.loads((made.folder / "models" / "model.json").read_text())["sha256"] in entries


def test_the_template_is_made_by_the_same_generator() -> None:
    for path, content in template_files(BUNDLE, ROOT / "CHANGELOG.md").items():
        message = "run dynunet-bundle package --refresh_template"
        assert path.read_text() == content.decode(), message


def test_the_packages_that_metadata_require_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split("[><=]", line)[0] for line in project["dependencies"]}
    assert names == {"monai", "torch", "numpy", *REQUIRED_PACKAGES}


def test_the_script_names_what_it_lacks(tmp_path: Path) -> None:
    done = run_script("package", "--name", NAME, "--output_dir", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--model" in done.stderr


def test_weights_that_are_missing_are_told_before_anything_is_made(tmp_path: Path) -> None:
    request = dataclasses.replace(request_for(tmp_path), weights=tmp_path / "none.pt")
    with pytest.raises(WeightsError, match="there are no weights"):
        make_package(request)
    assert not request.output.exists()


def test_a_task_named_in_other_bytes_has_a_card(tmp_path: Path) -> None:
    request = request_for(tmp_path)
    content = json.loads(Path(request.overlays[0]).read_text())
    Path(request.overlays[0]).write_text(json.dumps({**content, "task_name": "Task_\udcff"}))
    card = (make_package(request).folder / "docs" / "README.md").read_text(encoding="utf-8")
    assert "Task_\\udcff" in card
