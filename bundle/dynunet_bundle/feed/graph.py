"""The DALI graph: applies the parameters drawn by the source, in 2D and 3D, on a GPU.

It never draws random numbers, so its output depends on its input only, not on threads, prefetching or ranks. Branches
are ``if``s on a flag of each sample, so only drawn augmentations are computed. Images are ``[C, D, H, W]`` or
``[C, H, W]``.
"""

from dataclasses import dataclass
from typing import Any

from nvidia.dali import fn, math, pipeline_def, types

from dynunet_bundle.feed.augmentation import EPSILON
from dynunet_bundle.feed.cpu_batches import FinishedBatches
from dynunet_bundle.feed.source import PatchSource
from dynunet_bundle.feed.spatial import AFFINE, SCALE

LAYOUTS = {2: "CHW", 3: "CDHW"}
WARP_LAYOUTS = {2: "FHWC", 3: "FDHWC"}
"""Layouts for ``warp_affine``, which expects channels last: our channels become frames of one channel each."""

FLIPS = ("depthwise", "vertical", "horizontal")
"""DALI's names of the flips along the last three axes, in the order of the axes."""

FLAG, REAL, WHOLE = types.BOOL, types.FLOAT, types.INT32
SAMPLE_TYPES = (
    *(types.UINT8, WHOLE, REAL, REAL),  # label, kind, window
    *(FLAG, REAL),  # noise
    *(FLAG, FLAG, REAL),  # blur
    *(FLAG, REAL, REAL),  # linear
    *(FLAG, REAL),  # contrast
    *(FLAG, FLAG, REAL),  # low resolution
    *(FLAG, REAL),  # inverted gamma
    *(FLAG, REAL),  # gamma
    *(WHOLE, REAL),  # flips, matrix
)
"""Types of the source's outputs after the image; in a cascade the previous mask follows as the last one."""


@dataclass(frozen=True)
class Form:
    """Settings that are the same for all samples of a feed.

    Attributes:
        channels: number of channels.
        patch_size: voxels per axis, two or three values.
        float16: whether the source gives float16.
        cubic: whether scaled images are interpolated by cubic convolution instead of linearly.
        in_plane: whether patches are rotated about the first of three axes only.
        zero_outside: whether voxels that were zero before the intensity changes are reset to zero, per channel.
        gpu: whether to compute on the pipeline's GPU; tests use the CPU.
        num_masks: in a cascade, number of foreground classes of the previous stage; else 0.
    """

    channels: int
    patch_size: tuple[int, ...]
    float16: bool = False
    cubic: bool = False
    in_plane: bool = False
    zero_outside: bool = False
    gpu: bool = False
    num_masks: int = 0

    @property
    def dims(self) -> int:
        """2 or 3."""
        return len(self.patch_size)

    @property
    def size(self) -> list[float]:
        """The patch size as floats, for DALI."""
        return [float(voxels) for voxels in self.patch_size]

    @property
    def axes(self) -> list[int]:
        """Spatial axes of an image."""
        return list(range(1, self.dims + 1))


