"""Writers of each export format. Exported models accept any batch size, and patches of one size.

MONAI's ``ckpt_export`` and ``onnx_export`` also work on this bundle, but they have no half precision, write in place
and check nothing.
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
"""Names of the ONNX tensors, as in ``network_data_format`` of metadata.json."""

MAX_BATCH = 8
"""Largest batch of a TensorRT engine, in patches."""

TRACED_BATCH = 2
"""Batch size of the example input: torch.export treats a batch of 1 as a constant."""


def unavailable(name: str, precision: str, device: str) -> str:
    """Why a format cannot be exported on this machine; empty if it can.

    Args:
        name: ``torchscript``, ``onnx`` or ``tensorrt``.
        precision: ``fp32``, ``fp16`` or ``bf16``.
        device: device on which it will be checked.

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
    """Write a trace, taken in float32 and then converted, as not every CPU can run a network in half precision.

    Args:
        file: file to write to.
        network: in float32, in evaluation mode, on the CPU.
        shape: ``[C, *patch]``.
        precision: ``fp32``, ``fp16`` or ``bf16``, of weights and input.
        facts: stored in the file, where MONAI stores ``metadata.json``.
    """
    with torch.no_grad(), _quietly():
        # the trace shares its parameters with the network and is converted in place, hence the copy
        traced = torch.jit.trace(copy.deepcopy(network), torch.zeros(1, *shape), check_trace=False)
    # without MONAI's time stamp, so that equal weights give equal files
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
    """Write ONNX as a single file; arguments as in ``write_torchscript``."""
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
    """Write a TensorRT engine, built by MONAI's ``trt_compile``; arguments as in ``write_torchscript``.

    The engine runs only on this type of GPU and this version of TensorRT.
    """
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "model"
        compiled = tensorrt_network(copy.deepcopy(network), base, precision)
        with torch.no_grad():
            compiled(torch.zeros(1, *shape, device="cuda"))
        file.write(base.with_name("model.plan").read_bytes())


def tensorrt_network(network: nn.Module, base: Path, precision: str) -> nn.Module:
    """A network that runs the engine ``BASE.plan``; its first call builds the engine if it is missing.

    Args:
        network: changed in place and moved to the GPU.
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
    """Suppress the exporters' warnings of deprecations and of optional packages."""
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
