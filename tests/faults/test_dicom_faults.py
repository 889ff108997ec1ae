"""predict.py on DICOM series with one fault each: read, written as a mask alone, or refused with the reason."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("highdicom")

from dicom_table import Fault, is_expected, predict, runs

pytestmark = pytest.mark.fault


@pytest.mark.parametrize(
    ("fault", "make"), [pytest.param(*rest, id=name) for name, *rest in runs(None)]
)
def test_faults_of_a_synthetic_series(
    fault: Fault, make: Callable[[Path], Path], tmp_path: Path
) -> None:
    found = predict(make(tmp_path), tmp_path)
    assert is_expected(fault, found), found
    assert not re.search("Doe|Jane|Wang", found.message)


def test_faults_of_real_series(real_data: Path, tmp_path: Path) -> None:
    for name, fault, make in runs(real_data):
        if (real_data / "faults" / "dicom" / name).is_dir():
            (tmp_path / name).mkdir()
            found = predict(make(tmp_path / name), tmp_path / name)
            assert is_expected(fault, found), (name, found)
