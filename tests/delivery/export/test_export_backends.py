"""Exported models that replace the network."""

import copy
import json
import pickle
import sys
from pathlib import Path

import pytest
import torch
from export_cases import network_of_plan, plan_of
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer

from dynunet_bundle.delivery.export.formats import WRITERS
from dynunet_bundle.errors import BundleError, ConfigError, WeightsError
from dynunet_bundle.files import sha256_of
from dynunet_bundle.networks.exported import (
    BACKENDS,
    ExportedNetwork,
    computes,
    network_of,
    sidecar_of,
)

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

PLAN = plan_of("3d")
SHAPE = (1, 16, 16, 16)
FILES = {"torchscript": "model_{}.ts", "onnx": "model_{}.onnx"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with each format in float32 and float16; do not change it."""
    folder = tmp_path_factory.mktemp("exported")
    (folder / "model.pt").write_bytes(b"weights")
    for name, pattern in FILES.items():
        for precision in ("fp32", "fp16"):
            path = folder / pattern.format(precision)
            with path.open("wb") as file:
                WRITERS[name](file, network_of_plan("3d"), SHAPE, precision, {})
            facts = {
                "plan": PLAN,
                "sha256": sha256_of(path),
                "weights_sha256": sha256_of(folder / "model.pt"),
            }
            sidecar_of(path).write_text(json.dumps(facts))
    return folder


@pytest.fixture(params=list(BACKENDS))
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


def load(exported: Path, backend: str, precision: str = "fp32") -> ExportedNetwork:
    return BACKENDS[backend](exported / FILES[backend].format(precision))


def patches(number: int = 3) -> torch.Tensor:
    return torch.randn(number, *SHAPE, generator=torch.Generator().manual_seed(1))


def eager(x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return network_of_plan("3d")(x)


def test_batches_of_any_size_give_what_the_network_gives(exported, backend):
    network = load(exported, backend)
    for number in (1, 2, 3):
        x = patches(number)
        logits = network(x)
        assert type(logits) is torch.Tensor
        assert not logits.requires_grad
        torch.testing.assert_close(logits, eager(x), atol=1e-4, rtol=1e-4)


def test_inputs_in_another_memory_order(exported, backend):
    x = patches(2)
    strided = x.to(memory_format=torch.channels_last_3d).transpose(2, 3)
    torch.testing.assert_close(
        load(exported, backend)(strided), eager(x.transpose(2, 3)), atol=1e-4, rtol=1e-4
    )


def test_half_precision_files_take_and_give_float32(exported, backend):
    x = patches()
    logits = load(exported, backend, "fp16")(x)
    assert logits.dtype == torch.float32
    difference = (logits - eager(x)).abs().max()
    assert 0 < difference < 0.05


def test_meta_data_goes_through(exported, backend):
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0]))
    x = MetaTensor(patches(1), affine=affine)
    logits = load(exported, backend)(x)
    assert isinstance(logits, MetaTensor)
    assert torch.equal(logits.affine, x.affine)
    torch.testing.assert_close(logits.as_tensor(), eager(x.as_tensor()), atol=1e-4, rtol=1e-4)


def test_autocast_does_not_reach_into_them(exported, backend):
    network, x = load(exported, backend), patches(1)
    with torch.autocast("cpu", torch.bfloat16):
        inside = network(x)
    assert torch.equal(inside, network(x))


def test_copies_work_before_and_after_the_first_patch(exported, backend):
    network, x = load(exported, backend), patches(1)
    unused = pickle.dumps(network)
    logits = network(x)
    used = pickle.dumps(network)
    copies = [pickle.loads(unused), pickle.loads(used), copy.deepcopy(network)]  # noqa: S301
    assert all(torch.equal(other(x), logits) for other in copies)
    assert not list(network.parameters())
    assert not network.state_dict()


def test_the_sliding_window_takes_them(exported, backend):
    volume = torch.randn(1, 1, 20, 25, 30, generator=torch.Generator().manual_seed(2))
    inferer = SlidingWindowInferer((16, 16, 16), sw_batch_size=3, overlap=0.5, mode="gaussian")
    ours, theirs = (inferer(volume, network) for network in (load(exported, backend), eager))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_onnxruntime_has_torchs_threads(exported):
    network = load(exported, "onnx")
    network(patches(1))
    (program,) = network._programs.values()
    options = program.session.get_session_options()
    assert options.intra_op_num_threads == torch.get_num_threads()


def test_onnx_of_another_patch_is_refused(exported):
    with pytest.raises(ConfigError, match=r"patches of \[16, 16, 16\], not \[16, 16, 24\]"):
        load(exported, "onnx")(torch.zeros(1, 1, 16, 16, 24))


def test_every_cpu_computes_float32():
    assert computes(torch.float32, torch.device("cpu"))
    assert computes(torch.float16, torch.device("cuda"))
    assert not computes(torch.float64, torch.device("cpu"))


@pytest.mark.parametrize("content", [b"", b"Not a model.\n"])
def test_damaged_files_are_refused(tmp_path, backend, content):
    path = tmp_path / "model"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="model is not"):
        BACKENDS[backend](path)(patches(1))


def choose(exported: Path, name: str, **changes) -> torch.nn.Module:
    settings = {
        "plan": PLAN,
        "backend": name,
        "backend_file": str(exported / FILES[name].format("fp32")),
        "weights_file": str(exported / "model.pt"),
    }
    return network_of(torch.nn.Identity(), **{**settings, **changes})


def test_backend_torch_is_the_network_itself():
    network = torch.nn.Identity()
    assert network_of(network, PLAN, "torch") is network
    assert network_of(network, PLAN) is network


def test_the_config_chooses_the_backend(exported, backend):
    network = choose(exported, backend)
    assert type(network) is BACKENDS[backend]
    torch.testing.assert_close(network(patches(1)), eager(patches(1)), atol=1e-4, rtol=1e-4)
    assert type(choose(exported, backend, weights_file=None)) is BACKENDS[backend]
    assert type(choose(exported, backend, weights_file="nowhere.pt")) is BACKENDS[backend]


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"backend": "tflite"}, ConfigError, '"tflite". Choose one of torch, onnx, torchscript'),
        ({"backend_file": None}, ConfigError, "Pass --backend_file"),
        ({"backend_file": "nowhere.onnx"}, WeightsError, "no exported model at nowhere.onnx"),
        ({"weights_file": ["a.pt", "b.pt"]}, ConfigError, "weights_file lists 2"),
        ({"plan": {**PLAN, "spacing": [2, 2, 9]}}, WeightsError, r"spacing: .* \[2, 2, 9\]"),
    ],
)
def test_what_cannot_be_meant_is_refused(exported, backend, changes, kind, message):
    with pytest.raises(kind, match=message) as caught:
        choose(exported, backend, **changes)
    assert "\n" not in str(caught.value)


def test_name_and_batch_of_the_plan_may_differ(exported, backend):
    choose(exported, backend, plan={**PLAN, "task_name": "Other", "batch_size": 9})


@pytest.fixture
def own_copy(exported: Path, backend: str, tmp_path: Path) -> Path:
    """An exported model and its JSON that a test may modify."""
    source = exported / FILES[backend].format("fp32")
    path = tmp_path / source.name
    path.write_bytes(source.read_bytes())
    sidecar_of(path).write_bytes(sidecar_of(source).read_bytes())
    return path


def test_a_file_that_is_not_the_described_one_is_refused(exported, backend, own_copy):
    choose(exported, backend, backend_file=str(own_copy))
    own_copy.write_bytes(own_copy.read_bytes() + b"x")
    with pytest.raises(WeightsError, match="SHA-256 differs"):
        choose(exported, backend, backend_file=str(own_copy))


def test_a_file_without_its_json_is_refused(exported, backend, own_copy):
    sidecar_of(own_copy).unlink()
    with pytest.raises(WeightsError, match=r"model_fp32.*json does not exist"):
        choose(exported, backend, backend_file=str(own_copy))


def test_an_export_of_other_weights_is_refused(exported, backend, tmp_path):
    other = tmp_path / "model.pt"
    other.write_bytes(b"weights of a later epoch")
    with pytest.raises(WeightsError, match="from other weights"):
        choose(exported, backend, weights_file=str(other))


def test_a_missing_onnxruntime_says_what_to_install(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BundleError, match=r"pip install onnxruntime"):
        choose(exported, "onnx")
    choose(exported, "torchscript")
