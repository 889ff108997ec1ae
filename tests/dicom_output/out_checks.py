"""Common parts of the tests of DICOM output: the algorithm, the validator, and reading objects as other programs do."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from highdicom.seg import segread
from out_series import LABELS

from dynunet_bundle.dicom_input.series import DicomSeries
from dynunet_bundle.dicom_output.object import Algorithm
from dynunet_bundle.dicom_output.seg import write_seg

KNOWN = {"background": 0, "liver": 1, "cancer": 2, "spleen": 5}
ALGORITHM = Algorithm("Task03_Liver", "0123456789ab")


def write(mask: np.ndarray, series: Any, path: Path, **changes: Any) -> Path:
    """Write a BINARY segmentation of ``LABELS`` by ``ALGORITHM``; keywords change the arguments."""
    written = write_seg(
        mask, series, **{"labels": LABELS, "path": path, "algorithm": ALGORITHM, **changes}
    )
    assert written == path
    return path


def require_valid(path: Path, *allowed: str) -> None:
    """Fail if dciodvfy reports anything except warnings that contain one of ``allowed``."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (Debian package dicom3tools) is not installed")
    said = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    lines = (said.stdout + said.stderr).splitlines()
    assert any(line in KINDS for line in lines), lines
    wrong = [line for line in lines if line.strip() and line not in KINDS]
    wrong = [line for line in wrong if not any(text in line for text in allowed)]
    assert not wrong, "\n".join(wrong)


KINDS = ("Segmentation", "RTStructureSet", "ComprehensiveSR")
"""Lines of dciodvfy that name the kind of object."""

NO_DICOMDIR = "needed to build DICOMDIR"
"""Warnings of attributes that may be empty, but not on a DICOM disc."""

PRIVATE_CODE = "Unrecognized defined term <99DYNUNET>"
"""Warnings of private coding schemes, which dciodvfy does not know."""


def masks_of_segments(path: Path, series: DicomSeries) -> dict[str, np.ndarray]:
    """Voxels ``[X, Y, Z]`` of the series in each segment, by name; highdicom gives the positions in mm."""
    dataset: Any = segread(path)
    to_voxels = np.linalg.inv(np.diag([-1.0, -1.0, 1.0, 1.0]) @ series.affine)
    found = {}
    for number in dataset.segment_numbers:
        volume = dataset.get_volume(segment_numbers=[number])
        steps = to_voxels @ volume.affine
        places = np.argwhere(volume.array[..., 0]) @ steps[:3, :3].T + steps[:3, 3]
        np.testing.assert_allclose(places, places.round(), atol=0.02)
        mask = np.zeros(series.array.shape[1:], bool)
        mask[tuple(places.round().astype(int).T)] = True
        found[dataset.get_segment_description(number).segment_label] = mask
    return found
