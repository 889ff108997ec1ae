"""Numerics of a GPU (TF32, choice of algorithms), and what a CPU process does with memory that it freed."""

import ctypes
import platform

import torch

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Parameters of glibc's ``mallopt``, by malloc.h."""

TOP_PAD = 64 * 2**20
"""Bytes that the heap grows by at once."""


def set_numerics(
    tf32: bool = True, deterministic: bool = False, device: torch.device | str | None = None
) -> None:
    """Set what holds for the whole process: ``numerics`` of train.json.

    MONAI's ``set_determinism``, which seeds every config of a bundle, also forbids cuDNN to measure which algorithm is
    the fastest for a patch; that costs a training much of its speed, so it is allowed again here.

    Args:
        tf32: let float32 products on tensor cores round to 10 bits of mantissa.
        deterministic: the same bits in every run on the same GPU, where torch has such algorithms; slower.
        device: where it trains; on a CPU freed memory is kept for the next step.
    """
    if device is not None:
        keep_freed_memory(device)
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = not deterministic
    torch.use_deterministic_algorithms(deterministic, warn_only=True)


def keep_freed_memory(device: torch.device | str) -> bool:
    """Let this process keep what it frees, instead of handing it back to the system at once.

    torch has no memory pool for the CPU, and glibc takes each block above 32 MiB from the system anew, which clears it
    page by page: a fifth of a training step's time. In return the process stays as large as it has once been.

    Args:
        device: nothing is changed unless it is the CPU, where a training holds large tensors.

    Returns:
        Whether the allocator agreed; another one than glibc's is left as it is.
    """
    if torch.device(device).type != "cpu" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # -1: no limit
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, TOP_PAD))
    return all([mallopt(name, value) == 1 for name, value in settings])