@pipeline_def(enable_conditionals=True)
def patch_graph(source: PatchSource, form: Form, parallel: bool) -> tuple[Any, Any]:
    """Build the graph; it also takes the arguments of ``nvidia.dali.Pipeline`` (batch_size, num_threads, ...).

    Args:
        source: source of the regions and the drawn parameters.
        form: settings that are the same for all samples.
        parallel: whether worker processes call the source.

    Returns:
        Image ``[C, *patch]`` float32 and label ``[1, *patch]`` uint8 of each sample; in a cascade the masks of the
        previous stage are the last channels of the image.
    """
    dtypes = [types.FLOAT16 if form.float16 else REAL, *SAMPLE_TYPES]
    if form.num_masks:
        dtypes.append(types.UINT8)
    given = fn.external_source(
        source=source, num_outputs=len(dtypes), batch=False, parallel=parallel, dtype=dtypes
    )
    sample, previous = given[: len(SAMPLE_TYPES) + 1], given[-1]
    image, label, kind, start, end = sample[:5]
    flips, matrix = sample[-2:]
    if form.gpu:
        image, label = image.gpu(), label.gpu()
    image = fn.reinterpret(fn.cast(image, dtype=REAL), layout=LAYOUTS[form.dims])
    label = fn.reinterpret(label, layout=LAYOUTS[form.dims])
    image, label = _placed(form, image, label, kind, matrix, start, end)
    before = image
    image = _recoloured(form, image, sample[5:-2])
    if form.zero_outside:
        image = image * fn.cast(before != 0.0, dtype=REAL)
    flip = {name: flips[axis] for axis, name in enumerate(FLIPS[-form.dims :])}
    image = fn.flip(image, **flip)
    if form.num_masks:
        image = fn.cat(image, fn.flip(_masks(form, previous), **flip), axis=0)
    return image, fn.flip(label, **flip)


@pipeline_def
def finished_graph(source: FinishedBatches, parallel: bool, num_workers: int) -> tuple[Any, Any]:
    """Build a graph that passes finished patches through; further arguments as in ``patch_graph``.

    Args:
        source: source that computes the patches.
        parallel: whether worker processes call the source, each for a batch at a time.
        num_workers: number of worker processes.

    Returns:
        Image ``[C, *patch]`` float32 and label ``[1, *patch]`` uint8 of each sample.
    """
    ahead: dict[str, Any] = {"prefetch_queue_depth": max(num_workers, 1)} if parallel else {}
    image, label = fn.external_source(
        source=source,
        num_outputs=2,
        batch=True,
        batch_info=True,
        parallel=parallel,
        dtype=[REAL, types.UINT8],
        **ahead,
    )
    return image, label


def _masks(form: Form, previous: Any) -> Any:
    """The previous mask as one channel per foreground class, from class numbers ``[1, *patch]`` of the source."""
    classes = fn.squeeze(_placed_like(form, previous), axes=0)
    channels = fn.one_hot(classes, num_classes=form.num_masks + 1, axis=0)
    foreground = fn.slice(channels, start=[1], shape=[form.num_masks], axes=[0])
    return fn.reinterpret(foreground, layout=LAYOUTS[form.dims])


def _placed(
    form: Form, image: Any, label: Any, kind: Any, matrix: Any, start: Any, end: Any
) -> tuple[Any, Any]:
    """The patch, cropped, scaled or rotated from its region."""
    if kind == AFFINE:
        image, label = _warped(form, image, matrix, True), _warped(form, label, matrix, False)
    else:
        image, label = _scaled(form, image, label, kind, start, end)
    return image, label


def _scaled(form: Form, image: Any, label: Any, kind: Any, start: Any, end: Any) -> tuple[Any, Any]:
    interpolation = types.INTERP_CUBIC if form.cubic else types.INTERP_LINEAR
    if kind == SCALE:
        window = {"size": form.size, "roi_start": start, "roi_end": end, "antialias": False}
        image = fn.resize(image, interp_type=interpolation, **window)
        label = fn.resize(label, interp_type=types.INTERP_NN, **window)
    return image, label


def _warped(form: Form, volume: Any, matrix: Any, is_image: bool) -> Any:
    interpolation = types.INTERP_LINEAR if is_image else types.INTERP_NN
    channels = form.channels if is_image else 1
    dims, size = form.dims, form.size
    if form.in_plane and dims == 3:
        dims, size = 2, size[1:]
        volume = fn.reshape(volume, rel_shape=[-1.0, 1.0, 1.0], src_dims=[-1, 2, 3])
    frames = fn.reinterpret(fn.expand_dims(volume, axes=dims + 1), layout=WARP_LAYOUTS[dims])
    warped = fn.warp_affine(
        frames, matrix=matrix, size=size, fill_value=0, interp_type=interpolation
    )
    return fn.reshape(warped, shape=[channels, *form.patch_size], layout=LAYOUTS[form.dims])


