"""Numpy and the DALI graph apply the drawn parameters: compared with references, sample by sample.

Tolerances are those of float32; ``feed_reference`` computes in double precision.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import feed_reference as reference
import numpy as np
import pytest
from feed_cases import (
    DECLARED,
    SEED_LIST,
    WAYS,
    at_prob,
    coordinates,
    fed,
    loader_of,
    parts,
    place_of,
    prepare,
    source_of,
)
from nvidia.dali import fn, pipeline_def, types

from dynunet_bundle.feed.graph import Form, patch_graph
from dynunet_bundle.preprocessing.store import PreparedDataset

BATCH_SIZE, NUM_BATCHES, SEED = 4, 6, 5
PATCHES = {"3d": (8, 9, 10), "dummy 2d": (3, 10, 11), "2d": (9, 10)}
SPATIAL = ("rotation", "scaling")
INTENSITIES = [kind for kind in DECLARED if kind not in (*SPATIAL, "mirror")]
WIDE = {
    **DECLARED,
    "noise": {"std": [0.5, 1.0]},
    "brightness": {"factor": [0.5, 2.0]},
    "contrast": {"factor": [0.5, 2.0]},
    "blur": {"sigma": [0.4, 1.6], "channel_prob": 0.5},
    "low_resolution": {"zoom": [0.2, 0.9], "channel_prob": 0.5},
}
"""Every kind, so strong that a wrong one cannot hide in the tolerance."""


def compared(
    dataset: PreparedDataset,
    patch_size: tuple[int, ...],
    augmentation: dict[str, Any],
    in_graph: bool,
    **how: Any,
) -> list[tuple[np.ndarray, np.ndarray, SimpleNamespace]]:
    """For each sample: image and label from the feed, and the drawn parameters."""
    loader = loader_of(dataset, patch_size, BATCH_SIZE, NUM_BATCHES, augmentation, seed=SEED, **how)
    how.pop("zero_outside", None)
    source = source_of(dataset, patch_size, augmentation=augmentation, seed=SEED, **how)
    return [
        (image, label, parts(source.sample(number)))
        for number, (image, label) in enumerate(fed(loader, in_graph))
    ]


def textures(channels: int) -> list[np.ndarray]:
    """Values about 0 and about 3, larger and smaller than the patches."""
    rng = np.random.default_rng(0)
    middle = np.array([0.0, 3.0, -1.0])[:channels].reshape(-1, 1, 1, 1)
    spread = np.array([1.0, 0.2, 2.0])[:channels].reshape(-1, 1, 1, 1)
    shapes = [(14, 15, 16), (7, 6, 12)]
    return [rng.normal(middle, spread, (channels, *shape)).astype(np.float32) for shape in shapes]


@pytest.fixture(scope="module", params=[1, 3], ids=["1 channel", "3 channels"])
def dataset(request: Any, tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    images = textures(request.param)
    labels = [np.random.default_rng(1).integers(0, 3, image.shape[1:]) for image in images]
    return prepare(tmp_path_factory.mktemp("textures"), images, labels)


@pytest.fixture(scope="module")
def three_channels(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return prepare(tmp_path_factory.mktemp("three"), textures(3))


@pytest.mark.parametrize("form", PATCHES)
@pytest.mark.parametrize("kind", INTENSITIES)
@WAYS
def test_each_kind_alone(dataset: PreparedDataset, form: str, kind: str, in_graph: bool) -> None:
    changed = 0
    for image, label, drawn in compared(
        dataset, PATCHES[form], at_prob(1.0, {kind: WIDE[kind]}), in_graph
    ):
        expected = reference.recoloured(drawn.image, drawn)
        np.testing.assert_allclose(image, expected, rtol=2e-5, atol=5e-5)
        np.testing.assert_array_equal(label, drawn.label)
        changed += np.abs(image - drawn.image).max() > 0.02
    # a channel may be left out, and a zoom may be too small to have an effect
    assert changed >= 10


@pytest.mark.parametrize("form", PATCHES)
@pytest.mark.parametrize(
    ("kind", "wanted"), [("blur", "blur_channels"), ("low_resolution", "low_channels")]
)
@WAYS
def test_channels_that_were_not_drawn_stay_bit_for_bit(
    three_channels: PreparedDataset, form: str, kind: str, wanted: str, in_graph: bool
) -> None:
    spared = changed = 0
    config = at_prob(0.7, {kind: WIDE[kind]})
    for image, _, drawn in compared(three_channels, PATCHES[form], config, in_graph):
        channels = getattr(drawn, wanted) & getattr(drawn, f"has_{kind}")
        for after, before, hit in zip(image, drawn.image, channels, strict=True):
            assert hit != np.array_equal(after, before)
            spared, changed = spared + (not hit), changed + hit
    assert spared > 15 and changed > 10


@pytest.mark.parametrize("form", PATCHES)
@WAYS
def test_one_sigma_for_all(three_channels: PreparedDataset, form: str, in_graph: bool) -> None:
    """As in the list of NVIDIA's example."""
    for image, _, drawn in compared(
        three_channels, PATCHES[form], at_prob(1.0, {"blur": SEED_LIST["blur"]}), in_graph
    ):
        sigma = float(drawn.blur_sigma[0, 0])
        radius = int(np.ceil(3 * sigma))
        for after, before in zip(image, drawn.image, strict=True):
            blurred = reference.gaussian_filter(
                before.astype(float), sigma, mode="mirror", radius=radius
            )
            np.testing.assert_allclose(after, blurred, atol=5e-5)


