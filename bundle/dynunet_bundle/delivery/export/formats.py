"""How a network is written in each format. All take the batch's size as it comes, and patches of one size.

MONAI's ``ckpt_export`` and ``onnx_export`` work on this bundle too; they know no half precision, write in place, and
check nothing.
"""

import copy
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import torch
from monai.data import save_net_with_metadata
from monai.networks import trt_compile
from torch import nn

from dynunet_bundle.errors import ConfigError

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
SUFFIXES = {"torchscript": ".ts", "onnx": ".onnx", "tensorrt": ".plan"}
INPUT_NAME, OUTPUT_NAME = "image", "pred"
"""Names of the ONNX tensors; those of metadata.json's ``network_data_format``."""

MAX_BATCH = 8
"""Patches that a TensorRT engine takes at once."""

TRACED_BATCH = 2
"""torch.export takes a batch of one for a constant."""


def unavailable(name: str, precision: str, device: str) -> str:
    """Why a format cannot be made on this machine; empty where it can.

    Args:
        name: ``torchscript``, ``onnx`` or ``tensorrt``.
        precision: ``fp32``, ``fp16`` or ``bf16``.
        device: where it is to be checked.

    Raises:
        ConfigError: if a package is missing.
    """
    if name == "tensorrt":
        if torch.device(device).type != "cuda":
            return "no CUDA device"
        _require("tensorrt", "polygraphy", install="tensorrt polygraphy onnx onnxscript")
    if name == "onnx":
        _require("onnx", "onnxscript", "onnxruntime", install='-e ".[export]"')
        if precision == "bf16":
            return "onnxruntime has no convolution in bfloat16"
    return ""


def _require(*packages: str, install: str) -> None:
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ConfigError(f"{', '.join(missing)} is not installed. Run: pip install {install}")


def write_torchscript(
    file: BinaryIO,
    network: nn.Module,
    shape: Sequence[int],
    precision: str,
    facts: Mapping[str, Any],
) -> None:
    """Write a trace. It is taken in float32 and converted: not every CPU runs a network in half precision.

    Args:
        file: where to.
        network: in float32, in evaluation mode, on the CPU.
        shape: ``[C, *patch]``.
        precision: ``fp32``, ``fp16`` or ``bf16``, of weights and input.
        facts: kept in the file as MONAI keeps ``metadata.json`` in it.
    """
    with torch.no_grad(), _quietly():
        # a trace shares its parameters with the network, and is converted
        traced = torch.jit.trace(copy.deepcopy(network), torch.zeros(1, *shape), check_trace=False)
    # without MONAI's time of day, for the same weights to give the same file
    save_net_with_metadata(
        traced.to(DTYPES[precision]), file, include_config_vals=False, meta_values=facts
    )


def write_onnx(
    file: BinaryIO,
    network: nn.Module,
    shape: Sequence[int],
    precision: str,
    facts: Mapping[str, Any],
) -> None:
    """Write ONNX, all in one file; arguments as of ``write_torchscript``."""
    dtype = DTYPES[precision]
    with torch.no_grad(), _quietly():
        program: Any = torch.onnx.export(
            copy.deepcopy(network).to(dtype),
            (torch.zeros(TRACED_BATCH, *shape, dtype=dtype),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            verbose=False,
        )
    model = program.model_proto
    for name, value in facts.items():
        model.metadata_props.add(key=name, value=json.dumps(value))
    file.write(model.SerializeToString())


def write_tensorrt(
    file: BinaryIO,
    network: nn.Module,
    shape: Sequence[int],
    precision: str,
    facts: Mapping[str, Any],
) -> None:
    """Write a TensorRT engine, which MONAI's ``trt_compile`` builds; arguments as of ``write_torchscript``.

    It serves this kind of GPU and this version of TensorRT only.
    """
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "model"
        compiled = tensorrt_network(copy.deepcopy(network), base, precision)
        with torch.no_grad():
            compiled(torch.zeros(1, *shape, device="cuda"))
        file.write(base.with_name("model.plan").read_bytes())


def tensorrt_network(network: nn.Module, base: Path, precision: str) -> nn.Module:
    """A network that runs the engine ``BASE.plan``, and builds it where it is missing.

    Args:
        network: is changed in place and moved to the GPU.
        base: path of the engine without ``.plan``.
        precision: ``fp32``, ``fp16`` or ``bf16``.
    """
    settings = {"precision": precision, "dynamic_batchsize": [1, 1, MAX_BATCH], "fallback": False}
    compiled: nn.Module = trt_compile(network.cuda(), str(base), args=settings)
    return compiled


WRITERS: dict[str, Callable[..., None]] = {
    "torchscript": write_torchscript,
    "onnx": write_onnx,
    "tensorrt": write_tensorrt,
}


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the exporters' talk of deprecations, and of packages that they could have used."""
    names = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
