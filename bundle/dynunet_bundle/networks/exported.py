"""Exported models used as the network: the files of ``dynunet-bundle export``, run on torch tensors.

Each file has a JSON beside it with the plan and the SHA-256, like ``model.pt``. A file is opened in the process that
computes the first patch, so that the networks can be copied and sent to other processes. Their precision is that of
the file; autocast has no effect on them.

Stored on disk: the names of ``BACKENDS``, in configs, and the keys of the JSON.
"""

import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.utils import convert_to_dst_type
from torch import nn

from dynunet_bundle.errors import ConfigError, WeightsError
from dynunet_bundle.files import read_json, sha256_of
from dynunet_bundle.planning.plan import PLAN_SCHEMA, plan_differences
from dynunet_bundle.shapes import SHA256, object_with

EXPORT_SCHEMA = object_with(
    {"sha256": SHA256, "weights_sha256": SHA256, "plan": PLAN_SCHEMA},
    ("sha256",),
    description="Export the model again.",
)
"""Shape of the JSON beside an exported model."""

logger = logging.getLogger(__name__)

Program = Callable[[torch.Tensor], torch.Tensor]


class ExportedNetwork(nn.Module):
    """A network without parameters that runs an exported file.

    Args:
        path: the file.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        self._programs: dict[torch.device, Program] = {}

    def __getstate__(self) -> dict[str, Any]:
        """The state without opened files: neither a session nor a script module can be pickled."""
        return {**self.__dict__, "_programs": {}}

    @abstractmethod
    def open(self, device: torch.device) -> Program:
        """Open the file for a device; the result maps ``[B, C, *spatial]`` to logits."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the logits.

        Args:
            x: ``[B, C, *patch]`` of any numeric type; a MetaTensor keeps its metadata.

        Returns:
            ``[B, outputs, *patch]`` with the type and device of ``x``.
        """
        if x.device not in self._programs:
            self._programs[x.device] = self.open(x.device)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            logits = self._programs[x.device](torch.Tensor.as_subclass(x.detach(), torch.Tensor))
        result: torch.Tensor = convert_to_dst_type(logits, x)[0]
        return result


class TorchScriptNetwork(ExportedNetwork):
    """A TorchScript file; half-precision weights are converted to float32 if the CPU cannot compute with them."""

    def open(self, device: torch.device) -> Program:
        """Open the file for a device.

        Raises:
            WeightsError: if it is not TorchScript.
        """
        try:
            module = torch.jit.load(str(self.path), map_location=device).eval()
        except RuntimeError as error:
            raise WeightsError(
                f"{self.path} is not TorchScript, or is damaged. Export it again."
            ) from error
        dtype = next(module.parameters()).dtype
        if not computes(dtype, device):
            logger.info(
                "%s holds %s weights, which this CPU does not support; computing in float32",
                self.path.name,
                dtype,
            )
            module, dtype = module.float(), torch.float32
        return lambda x: module(x.to(dtype))


class OnnxNetwork(ExportedNetwork):
    """An ONNX file run by onnxruntime, with torch's number of threads; on a GPU if its CUDA provider is installed."""

    def open(self, device: torch.device) -> Program:
        """Open the file for a device.

        Raises:
            ConfigError: if onnxruntime is not installed.
            WeightsError: if onnxruntime cannot run the file.
        """
        runtime = _onnxruntime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
        providers: list[Any] = ["CPUExecutionProvider"]
        on_gpu = device.type == "cuda" and (
            "CUDAExecutionProvider" in runtime.get_available_providers()
        )
        if on_gpu:
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
        elif device.type != "cpu":
            logger.warning(
                "onnxruntime has no provider for %s on this machine; computing on the CPU", device
            )
        try:
            session = runtime.InferenceSession(str(self.path), options, providers=providers)
        except Exception as error:
            raise WeightsError(
                f"{self.path} is not an ONNX model that onnxruntime can run: {str(error).splitlines()[0]}. "
                "Export it again."
            ) from error
        return _OnnxProgram(session, device if on_gpu else torch.device("cpu"))


