"""The commands of docs/nnunet.md from a folder like TotalSegmentator's to DICOM SEG and to MONAI Label."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, fork_server
from helpers.made_dicom import make_series
from helpers.nnunet_results import (
    DATASET,
    nnunet_state,
    plans_of,
    save_checkpoint,
    seeded_network,
)
from monai.bundle import ConfigWorkflow
from pydicom import dcmread

NAME = "organs_ct_segmentation"
DATA = "Dataset291_TotalSegmentator_part1_organs_1559subj"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Plans of nnU-Net 2.0, a CT, a trainer without mirroring, names of numpy 1 in the checkpoint."""
    folder = tmp_path / "RESULTS" / DATA / "nnUNetTrainerNoMirroring__nnUNetPlans__3d_fullres"
    folder.mkdir(parents=True)
    plans = plans_of(normalization_schemes=["CTNormalization"])
    plans["image_reader_writer"] = "NibabelIOWithReorient"
    content = plans["configurations"]["3d_fullres"]
    network = content.pop("architecture")["arch_kwargs"]
    content |= {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 4,
        "unet_max_num_features": 6,
        "n_conv_per_stage_encoder": [2, 2, 2],
        "n_conv_per_stage_decoder": [2, 2],
        "num_pool_per_axis": [2, 2, 2],
        "conv_kernel_sizes": network["kernel_sizes"],
        "pool_op_kernel_sizes": network["strides"],
    }
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(DATASET | {"channel_names": {"0": "CT"}}))
    state = nnunet_state(seeded_network(0, filters=[4, 6, 6]))
    save_checkpoint(
        folder / "fold_0" / "checkpoint_final.pth",
        state,
        trainer_name="nnUNetTrainerNoMirroring",
        inference_allowed_mirroring_axes=None,
        init_args={"configuration": "3d_fullres", "device": torch.device("cuda:0")},
    )
    return folder


@pytest.fixture
def run_line(tmp_path: Path) -> Callable[[str], list[str]]:
    """Run a command of the page, with its upper-case places in a temporary folder."""

    def run(line: str) -> list[str]:
        arguments = line.removeprefix("dynunet-bundle ")
        words = [
            str(tmp_path / word) if re.match(r"(RESULTS|PACKAGES|STUDY|OUT|apps)\b", word) else word
            for word in shlex.split(arguments)
        ]
        done = fork_server.run(["-m", "dynunet_bundle", *words])
        assert done.returncode == 0, done.stderr
        return words

    return run


def commands(start: str) -> list[str]:
    """Commands of the section that have a word."""
    page = (ROOT / "docs" / "nnunet.md").read_text()
    section = page[page.index("## To a DICOM SEG") : page.index("## Licences")]
    lines = section.replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.startswith(f"    {start}")]


def study(folder: Path) -> np.ndarray:
    voxels = np.random.default_rng(0).integers(-100, 200, (20, 18, 16)).astype(np.int16)
    make_series(folder, voxels, np.diag([2.0, 2.0, 2.0, 1.0]), modality="CT")
    return voxels


def test_two_commands_to_a_dicom_seg(results: Path, tmp_path: Path, run_line) -> None:
    pytest.importorskip("highdicom")
    study(tmp_path / "STUDY")
    first, second, _ = commands("dynunet-bundle")
    run_line(first)
    run_line(second)
    (found,) = (tmp_path / "OUT").glob("*.seg.dcm")
    assert dcmread(found).Modality == "SEG"


def test_two_commands_to_monai_label(results: Path, tmp_path: Path, run_line) -> None:
    """The server loads the folder as a workflow; ``make test-clients`` starts the server itself."""
    run_line(commands("dynunet-bundle")[2])
    (server,) = commands("monailabel")
    words = shlex.split(server)
    assert words[words.index("models") + 1] == NAME
    bundle = tmp_path / words[words.index("--app") + 1] / "model" / NAME
    study(tmp_path / "STUDY")
    workflow = ConfigWorkflow(
        config_file=str(bundle / "configs" / "inference.json"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="infer",
        bundle_root=str(bundle),
        input=str(tmp_path / "STUDY"),
        output_dir=str(tmp_path / "OUT"),
        device="cpu",
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    workflow.run()
    assert list((tmp_path / "OUT").glob("*.nii.gz"))
