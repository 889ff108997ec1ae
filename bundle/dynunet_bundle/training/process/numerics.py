"""Process-wide settings: GPU numerics (TF32, choice of algorithms) and the CPU allocator."""

import ctypes
import platform

import torch

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Parameters of glibc's ``mallopt``, from malloc.h."""

TOP_PAD = 64 * 2**20
"""Step in which the heap grows, in bytes: few system calls per training step."""


def set_numerics(
    tf32: bool = True, deterministic: bool = False, device: torch.device | str | None = None
) -> None:
    """Apply process-wide numerical settings: ``numerics`` of train.json.

    MONAI's ``set_determinism``, which seeds every config of a bundle, also turns off cuDNN's benchmark mode. Training
    is much slower without it, so it is turned on again here.

    Args:
        tf32: allow TF32 (10 bits of mantissa) for float32 products on tensor cores.
        deterministic: bitwise equal runs on the same GPU, as far as torch has deterministic algorithms; slower.
        device: device of the training; on a CPU freed memory is kept for the next step.
    """
    if device is not None:
        keep_freed_memory(device)
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = not deterministic
    torch.use_deterministic_algorithms(deterministic, warn_only=True)


def keep_freed_memory(device: torch.device | str) -> bool:
    """Keep freed memory in this process instead of returning it to the system at once.

    torch does not pool CPU memory, and glibc requests each block above 32 MiB from the system, which zeroes it page
    by page: a fifth of a training step's time. In return the process never shrinks.

    Args:
        device: device of the training; without effect unless it is the CPU.

    Returns:
        Whether the settings were accepted; False for allocators other than glibc's.
    """
    if torch.device(device).type != "cpu" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # -1: no limit
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, TOP_PAD))
    return all([mallopt(name, value) == 1 for name, value in settings])
