"""Arguments of small DynUNets, with unequal strides and kernels."""

from typing import Any

FLAT: dict[str, Any] = {
    "spatial_dims": 2,
    "kernel_size": [[3, 3]] * 4,
    "strides": [[1, 1], [2, 2], [1, 2], [2, 2]],
}
SOLID: dict[str, Any] = {
    "spatial_dims": 3,
    "kernel_size": [[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]],
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]],
}
COMMON: dict[str, Any] = {
    "in_channels": 2,
    "out_channels": 3,
    "filters": [12, 16, 24, 32],
    "norm_name": ["INSTANCE", {"affine": True}],
    "act_name": ["leakyrelu", {"inplace": True, "negative_slope": 0.01}],
    "trans_bias": True,
}
