"""Exports by scripts/export.py."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BUNDLE, run_script
from export_cases import DEFAULTS, PLANS, make_model, network_of_plan, plan_of
from monai.data import load_net_with_metadata

from dynunet_bundle.delivery.export import formats as export_formats
from dynunet_bundle.delivery.export.export import (
    ExportRequest,
    ParityError,
    export_models,
    require_parity,
)
from dynunet_bundle.delivery.export.table import ExportRow, format_exports
from dynunet_bundle.errors import ConfigError, WeightsError
from dynunet_bundle.files import sha256_of
from dynunet_bundle.networks.exported import network_of, sidecar_of

no_onnx = pytest.mark.skipif(
    not all(map(export_formats.find_spec, ("onnx", "onnxscript", "onnxruntime"))),
    reason="the extra export is not installed",
)


def request_for(folder: Path, name: str = "3d", **changes: Any) -> ExportRequest:
    weights, overlay = make_model(folder / "run", name)
    request = ExportRequest(
        bundle=BUNDLE,
        weights=weights,
        output=folder / "out",
        overlays=[str(overlay)],
        formats=["torchscript"],
        repeats=1,
    )
    return replace(request, **changes)


def eager(x: torch.Tensor, name: str = "3d") -> torch.Tensor:
    with torch.no_grad():
        return network_of_plan(name)(x)


@pytest.mark.parametrize("name", list(PLANS))
@pytest.mark.parametrize("form", ["torchscript", pytest.param("onnx", marks=no_onnx)])
def test_every_kind_of_plan_is_exported(tmp_path, name, form):
    request = request_for(tmp_path, name, formats=[form])
    _, row = export_models(request)
    assert (row.status, row.dice) == ("ok", 1)
    plan = plan_of(name)
    network = network_of(
        torch.nn.Identity(), plan, form, str(request.output / row.file), str(request.weights)
    )
    x = torch.randn(3, len(plan["channel_names"]), *plan["patch_size"])
    torch.testing.assert_close(network(x), eager(x, name), atol=1e-3, rtol=1e-3)


def test_each_file_has_its_facts_beside_it(tmp_path):
    request = request_for(tmp_path, precisions=["fp32", "bf16"])
    rows = export_models(request)
    assert sorted(path.name for path in request.output.iterdir()) == [
        "export.json",
        "model_bf16.ts",
        "model_bf16.ts.json",
        "model_fp32.ts",
        "model_fp32.ts.json",
    ]
    for row in rows[1:]:
        path = request.output / row.file
        facts = json.loads(sidecar_of(path).read_text())
        assert facts["sha256"] == row.sha256 == sha256_of(path)
        assert facts["plan"] == plan_of("3d")
        assert facts["weights_sha256"] == sha256_of(request.weights)
        assert (facts["format"], facts["precision"]) == ("torchscript", row.precision)
        assert facts["versions"]["torch"] == torch.__version__
    network, inside, _ = load_net_with_metadata(str(request.output / "model_bf16.ts"))
    assert next(network.parameters()).dtype == torch.bfloat16
    assert inside["plan"] == plan_of("3d")


def test_the_report_holds_all_rows(tmp_path):
    request = request_for(tmp_path, formats=["torchscript", "tensorrt"], num_patches=2)
    rows = export_models(request)
    report = json.loads((request.output / "export.json").read_text())
    assert [row["format"] for row in report["models"]] == ["torch", "torchscript", "tensorrt"]
    assert report["models"][1]["sha256"] == rows[1].sha256
    assert report["models"][1]["wall_ms"] > 0
    assert report["patches"] == {"source": "made up", "number": 2, "shape": [1, 16, 16, 16]}
    assert report["plan"] == plan_of("3d")
    assert os.uname().nodename not in json.dumps(report)


def test_without_a_gpu_tensorrt_is_a_row_and_no_failure(tmp_path):
    request = request_for(tmp_path, formats=["tensorrt"], precisions=["fp32", "fp16"])
    rows = export_models(request)
    assert [row.status for row in rows[1:]] == ["not available: no CUDA device"] * 2
    assert [path.name for path in request.output.iterdir()] == ["export.json"]
    require_parity(rows)


@no_onnx
def test_onnx_has_no_bfloat16():
    assert "bfloat16" in export_formats.unavailable("onnx", "bf16", "cpu")


def test_half_precision_is_checked_even_where_this_cpu_has_none(tmp_path, monkeypatch):
    monkeypatch.setattr("dynunet_bundle.delivery.export.export.computes", lambda *_: False)
    monkeypatch.setattr("dynunet_bundle.networks.exported.computes", lambda *_: False)
    request = request_for(tmp_path, precisions=["fp16"])
    _, row = export_models(request)
    assert row.dice > 0.99
    assert row.max_difference > 0
    assert row.wall_ms is None
    assert row.remark == "checked in fp32: this CPU has no fp16 arithmetic"


@pytest.fixture
def spoiled_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer of ONNX writes a trace of a network with another head."""

    def write(file, network, *arguments):
        other = network_of_plan("3d")
        with torch.no_grad():
            other.output_block.conv.conv.weight.mul_(-1)
        export_formats.write_torchscript(file, other, *arguments)

    writers = {**export_formats.WRITERS, "onnx": write}
    monkeypatch.setattr("dynunet_bundle.delivery.export.export.WRITERS", writers)
    monkeypatch.setattr(
        "dynunet_bundle.delivery.export.export.BACKENDS",
        dict.fromkeys(writers, network_class("torchscript")),
    )


