"""The intensity augmentations on a CPU, in numpy: the same formulas as in ``graph.py``, one channel at a time.

In place and channel by channel, arrays fit into the cache and their memory is reused. Nothing here uses threads, so
sums do not depend on the number of threads.
"""

import numpy as np

from dynunet_bundle.feed.augmentation import EPSILON
from dynunet_bundle.feed.cpu_interpolation import blurred, low_resolution_taps, resampled
from dynunet_bundle.feed.draws import Draw

ROW = 512
"""Number of values summed in float32; the sums of rows are then added in double precision."""


def recolour(image: np.ndarray, drawn: Draw) -> None:
    """Apply noise, blur, brightness, contrast, low resolution and gamma, in nnU-Net's order, in place.

    Args:
        image: ``[C, *spatial]`` float32, contiguous.
        drawn: the drawn parameters.
    """
    if drawn.has_noise:
        image += drawn.noise
    for index, channel in enumerate(image):
        _recolour(channel, drawn, index)


def is_recoloured(drawn: Draw) -> bool:
    """Whether any intensity augmentation was drawn."""
    return bool(
        drawn.has_noise
        or drawn.has_blur
        or drawn.has_linear
        or drawn.has_contrast
        or drawn.has_low_resolution
        or drawn.has_gamma_inverted
        or drawn.has_gamma
    )


def _recolour(channel: np.ndarray, drawn: Draw, index: int) -> None:
    if drawn.has_blur and drawn.blur_channels[index]:
        channel[...] = blurred(channel, drawn.blur_sigma[index].tolist())
    if drawn.has_linear:
        channel *= drawn.scale.item(index)
        if shift := drawn.shift.item(index):
            channel += shift
    if drawn.has_contrast:
        _contrast(channel, drawn.contrast.item(index))
    if drawn.has_low_resolution and drawn.low_channels[index]:
        _low_resolution(channel, drawn.low_size[index])
    if drawn.has_gamma_inverted:
        _gamma(channel, drawn.gamma_inverted.item(index), inverted=True)
    if drawn.has_gamma:
        _gamma(channel, drawn.gamma.item(index), inverted=False)


def _contrast(channel: np.ndarray, factor: float) -> None:
    """``(x - mean) * factor + mean``, clipped to the old range."""
    low, high = channel.min(), channel.max()
    mean = _mean_and_deviation(channel)[0]
    channel *= factor
    channel += mean - mean * factor
    np.minimum(np.maximum(channel, low, out=channel), high, out=channel)


def _low_resolution(channel: np.ndarray, size: np.ndarray) -> None:
    lengths = zip(channel.shape, size.tolist(), strict=True)
    taps = [low_resolution_taps(now, int(low)) if low < now else None for now, low in lengths]
    channel[...] = resampled(channel, taps)


def _gamma(channel: np.ndarray, gamma: float, inverted: bool) -> None:
    """``((x - low) / range) ** gamma``, restored to the old mean and standard deviation.

    If ``inverted``, this is applied to ``-x``. nnU-Net's intermediate step (back to the old range) cancels out.
    """
    low, high = channel.min(), channel.max()
    # in this form rounding never gives a negative base, for which the power is undefined
    if inverted:
        np.subtract(high, channel, out=channel)
    else:
        channel -= low
    from_zero, deviation = _mean_and_deviation(channel)
    mean = float(high) - from_zero if inverted else float(low) + from_zero
    channel *= 1 / max(float(high) - float(low), EPSILON)
    np.power(channel, np.float32(gamma), out=channel)
    new_mean, new_deviation = _mean_and_deviation(channel)
    back = deviation / max(new_deviation, EPSILON)
    back = -back if inverted else back
    channel *= back
    channel += mean - new_mean * back


def _mean_and_deviation(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of contiguous float32, exact to 1e-6 of the root mean square."""
    flat = values.reshape(-1)
    whole = flat.size - flat.size % ROW
    total = squares = 0.0
    parts = [flat[:whole].reshape(-1, ROW)]
    if whole < flat.size:
        parts.append(flat[np.newaxis, whole:])
    for part in parts:
        total += float(np.einsum("ij->i", part).sum(dtype=float))
        squares += float(_squares(part).sum(dtype=float))
    mean = total / flat.size
    return mean, max(squares / flat.size - mean**2, 0.0) ** 0.5


def _squares(rows: np.ndarray) -> np.ndarray:
    """Sum of squares of each row; ``vecdot`` is faster, but MONAI Label's environment has a NumPy without it."""
    if hasattr(np, "vecdot"):
        sums: np.ndarray = np.vecdot(rows, rows)
        return sums
    return np.einsum("ij,ij->i", rows, rows)