@WAYS
def test_a_blur_wider_than_the_patch(tmp_path: Path, in_graph: bool) -> None:
    config = {"blur": {"prob": 1.0, "sigma": [2.0, 2.5]}}
    for image, _, drawn in compared(prepare(tmp_path, textures(1)), (3, 2, 9), config, in_graph):
        np.testing.assert_allclose(image, reference.recoloured(drawn.image, drawn), atol=5e-5)


@pytest.mark.parametrize("form", PATCHES)
@pytest.mark.parametrize("center", [0.5, -1.25, 0])
@WAYS
def test_brightness_and_contrast_are_dalis(
    three_channels: PreparedDataset, form: str, center: float, in_graph: bool
) -> None:
    settings = {**SEED_LIST["brightness_contrast"], "prob": 1.0, "center": center}
    found = compared(three_channels, PATCHES[form], {"brightness_contrast": settings}, in_graph)
    before = np.stack([drawn.image for *_, drawn in found])
    scale = np.array([drawn.scale.ravel()[0] for *_, drawn in found], np.float64)
    shift = np.array([drawn.shift.ravel()[0] for *_, drawn in found], np.float64)
    # y = b * (center + c * (x - center)) is b * center at x = center
    brightness = scale + shift / center if center else scale
    contrast = scale / brightness

    @pipeline_def(batch_size=len(found), num_threads=1, device_id=None)
    def dali() -> Any:
        values = [brightness.astype(np.float32), contrast.astype(np.float32)]
        bright, strong = (fn.external_source([list(each)], cycle=True) for each in values)
        # the operator expects channels last
        images = [np.ascontiguousarray(np.moveaxis(image, 0, -1)) for image in before]
        image = fn.external_source([images], cycle=True, layout="DHWC"[4 - images[0].ndim :])
        return fn.brightness_contrast(
            image, brightness=bright, contrast=strong, contrast_center=center, dtype=types.FLOAT
        )

    (expected,) = dali().run()
    for (image, *_), theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(image, np.moveaxis(np.asarray(theirs), -1, 0), atol=2e-5)
    if center:
        assert 0.7 - 1e-5 <= brightness.min() < brightness.max() <= 1.3 + 1e-5
        assert 0.65 - 1e-5 <= contrast.min() < contrast.max() <= 1.5 + 1e-5


@pytest.mark.parametrize("form", PATCHES)
@WAYS
def test_contrast_stretches_about_the_mean_of_each_channel_within_its_range(
    three_channels: PreparedDataset, form: str, in_graph: bool
) -> None:
    wider = 0
    config = at_prob(1.0, {"contrast": WIDE["contrast"]})
    for image, _, drawn in compared(three_channels, PATCHES[form], config, in_graph):
        for after, before, factor in zip(image, drawn.image, drawn.contrast.ravel(), strict=True):
            assert after.min() >= before.min()
            assert after.max() <= before.max()
            middle = before.mean(dtype=float)
            if factor < 1:
                # no clipping: the mean stays, the spread shrinks by the factor
                assert after.mean(dtype=float) == pytest.approx(middle, abs=1e-5)
                assert after.std() == pytest.approx(before.std() * factor, rel=1e-4)
            else:
                wider += 1
                away = np.where(before > middle, after - before, before - after)
                assert away.min() > -1e-5
                # a large factor reaches the old range but does not exceed it
                assert np.ptp(after) > np.ptp(before) - 1e-5
    assert 15 < wider < 57  # of 72 channels


