"""The zip of a package stands for the package."""

import json
import zipfile
from pathlib import Path

import pytest
from conftest import run_script

from dynunet_bundle.errors import DatasetError, WeightsError
from dynunet_bundle.networks.model_json import model_files, previous_weights

FACTS = json.dumps({"sha256": "0" * 64, "members": ["model_2.pt"]})
PLAIN = json.dumps({"sha256": "0" * 64})
NAMES = {
    "any_mr_any/models/model.pt": "one",
    "any_mr_any/models/model.json": FACTS,
    "any_mr_any/models/model_2.pt": "two",
    "any_mr_any/models/previous_stage/model.pt": "first",
    "any_mr_any/models/previous_stage/model.json": PLAIN,
    "any_mr_any/dynunet_bundle/code.py": "raise SystemExit",
}


def packed(path: Path, names: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in names.items():
            archive.writestr(name, content)
    return path


def test_all_weights_of_a_package_are_found(tmp_path: Path) -> None:
    weights = model_files(packed(tmp_path / "any_v0.1.0.zip", NAMES))
    assert [path.read_text() for path in weights] == ["one", "two"]
    assert [path.read_text() for path in previous_weights(weights[0])] == ["first"]
    # nothing else is extracted
    assert not list(weights[0].parents[1].rglob("*.py"))


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ({"a.txt": ""}, WeightsError, "has 0 files"),
        ({**NAMES, "other_mr_any/models/model.pt": ""}, WeightsError, "has 2 files"),
        ({"../models/model.pt": ""}, DatasetError, "leads out of its folder"),
    ],
)
def test_other_zips_are_refused(names, error, message, tmp_path: Path) -> None:
    path = packed(tmp_path / "other.zip", names)
    with pytest.raises(error, match=message) as caught:
        model_files(path)
    assert "other.zip" in str(caught.value)


def test_a_damaged_zip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "damaged.zip"
    path.write_bytes(b"PK")
    with pytest.raises(DatasetError, match=r"damaged\.zip"):
        model_files(path)


@pytest.mark.parametrize("name", ["nosuch", "nosuch/model.pt", "nosuch.zip"])
def test_a_path_that_does_not_exist_is_told_as_such(tmp_path: Path, name: str) -> None:
    with pytest.raises(WeightsError, match=f"{name}: the path does not exist.*--model"):
        model_files(tmp_path / name)


@pytest.mark.parametrize("options", [(), ("--checkpoint", "last")])
def test_predict_finds_out_before_it_makes_a_folder(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    (tmp_path / "images").mkdir()
    output = tmp_path / "masks"
    places = ("--input", tmp_path / "images", "--output_dir", output)
    done = run_script("predict", *places, "--model", tmp_path / "nosuch", *options)
    assert done.returncode == 2 and "the path does not exist" in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not output.exists()