class _OnnxProgram:
    """A session that reads and writes torch's memory directly, without copies."""

    def __init__(self, session: Any, device: torch.device) -> None:
        self.session = session
        self.device = device
        source, target = session.get_inputs()[0], session.get_outputs()[0]
        self.names = (source.name, target.name)
        self.patch = tuple(source.shape[2:])
        self.num_outputs = target.shape[1]
        half = source.type == "tensor(float16)"
        self.dtype = torch.float16 if half else torch.float32

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if tuple(x.shape[2:]) != self.patch:
            raise ConfigError(
                f"the ONNX model was exported for patches of {list(self.patch)}, not {list(x.shape[2:])}. "
                "Export it again."
            )
        x = x.to(self.device, self.dtype).contiguous()
        logits = x.new_empty(len(x), self.num_outputs, *self.patch)
        if x.is_cuda:
            # onnxruntime uses another CUDA stream
            torch.cuda.synchronize(x.device)
        binding = self.session.io_binding()
        for bind, name, tensor in (
            (binding.bind_input, self.names[0], x),
            (binding.bind_output, self.names[1], logits),
        ):
            bind(
                name,
                self.device.type,
                self.device.index or 0,
                np.float16 if self.dtype == torch.float16 else np.float32,
                tuple(tensor.shape),
                tensor.data_ptr(),
            )
        self.session.run_with_iobinding(binding)
        return logits


BACKENDS: dict[str, type[ExportedNetwork]] = {
    "onnx": OnnxNetwork,
    "torchscript": TorchScriptNetwork,
}


def network_of(
    network: nn.Module,
    plan: Mapping[str, Any],
    backend: str = "torch",
    backend_file: str | None = None,
    weights_file: str | Sequence[str] | None = None,
) -> nn.Module:
    """The network that a config's ``backend`` names.

    Args:
        network: the network of the plan.
        plan: the plan ids of the config.
        backend: ``"torch"`` is ``network`` itself; ``"onnx"`` and ``"torchscript"`` run ``backend_file``.
        backend_file: the exported model.
        weights_file: if it exists, the exported model must have been made from it.

    Raises:
        ConfigError: for an unknown backend, a missing ``backend_file`` or package, or several weights.
        WeightsError: if the file is missing, does not match its JSON, or belongs to another plan or other weights.
    """
    if backend == "torch":
        return network
    if backend not in BACKENDS:
        raise ConfigError(f'backend is "{backend}". Choose one of torch, {", ".join(BACKENDS)}.')
    if backend_file is None:
        raise ConfigError(f'backend is "{backend}". Pass --backend_file with an exported model.')
    if not isinstance(weights_file, str | None):
        raise ConfigError(
            f'backend "{backend}" runs one exported model, but weights_file lists {len(weights_file)}. '
            "Pass one file, or use backend torch."
        )
    if backend == "onnx":
        _onnxruntime()
    require_own_export(Path(backend_file), plan, weights_file)
    return BACKENDS[backend](backend_file)


def sidecar_of(path: Path) -> Path:
    """The JSON beside an exported model: ``model_fp32.onnx.json`` for ``model_fp32.onnx``."""
    return path.with_name(f"{path.name}.json")


def require_own_export(
    path: Path, plan: Mapping[str, Any], weights_file: str | Path | None = None
) -> None:
    """Refuse an exported model that is missing, changed, or made from another plan or other weights.

    Args:
        path: the exported model.
        plan: the plan ids of the config.
        weights_file: ``model.pt``; not compared if it does not exist.

    Raises:
        WeightsError: for any of these.
    """
    if not path.is_file():
        raise WeightsError(
            f"there is no exported model at {path}. Create it with dynunet-bundle export."
        )
    sidecar = sidecar_of(path)
    facts = read_json(sidecar, WeightsError, EXPORT_SCHEMA)
    if facts["sha256"] != sha256_of(path):
        raise WeightsError(
            f"{path} is not the file that {sidecar.name} describes (SHA-256 differs). Export it again."
        )
    differences = plan_differences(facts.get("plan", {}), plan)
    if differences:
        raise WeightsError(
            f"{path} was exported with another plan than this config: {'; '.join(differences)}. "
            "Pass the overlays that it was exported with, e.g. --config_file configs/quick.json."
        )
    if weights_file is not None and Path(weights_file).is_file():
        if facts.get("weights_sha256") != sha256_of(weights_file):
            raise WeightsError(
                f"{path} was exported from other weights than {weights_file}. Export it again."
            )


def computes(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a device supports arithmetic in a type; on other CPUs torch's float16 is a hundred times slower."""
    if device.type != "cpu" or dtype == torch.float32:
        return True
    name = {torch.float16: "fp16", torch.bfloat16: "bf16"}.get(dtype)
    # torch without oneDNN has neither this function nor such arithmetic
    return bool(getattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported", bool)())


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError("onnxruntime is not installed. Run: pip install onnxruntime") from error
    return onnxruntime
