"""The floating-point type in which a network computes.

Stored on disk: ``PRECISIONS``, in configs.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from monai.inferers import SimpleInferer
from torch import nn

from dynunet_bundle.errors import ConfigError

PRECISIONS = ("auto", "float32", "float16", "bfloat16")


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The type of convolutions on a device.

    Args:
        precision: name of a type; ``"auto"`` is float16 on a GPU, as in nnU-Net, bfloat16 on a CPU with instructions
            for it, which halves the time there (docs/benchmarks/prediction.md), and float32 elsewhere.
        device: device of the network.

    Raises:
        ConfigError: for another name, or for float16 on a CPU, where torch lacks fast kernels.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f'precision is "{precision}". Choose one of {", ".join(PRECISIONS)}.')
    if precision == "auto":
        if device.type == "cuda":
            return torch.float16
        return torch.bfloat16 if device.type == "cpu" and has_bfloat16() else torch.float32
    if precision == "float16" and device.type == "cpu":
        raise ConfigError('float16 needs a GPU. On a CPU choose "bfloat16" or "float32".')
    dtype: torch.dtype = getattr(torch, precision)
    return dtype


def computing_in(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[Any]:
    """Autocast to a type, which keeps operations that need float32; a null context for float32."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (AVX512-BF16 or AMX); elsewhere it is slower than float32."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in names)


def training_precision(amp: bool, amp_dtype: str, device: torch.device | str) -> str:
    """Name of the type of convolutions in training; ``train#precision`` of train.json.

    Args:
        amp: whether to train in mixed precision; if not, the type is float32.
        amp_dtype: name of a type, or ``"auto"``, see ``compute_dtype``.
        device: device of the network.

    Raises:
        ConfigError: as ``compute_dtype``.
    """
    dtype = compute_dtype(amp_dtype if amp else "float32", torch.device(device))
    return str(dtype).removeprefix("torch.")


class AutocastInferer(SimpleInferer):
    """MONAI's SimpleInferer under torch's autocast; ``train#inferer`` of train.json.

    MONAI's trainer supports autocast on CUDA only, with a separate argument for its type. Here one choice covers all
    devices; the trainer adds gradient scaling on a GPU. bfloat16 has the exponent range of float32, so a CPU does not
    need scaling.

    Args:
        precision: result of ``training_precision``.
        device: device of the network.
    """

    def __init__(self, precision: str, device: torch.device | str) -> None:
        super().__init__()
        self.device = torch.device(device)
        self.dtype = compute_dtype(precision, self.device)

    def __call__(
        self, inputs: torch.Tensor, network: nn.Module, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Logits of ``[B, C, *spatial]``, in the type of the convolutions."""
        with computing_in(self.dtype, self.device):
            logits: torch.Tensor = super().__call__(inputs, network, *args, **kwargs)
            return logits
