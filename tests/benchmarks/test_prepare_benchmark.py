"""The preparation benchmark: the input of nnU-Net, and our own commands."""

import json
from pathlib import Path

import pytest
from conftest import run_script

from benchmarks import prepare
from dynunet_bundle.errors import DatasetError


def test_the_converter_gets_the_listed_cases_in_a_folder_it_can_read(
    own_phantom: Path, tmp_path: Path
):
    content = json.loads((own_phantom / "dataset.json").read_text())
    dropped = content["training"].pop()
    (own_phantom / "dataset.json").write_text(json.dumps(content))
    renamed = own_phantom.rename(own_phantom.with_name("My_own_data"))
    copy = prepare.msd_copy(renamed, tmp_path)
    assert copy.name == "Task999_Data"
    names = sorted(path.name for path in (copy / "imagesTr").iterdir())
    assert names == sorted(path.name for path in (copy / "labelsTr").iterdir())
    assert len(names) == len(content["training"])
    assert Path(dropped["image"]).name not in names
    assert all(path.stat().st_size for path in (copy / "imagesTr").iterdir())
    assert json.loads((copy / "dataset.json").read_text())["numTraining"] == len(names)


def test_a_data_set_without_its_json_is_refused(tmp_path: Path):
    with pytest.raises(DatasetError, match="dataset.json"):
        prepare.msd_copy(tmp_path, tmp_path)


@pytest.mark.slow
def test_our_command_lines_work(phantom: Path, tmp_path: Path):
    out = tmp_path / "out.json"
    result = run_script(
        "benchmark", "prepare", "--dataset_dir", phantom, "--json", out, "--peers", tmp_path
    )
    assert result.returncode == 0, result.stdout + result.stderr
    ((title, (ours, other)),) = json.loads(out.read_text())["sections"].items()
    assert title == "Task99_Phantom, 6 training cases"
    assert ours["cpu_s"] > 0
    assert other["remark"].startswith("skipped: ")
