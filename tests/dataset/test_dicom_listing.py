"""The list of series for a terminal, and the map from outputs to series: descriptions and UIDs reach no other place."""

import json
import os
import pty
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from dynunet_bundle.errors import ConfigError, DatasetError

pytest.importorskip("pydicom")

from helpers.made_dicom import make_series, straight, volume

from dynunet_bundle.commands.main import run_program
from dynunet_bundle.dataset.dicom_cases import find_cases
from dynunet_bundle.dataset.dicom_listing import series_table, write_series_map
from dynunet_bundle.dicom_input.names import short_name

FIRST, SECOND = "1.2.1", "1.2.2"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    for number, uid in ((4, FIRST), (7, SECOND)):
        tags = {"SeriesNumber": number, "SeriesDescription": f"t{number}\x1b[2J Doe"}
        make_series(tmp_path / "in" / uid, volume(), straight(), series_uid=uid, tags=tags)
    return tmp_path / "in"


def test_a_table_has_the_facts_to_choose_by(study: Path) -> None:
    head, *rows = series_table(str(study), with_descriptions=True).splitlines()
    assert head.split()[:5] == ["series", "number", "description", "modality", "plane"]
    assert [row.split() for row in rows] == [
        [
            short_name(uid),
            str(number),
            f"t{number}\\x1b[2J",
            "Doe",
            "MR",
            "axial",
            *"7 x 6 x 5".split(),
        ]
        for number, uid in ((4, FIRST), (7, SECOND))
    ]
    assert "Doe" not in series_table(str(study), with_descriptions=False)


def test_what_is_not_dicom_has_no_series(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(b"")
    with pytest.raises(DatasetError, match="not DICOM"):
        series_table(str(tmp_path), with_descriptions=True)


def test_descriptions_are_shown_on_a_terminal_alone(study: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dynunet_bundle", "predict", "-i", str(study), "--list_series"]
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb") as terminal:
        subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, check=True, cwd=tmp_path)
        os.close(theirs)
        assert b"Doe" in terminal.read1()
    piped = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert short_name(FIRST) in piped.stdout and "Doe" not in piped.stdout + piped.stderr
    assert (
        piped.stderr.count("descriptions of series are left out: the output is not a terminal") == 1
    )
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_the_map_tells_the_series_of_each_output(study: Path, tmp_path: Path) -> None:
    cases = find_cases(study, {"all": True})
    write_series_map(tmp_path / "map" / "map.json", cases)
    content = json.loads((tmp_path / "map" / "map.json").read_text())
    assert {name: origin["series_instance_uid"] for name, (origin,) in content.items()} == {
        short_name(uid): uid for uid in (FIRST, SECOND)
    }
    assert content[short_name(FIRST)][0]["series_number"] == 4
    assert stat.S_IMODE((tmp_path / "map" / "map.json").stat().st_mode) == 0o600
    assert "Doe" not in json.dumps(content)


def test_images_that_are_not_dicom_have_no_map(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--series_map is for DICOM"):
        write_series_map(tmp_path / "map.json", [{"image": str(tmp_path / "a.nii.gz")}])
    assert not (tmp_path / "map.json").exists()


def test_masks_need_a_folder(study: Path) -> None:
    with pytest.raises(ConfigError, match="--output_dir is missing"):
        run_program(["predict", "-i", str(study)])
