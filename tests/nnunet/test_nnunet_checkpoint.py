"""Checkpoints of nnU-Net are pickles, and are read as data only."""

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.nnunet_results import nnunet_state, save_checkpoint, seeded_network

from dynunet_bundle.errors import WeightsError
from dynunet_bundle.nnunet.checkpoint import read_checkpoint


class Payload:
    """An object whose pickle runs a command."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


def test_what_a_prediction_needs(tmp_path: Path) -> None:
    state = nnunet_state(seeded_network(0))
    save_checkpoint(tmp_path / "a.pth", state)
    found = read_checkpoint(tmp_path / "a.pth")
    assert (found.configuration, found.trainer, found.epoch) == ("3d_fullres", "nnUNetTrainer", 20)
    assert found.mirror_axes == (0, 1, 2)
    assert found.state.keys() == state.keys()
    save_checkpoint(tmp_path / "a.pth", state, inference_allowed_mirroring_axes=None)
    assert read_checkpoint(tmp_path / "a.pth").mirror_axes == ()


def test_numbers_of_numpy_1(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "new.pth", {"a": torch.ones(1)})
    with (
        zipfile.ZipFile(tmp_path / "new.pth") as new,
        zipfile.ZipFile(tmp_path / "old.pth", "w") as old,
    ):
        for entry in new.infolist():
            content = new.read(entry)
            if entry.filename.endswith("data.pkl"):
                assert b"numpy._core.multiarray\n" in content
                content = content.replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n")
            old.writestr(entry.filename, content)
    assert read_checkpoint(tmp_path / "old.pth").epoch == 20


@pytest.mark.parametrize("place", ["logging", "network_weights", "init_args"])
def test_code_is_not_run(tmp_path: Path, place: str) -> None:
    path, canary = tmp_path / "a.pth", tmp_path / "canary"
    save_checkpoint(path, {"a": torch.ones(1)}, **{place: {"a": Payload(canary)}})
    with pytest.raises(WeightsError, match=r"holds \w+\.mkdir, which may run code"):
        read_checkpoint(path)
    assert not canary.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {}}, "lacks network_weights"),
        ([1], "lacks network_weights"),
        ({"network_weights": {"a": "text"}}, "of type str, not a tensor"),
        ({"network_weights": {"a": torch.ones(1)}}, "lacks init_args"),
        (
            {
                "network_weights": {},
                "init_args": {"configuration": "2d"},
                "inference_allowed_mirroring_axes": (0, 7),
            },
            "mirroring axes",
        ),
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=message) as caught:
        read_checkpoint(tmp_path / "a.pth")
    assert "\n" not in str(caught.value)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pth", {"a": torch.ones(1000)})
    content = (tmp_path / "a.pth").read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"text", np.zeros(100).tobytes()):
        (tmp_path / "a.pth").write_bytes(damaged)
        with pytest.raises(WeightsError, match="a.pth"):
            read_checkpoint(tmp_path / "a.pth")