def network_class(name: str) -> type:
    from dynunet_bundle.networks.exported import BACKENDS

    return BACKENDS[name]


@no_onnx
def test_a_model_that_computes_something_else_is_not_let_out(tmp_path, spoiled_onnx):
    request = request_for(tmp_path, formats=["onnx", "torchscript"])
    request.output.mkdir()
    before = request.output / "model_fp32.onnx"
    before.write_bytes(b"an earlier export")
    sidecar_of(before).write_text("{}")
    rows = export_models(request)
    assert [row.has_failed for row in rows] == [False, True, False]
    assert before.read_bytes() == b"an earlier export"
    assert sidecar_of(before).read_text() == "{}"
    assert (request.output / "model_fp32.ts").is_file()
    with pytest.raises(ParityError, match=r"onnx fp32: failed: Dice 0\.\d+ against") as caught:
        require_parity(rows)
    assert caught.value.exit_code == 1
    assert "torchscript" not in str(caught.value)
    report = json.loads((request.output / "export.json").read_text())
    assert report["models"][1]["status"].startswith("failed: Dice")


def test_patches_come_from_images(tmp_path, phantom, monkeypatch):
    seen = []
    original = export_formats.write_torchscript
    monkeypatch.setitem(
        export_formats.WRITERS, "torchscript", lambda *given: (seen.append(1), original(*given))
    )
    request = request_for(tmp_path, images=str(phantom / "imagesTs"), num_patches=3)
    _, row = export_models(request)
    report = json.loads((request.output / "export.json").read_text())
    assert report["patches"] == {"source": "images", "number": 3, "shape": [1, 16, 16, 16]}
    assert (row.dice, seen) == (1, [1])
    # no case names
    assert not any(path.name.split(".")[0] in json.dumps(report) for path in phantom.rglob("*.gz"))


def test_a_network_that_sees_more_than_the_image(tmp_path, monkeypatch):
    # like a cascade's network, which also gets a mask of the previous stage
    monkeypatch.setattr("dynunet_bundle.delivery.export.export.load_weights", lambda *_: None)
    request = request_for(tmp_path)
    network_def = DEFAULTS["network_def"] | {"in_channels": 3}
    (tmp_path / "more.json").write_text(json.dumps({"network_def": network_def}))
    request = replace(request, overlays=[*request.overlays, str(tmp_path / "more.json")])
    assert export_models(request)[1].status == "ok"
    report = json.loads((request.output / "export.json").read_text())
    assert report["patches"]["shape"] == [3, 16, 16, 16]
    with pytest.raises(ConfigError, match="mask of a previous stage"):
        export_models(replace(request, images="images"))


def test_an_overlay_of_another_plan_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="filters"):
        export_models(request_for(tmp_path, overlays=[str(BUNDLE / "configs" / "quick.json")]))


def test_the_plan_beside_the_weights_needs_no_overlay(tmp_path):
    request = request_for(tmp_path, overlays=[])
    export_models(request)
    report = json.loads((tmp_path / "out" / "export.json").read_text())
    assert report["plan"] == json.loads(request.weights.with_suffix(".json").read_text())["plan"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_patches": 0}, "--num_patches is 0"),
        ({"repeats": 0}, "--repeats is 0"),
        pytest.param(
            {"device": "cuda:0"},
            "this machine has 0 GPUs",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
    ],
)
def test_requests_that_cannot_work_are_refused(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        request_for(tmp_path, **changes)


@pytest.mark.parametrize(
    ("form", "device", "package", "command"),
    [
        ("onnx", "cpu", "onnxscript", 'pip install -e ".[export]"'),
        ("onnx", "cpu", "onnxruntime", 'pip install -e ".[export]"'),
        ("tensorrt", "cuda:0", "tensorrt", "pip install tensorrt polygraphy onnx onnxscript"),
    ],
)
def test_a_missing_package_says_what_to_install(monkeypatch, form, device, package, command):
    monkeypatch.setattr(
        export_formats, "find_spec", lambda name: None if name == package else object()
    )
    with pytest.raises(ConfigError) as caught:
        export_formats.unavailable(form, "fp32", device)
    assert str(caught.value) == f"{package} is not installed. Run: {command}"


def test_the_table_says_what_is_missing():
    rows = [
        ExportRow("torch", "fp32", "ok", wall_ms=300.0, cpu_ms=310.0),
        ExportRow("onnx", "fp32", "ok", "m", 1e-5, 1.0, 150.0, 155.0, 2.5, "0123456789abcdef"),
        ExportRow("tensorrt", "fp16", "not available: no CUDA device"),
    ]
    title, torch_line, onnx_line, tensorrt_line = format_exports(rows).splitlines()
    assert title.split()[:2] == ["format", "precision"]
    assert torch_line.split()[:5] == ["torch", "fp32", "300.0", "310.0", "-"]
    assert onnx_line.split() == [
        *("onnx", "fp32", "150.0", "155.0", "1.0e-05", "1.00000", "2.5", "0123456789ab")
    ]
    assert tensorrt_line.endswith("not available: no CUDA device")


@pytest.mark.slow
def test_the_script_prints_the_table(tmp_path):
    weights, overlay = make_model(tmp_path / "run")
    done = run_script(
        "export",
        *("--model", weights, "--config_file", overlay, "--output_dir", tmp_path / "out"),
        *("--formats", "torchscript", "tensorrt", "--repeats", "1", "--device", "cpu"),
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("torchscript  fp32") and "1.00000" in line for line in lines)
    assert any("not available: no CUDA device" in line for line in lines)
    assert (tmp_path / "out" / "model_fp32.ts").is_file()