def _recoloured(form: Form, image: Any, drawn: Any) -> Any:
    """Apply noise, blur, brightness, contrast, low resolution and gamma, in nnU-Net's order."""
    has_noise, noise, has_blur, blurred, sigma, has_linear, scale, shift = drawn[:8]
    has_contrast, contrast, has_low, lowered, low_size = drawn[8:13]
    has_inverted, inverted, has_gamma, gamma = drawn[13:]
    if has_noise:
        image = image + _placed_like(form, noise)
    if has_blur:
        image = _each_channel(form, image, blurred, sigma, _blurred)
    if has_linear:
        image = image * _placed_like(form, scale) + _placed_like(form, shift)
    if has_contrast:
        image = _contrasted(form, image, _placed_like(form, contrast))
    if has_low:
        image = _each_channel(form, image, lowered, low_size, _low_resolution)
    if has_inverted:
        image = _with_gamma(form, image, _placed_like(form, inverted), True)
    if has_gamma:
        image = _with_gamma(form, image, _placed_like(form, gamma), False)
    return image


def _placed_like(form: Form, values: Any) -> Any:
    return values.gpu() if form.gpu else values


def _each_channel(form: Form, image: Any, wanted: Any, parameters: Any, change: Any) -> Any:
    """Apply ``change`` to the wanted channels, each with its own row of parameters."""
    if form.channels == 1:
        # always true, but DALI warns about an unused output
        if wanted[0]:
            image = change(form, image, parameters[0])
        return image
    parts = []
    for channel in range(form.channels):
        # keyword arguments: DALI copies constant inputs to the GPU and waits for them
        part = fn.slice(image, start=[channel], shape=[1], axes=[0])
        if wanted[channel]:
            part = change(form, part, parameters[channel])
        parts.append(part)
    return fn.cat(*parts, axis=0)


def _blurred(form: Form, channel: Any, sigma: Any) -> Any:
    return fn.gaussian_blur(channel, sigma=sigma)


def _low_resolution(form: Form, channel: Any, size: Any) -> Any:
    small = fn.resize(channel, size=size, interp_type=types.INTERP_NN)
    return fn.resize(small, size=form.size, interp_type=types.INTERP_LINEAR, antialias=False)


def _contrasted(form: Form, image: Any, factor: Any) -> Any:
    """``(x - mean) * factor + mean`` per channel, clipped to the old range."""
    mean = fn.reductions.mean(image, axes=form.axes, keep_dims=True)
    low = fn.reductions.min(image, axes=form.axes, keep_dims=True)
    high = fn.reductions.max(image, axes=form.axes, keep_dims=True)
    return math.clamp(image * factor + (mean - mean * factor), low, high)


def _with_gamma(form: Form, image: Any, gamma: Any, inverted: bool) -> Any:
    """``((x - low) / range) ** gamma`` per channel, restored to the old mean and standard deviation.

    If ``inverted``, this is applied to ``-x``. nnU-Net's intermediate step (back to the old range) cancels out.
    """
    low = fn.reductions.min(image, axes=form.axes, keep_dims=True)
    high = fn.reductions.max(image, axes=form.axes, keep_dims=True)
    mean = fn.reductions.mean(image, axes=form.axes, keep_dims=True)
    deviation = fn.reductions.std_dev(image, mean, axes=form.axes, keep_dims=True)
    factor = 1.0 / math.max(high - low, EPSILON)
    # in this form rounding never gives a negative base, for which the power is undefined
    unit = (high - image) * factor if inverted else (image - low) * factor
    changed = math.pow(unit, gamma)
    new_mean = fn.reductions.mean(changed, axes=form.axes, keep_dims=True)
    new_deviation = fn.reductions.std_dev(changed, new_mean, axes=form.axes, keep_dims=True)
    back = deviation / math.max(new_deviation, EPSILON)
    if inverted:
        back = -back
    return changed * back + (mean - new_mean * back)