@pytest.mark.parametrize("kind", ["gamma", "gamma_inverted"])
@pytest.mark.parametrize("form", PATCHES)
@WAYS
def test_gamma_keeps_mean_and_deviation_and_order(
    three_channels: PreparedDataset, form: str, kind: str, in_graph: bool
) -> None:
    for image, _, drawn in compared(
        three_channels, PATCHES[form], at_prob(1.0, {kind: {"gamma": [0.5, 2.0]}}), in_graph
    ):
        exponents = getattr(drawn, kind).ravel()
        for after, before, exponent in zip(image, drawn.image, exponents, strict=True):
            assert after.mean(dtype=float) == pytest.approx(before.mean(dtype=float), abs=1e-4)
            assert after.std(dtype=float) == pytest.approx(before.std(dtype=float), rel=1e-4)
            rising = np.argsort(before, axis=None)
            assert np.diff(after.ravel()[rising]).min() > -1e-5
            if abs(exponent - 1) > 0.2:
                # an exponent above 1 extends the tail of bright voxels, or of dark ones if inverted
                skewed = np.mean((after - after.mean()) ** 3) - np.mean(
                    (before - before.mean()) ** 3
                )
                assert (skewed > 0) == ((exponent > 1) == (kind == "gamma"))


@pytest.mark.parametrize("form", PATCHES)
@WAYS
def test_all_together_in_their_order(dataset: PreparedDataset, form: str, in_graph: bool) -> None:
    config = at_prob(0.6, WIDE)
    size = PATCHES[form]
    loader = loader_of(dataset, size, BATCH_SIZE, NUM_BATCHES, config, seed=SEED)
    pairs = fed(loader, in_graph)
    source = source_of(dataset, size, augmentation=config, seed=SEED)
    for number, (image, label) in enumerate(pairs):
        drawn = parts(source.sample(number))
        matrix, start, case = place_of(source, number)
        whole = dataset[case]
        where = reference.positions(matrix, start, (1, *size)[-3:])
        placed = reference.linear(whole["image"].numpy(), where).reshape(image.shape)
        expected = reference.mirrored(reference.recoloured(placed, drawn), drawn)
        # a map that is off by 1e-5 voxel causes larger errors in powers below 1 of the darkest voxels
        np.testing.assert_allclose(image, expected, atol=5e-3)
        assert np.abs(image - expected).mean() < 1e-4
        wanted = reference.nearest(whole["label"].numpy(), where).reshape(label.shape)
        wanted = reference.mirrored(wanted, drawn)
        assert (label == wanted)[wanted >= 0].all()


@pytest.mark.parametrize("form", PATCHES)
@WAYS
def test_image_and_label_stay_in_register_under_everything(
    tmp_path: Path, form: str, in_graph: bool
) -> None:
    # monotonic intensity changes keep the bright voxels recognisable
    blocks = np.kron(np.indices((5, 6, 7)).sum(axis=0) % 2, np.ones((4, 4, 4)))
    dataset = prepare(tmp_path, [blocks[np.newaxis].astype(np.float32)], [blocks])
    kinds = [*SPATIAL, "brightness", "contrast", "gamma", "gamma_inverted", "mirror"]
    config = at_prob(0.7, {kind: DECLARED[kind] for kind in kinds})
    for image, label, _ in compared(dataset, PATCHES[form], config, in_graph):
        low, high = image.min(), image.max()
        assert (image[label == 1] >= low).all()
        sure = np.isclose(image, low, atol=1e-4) | np.isclose(image, high, atol=1e-4)
        assert (label == (image > (low + high) / 2))[sure].all()
        assert sure.mean() > 0.1


@pytest.mark.parametrize("form", PATCHES)
@WAYS
def test_without_augmentation_patches_pass_unchanged(
    dataset: PreparedDataset, form: str, in_graph: bool
) -> None:
    for image, label, drawn in compared(dataset, PATCHES[form], {}, in_graph):
        np.testing.assert_array_equal(image, drawn.image)
        np.testing.assert_array_equal(label, drawn.label)


@pytest.mark.parametrize(
    ("patch_size", "axes"),
    [((4, 5, 6), [0]), ((4, 5, 6), [1]), ((4, 5, 6), [0, 2]), ((5, 6), [0]), ((5, 6), [1])],
)
@WAYS
def test_mirror_turns_the_declared_axes_of_image_and_label(
    tmp_path: Path, patch_size: tuple[int, ...], axes: list[int], in_graph: bool
) -> None:
    shape = (9, 8, 10)
    dims = len(patch_size)
    seen = set()
    config = {"mirror": {"prob": 0.5, "axes": axes}}
    for image, label, _ in compared(
        prepare(tmp_path, [coordinates(shape)]), patch_size, config, in_graph
    ):
        np.testing.assert_array_equal(label, image % 3)
        voxels = np.stack(np.unravel_index(image[0].astype(int) - 1, shape))[-dims:]
        flips = []
        for axis in range(dims):
            steps = np.unique(np.diff(voxels[axis], axis=axis))
            assert steps.tolist() in ([1], [-1])  # one step per voxel, all in one direction
            flips.append(int(steps[0] == -1))
        seen.add(tuple(flips))
    expected = np.zeros((2 ** len(axes), dims), int)
    expected[:, axes] = np.array(np.meshgrid(*[[0, 1]] * len(axes))).reshape(len(axes), -1).T
    assert seen == set(map(tuple, expected.tolist()))


