"""How exactly a GPU computes, TF32 and the choice of algorithms; and what a CPU does with freed memory."""

import torch

from dynunet_bundle.training.process.allocator import keep_freed_memory


def set_numerics(
    tf32: bool = True, deterministic: bool = False, device: torch.device | str | None = None
) -> None:
    """Set what holds for the whole process.

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
