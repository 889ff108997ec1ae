"""The benchmark of a model that nnU-Net trained measures both predictors on the same files, and compares the masks."""

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import BUNDLE, ROOT
from helpers.nnunet_results import make_results

from benchmarks import predict_model
from benchmarks.measure import choose_core, table

PEERS = Path(os.environ.get("DYNUNET_PEERS", ROOT / ".venv-peers"))
FAKE = """#!/bin/sh
while [ $# -gt 0 ]; do
    case $1 in -o) shift; mkdir -p "$1"; cp {masks}/* "$1" ;; -f) echo "$2" > {folds} ;; esac
    shift
done
"""


@pytest.fixture
def job(tmp_path: Path) -> predict_model.ModelJob:
    images = tmp_path / "images"
    images.mkdir()
    voxels = np.random.default_rng(0).normal(size=(20, 18, 16)).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, np.diag([2.0, 2.0, 2.0, 1.0])), images / "a_0000.nii.gz")
    return predict_model.ModelJob(make_results(tmp_path / "results", folds=("1",)), images)


def test_both_predict_the_same_images(job, tmp_path: Path, monkeypatch) -> None:
    """A program that copies masks stands for nnU-Net."""
    monkeypatch.setattr(predict_model, "PRECISIONS", ("float32",))
    masks, programs = tmp_path / "masks", tmp_path / "peers" / "bin"
    masks.mkdir()
    programs.mkdir(parents=True)
    nib.save(nib.Nifti1Image(np.zeros((20, 18, 16), np.uint8), np.eye(4)), masks / "a.nii.gz")
    for name in ("python", predict_model.COMMAND):
        (programs / name).write_text(FAKE.format(masks=masks, folds=tmp_path / "folds"))
        (programs / name).chmod(0o755)
    (tmp_path / "work").mkdir()
    sections = predict_model.run(BUNDLE, tmp_path / "work", programs.parent, choose_core(None), job)
    one, both = sections.values()
    assert [row.contender for row in one] == ["nnunetv2", "ours, float32"]
    assert [row.contender for row in both] == [
        "nnunetv2",
        "nnunetv2, default processes",
        "ours, float32",
    ]
    assert (tmp_path / "folds").read_text() == "1\n"
    ours = nib.load(tmp_path / "work" / "one" / "float32" / "a.nii.gz")
    share = (np.asarray(ours.dataobj) == 0).mean()
    for rows in (one, both):
        assert all(row.cpu_s and row.wall_s and row.peak_mib for row in rows), rows
        assert rows[-1].remark == f"{share:.3%} or more of the voxels of each mask are equal"
    assert [title.rpartition(", ")[0] for title in sections] == [
        "results, file to file, without mirroring"
    ] * 2
    assert "CPU ratio" in table(one)


@pytest.mark.peers
def test_nnunet_itself(job, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(predict_model, "PRECISIONS", ("float32",))
    if not (PEERS / "bin" / predict_model.COMMAND).is_file():
        pytest.skip(f"nnU-Net is not in {PEERS}: run make peers")
    sections = predict_model.run(BUNDLE, tmp_path, PEERS, choose_core(None), job)
    for rows in sections.values():
        assert all(row.cpu_s and not row.remark.startswith("failed") for row in rows), rows
        share = float(rows[-1].remark.split("%")[0])
        assert share > 99