@pytest.mark.parametrize("form", PATCHES)
@WAYS
def test_zero_outside_keeps_what_was_zero(tmp_path: Path, form: str, in_graph: bool) -> None:
    volumes = textures(2)
    for volume in volumes:
        volume[0, :, :3] = 0
        volume[1, :, :, 5:] = 0  # each channel separately
    dataset = prepare(tmp_path, volumes)
    config = at_prob(0.8, WIDE, but=SPATIAL)
    kept = 0
    for image, _, drawn in compared(dataset, PATCHES[form], config, in_graph, zero_outside=True):
        zero = drawn.image == 0
        expected = reference.recoloured(drawn.image, drawn)
        expected = reference.mirrored(np.where(zero, 0, expected), drawn)
        np.testing.assert_allclose(image, expected, atol=2e-4)
        assert not image[reference.mirrored(zero, drawn)].any()
        kept += int(zero.sum())
    assert kept > 500
    free = compared(dataset, PATCHES[form], config, in_graph)
    assert any(image[reference.mirrored(drawn.image == 0, drawn)].any() for image, _, drawn in free)


@pytest.mark.parametrize("form", PATCHES)
@WAYS
def test_zero_outside_knows_what_rotation_brings_in(
    tmp_path: Path, form: str, in_graph: bool
) -> None:
    dataset = prepare(tmp_path, [np.ones((1, 14, 15, 16), np.float32)])
    config = {**at_prob(1.0, WIDE), "mirror": {"prob": 0.0, "axes": []}}
    how = {"zero_outside": True, "oversampling": 0}
    # the position is drawn before the intensities
    placed = {kind: config[kind] for kind in SPATIAL}
    before = compared(dataset, PATCHES[form], placed, in_graph, **how)
    after = compared(dataset, PATCHES[form], config, in_graph, **how)
    corners = 0
    for (image, *_), (plain, *_) in zip(after, before, strict=True):
        assert not image[plain == 0].any()
        assert image[plain != 0].all()
        corners += int((plain == 0).sum())
    assert corners > 20


@pytest.mark.parametrize("value", [0.0, 5.0, -2.5, 1e-3])
@pytest.mark.parametrize("form", PATCHES)
@WAYS
def test_a_constant_image_stays_constant(
    tmp_path: Path, form: str, value: float, in_graph: bool
) -> None:
    """A range or deviation of zero must not give NaN: only brightness changes the image."""
    volume = np.full((2, 40, 40, 40), value, np.float32)
    config = at_prob(1.0, WIDE, but=["noise"])
    for image, _, drawn in compared(
        prepare(tmp_path, [volume]), PATCHES[form], config, in_graph, center_crop=True
    ):
        expected = value * drawn.scale.astype(float) + drawn.shift
        np.testing.assert_allclose(image, np.broadcast_to(expected, image.shape), 1e-5, 1e-6)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("form", PATCHES)
@WAYS
def test_a_float16_store_is_computed_in_float32(
    tmp_path: Path, channels: int, form: str, in_graph: bool
) -> None:
    dataset = prepare(tmp_path, textures(channels), dtype="float16")
    config = at_prob(0.8, WIDE, but=SPATIAL)
    for image, label, drawn in compared(dataset, PATCHES[form], config, in_graph):
        assert image.shape == (channels, *PATCHES[form])
        expected = reference.mirrored(reference.recoloured(drawn.image, drawn), drawn)
        # float16 arithmetic would be off by about 1e-3
        np.testing.assert_allclose(image, expected, rtol=2e-5, atol=2e-4)
        np.testing.assert_array_equal(label, reference.mirrored(drawn.label, drawn))


@pytest.mark.parametrize("form", PATCHES)
@pytest.mark.parametrize("float16", [True, False])
def test_the_graph_for_a_gpu_can_be_drawn_up_without_one(
    three_channels: PreparedDataset, form: str, float16: bool
) -> None:
    """DALI then rejects graphs that mix devices; the dense work must not be on the CPU."""
    source = source_of(three_channels, PATCHES[form], augmentation=DECLARED)
    fixed = Form(3, PATCHES[form], float16, True, source.in_plane, True, gpu=True)
    pipeline = patch_graph(
        source=source, form=fixed, parallel=False, batch_size=2, num_threads=1, device_id=0
    )
    pipeline._build_graph()
    nodes = [output for op in pipeline._ops for output in op.outputs]
    dense = ("Warp", "Resize", "Gaussian", "Reductions", "Flip", "Cat", "Cast", "Slice", "Math")
    found = {word: {n.device for n in nodes if word in n.name} for word in dense}
    assert all(devices <= {"gpu"} for devices in found.values())
    assert found["Warp"] and found["Resize"] and found["Gaussian"] and found["Flip"]
