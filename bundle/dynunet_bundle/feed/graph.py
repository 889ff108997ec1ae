"""The DALI graph: applies what the source drew, in 2D and 3D alike, on the CPU or on a GPU.

It draws nothing itself, so its output depends on its input only, not on threads, prefetching or ranks. Branches are
``if``s on a flag of each sample: what was not drawn is not computed.
"""

from typing import Any

from nvidia.dali import fn, math, pipeline_def, types

from dynunet_bundle.feed.source import PatchSource

LAYOUTS = {2: "CHW", 3: "CDHW"}
FLIPS = ("depthwise", "vertical", "horizontal")
"""DALI's names of the flips along the last three axes, in the order of the axes."""

SAMPLE_TYPES = (
    (types.UINT8, types.FLOAT, types.BOOL) + (types.FLOAT, types.BOOL) * 2 + (types.INT32,)
)
"""Types of what the source gives after the image: label, noise, brightness, contrast, flips."""


@pipeline_def(enable_conditionals=True)
def patch_graph(
    source: PatchSource,
    spatial_dims: int,
    image_type: types.DALIDataType,
    parallel: bool,
    gpu: bool,
) -> tuple[Any, Any]:
    """Build the graph; the arguments of ``nvidia.dali.Pipeline`` (batch_size, num_threads, ...) come on top.

    Args:
        source: what to read and which parameters to apply.
        spatial_dims: 2 or 3.
        image_type: type of the stored image.
        parallel: whether worker processes call the source.
        gpu: whether the dense work is done on the pipeline's GPU.

    Returns:
        Image ``[C, *patch]`` float32 and label ``[1, *patch]`` uint8 of each sample.
    """
    image, label, noise, has_noise, brightness, has_brightness, contrast, has_contrast, flips = (
        fn.external_source(
            source=source,
            num_outputs=9,
            batch=False,
            parallel=parallel,
            dtype=[image_type, *SAMPLE_TYPES],
        )
    )
    axes = list(range(1, spatial_dims + 1))
    if gpu:
        image, label, noise = image.gpu(), label.gpu(), noise.gpu()
        brightness, contrast = brightness.gpu(), contrast.gpu()
    image = fn.cast(image, dtype=types.FLOAT)
    if has_noise:
        image = image + noise
    if has_brightness:
        image = image * brightness
    if has_contrast:
        mean = fn.reductions.mean(image, axes=axes, keep_dims=True)
        low = fn.reductions.min(image, axes=axes, keep_dims=True)
        high = fn.reductions.max(image, axes=axes, keep_dims=True)
        image = math.clamp((image - mean) * contrast + mean, low, high)
    image = fn.reinterpret(image, layout=LAYOUTS[spatial_dims])
    label = fn.reinterpret(label, layout=LAYOUTS[spatial_dims])
    flip = {name: flips[axis] for axis, name in enumerate(FLIPS[-spatial_dims:])}
    return fn.flip(image, **flip), fn.flip(label, **flip)
