"""Memory that a training on a CPU frees and takes again at each step."""

import ctypes
import platform

import torch

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Parameters of glibc's ``mallopt``, by malloc.h."""

TOP_PAD = 64 * 2**20


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
