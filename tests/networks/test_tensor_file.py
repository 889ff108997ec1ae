"""Files of torch that ask for more memory or time than they are worth."""

import io
import sys
import zipfile
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "security"))

from attack_models import dictionary, laughs, pieces, torch_zip

from dynunet_bundle.errors import PlanError
from dynunet_bundle.networks.architectures import plain_network
from dynunet_bundle.networks.tensor_file import load_tensors

HOSTILE = [
    *("code", "eval", "bytearray", "memory of a tensor", "memory of a storage", "fields"),
    *("object", "lists", "tuples", "key", "itself", "deep"),
]


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("mmap", [False, True])
def test_a_pickle_takes_no_memory_and_no_time(kind: str, mmap: bool, tmp_path: Path) -> None:
    path, marker = tmp_path / "a.pt", tmp_path / "marker"
    torch_zip(path, dictionary(a=pieces(marker)[kind]))
    with pytest.raises(Exception, match="GLOBAL|more than|deeper"):
        load_tensors(path, mmap=mmap)
    assert not marker.exists()


def test_a_compressed_file_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as plain:
        entries = [(entry.filename, plain.read(entry)) for entry in plain.infolist()]
    with zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in entries:
            packed.writestr(name, content)
    assert torch.load(tmp_path / "b.pt", weights_only=True)["a"].shape == (1000,)
    with pytest.raises(ValueError, match="compressed"):
        load_tensors(tmp_path / "b.pt")


def test_two_archives_in_one_file_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(10)}, tmp_path / "a.pt")
    content = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(content + content)
    with pytest.raises(ValueError, match="not as torch writes it"):
        load_tensors(tmp_path / "a.pt")


def test_a_tensor_is_not_larger_than_its_file(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1).expand(2**20, 2**14)}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="larger than the file"):
        load_tensors(tmp_path / "a.pt")


@pytest.mark.parametrize("is_zip", [True, False])
def test_what_torch_writes_is_read(is_zip: bool, tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 1, 8, 8)).sum().backward()
    optimizer.step()
    state = {
        "model": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "random": torch.get_rng_state(),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "shared": [network[0].weight] * 3,
        "facts": {"epoch": 3, "names": ("a", "é"), "size": torch.Size([1]), "none": None},
    }
    torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=is_zip)
    found = load_tensors(tmp_path / "a.pt")
    expected = torch.load(tmp_path / "a.pt", weights_only=True)
    buffers = io.BytesIO(), io.BytesIO()
    for buffer, content in zip(buffers, (found, expected), strict=True):
        torch.save(content, buffer)
    assert buffers[0].getvalue() == buffers[1].getvalue()


def test_lists_that_contain_each_other_are_counted_once_per_place(tmp_path: Path) -> None:
    torch_zip(tmp_path / "a.pt", laughs(b"](", b"e"))
    with pytest.raises(ValueError, match="more than 1000000 values"):
        load_tensors(tmp_path / "a.pt")


@pytest.mark.parametrize("kind", ["DynUNet", "PlainConvUNet", "ResidualEncoderUNet"])
@pytest.mark.parametrize(("width", "kernel"), [(2**14, 64), (8000, 3)])
def test_a_network_that_does_not_fit_is_refused(kind: str, width: int, kernel: int) -> None:
    with pytest.raises(PlanError, match="the network takes .* GiB are available"):
        plain_network(
            kind,
            spatial_dims=3,
            in_channels=1,
            out_channels=2,
            kernel_sizes=[[kernel] * 3] * 4,
            strides=[[1] * 3, *[[2] * 3] * 3],
            filters=[width] * 4,
        )
