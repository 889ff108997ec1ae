"""The sliding window gives the blended outputs of the network on each window, and nothing else."""

import itertools

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from torch import nn

from dynunet_bundle.errors import ConfigError, PredictionError
from dynunet_bundle.inference.inferer import EMPTY_LOGIT, PatchInferer
from dynunet_bundle.networks.precision import compute_dtype, has_bfloat16

PATCH = (8, 12, 10)


def pointwise(x: torch.Tensor) -> torch.Tensor:
    """Two outputs that depend only on the voxel, not on its window."""
    return torch.cat([x[:, :1] * 2, 1 - x[:, :1]], 1)


def lopsided(x: torch.Tensor) -> torch.Tensor:
    """Outputs that depend on the position in the window, so that blending and mirroring have an effect."""
    ramp = sum(
        torch.linspace(0, axis + 1, size).reshape(
            [-1 if index == axis else 1 for index in range(x.ndim - 2)]
        )
        for axis, size in enumerate(x.shape[2:])
    )
    return torch.cat([x[:, :1] * ramp, x[:, :1] + ramp], 1)


def made(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("mode", ["gaussian", "constant"])
@pytest.mark.parametrize("shape", [(8, 12, 10), (20, 25, 17), (5, 30, 10), (3, 4, 5), (9, 12, 10)])
@pytest.mark.parametrize("batch", [1, 3])
def test_what_does_not_depend_on_the_window_is_kept(mode, shape, batch):
    image = made(2, 1, *shape)
    inferer = PatchInferer(PATCH, sw_batch_size=batch, mode=mode)
    torch.testing.assert_close(inferer(image, pointwise), pointwise(image))


def test_constant_weights_give_what_monai_gives_where_the_windows_are_the_same():
    image = made(1, 1, 16, 24, 20)
    ours = PatchInferer(PATCH, mode="constant")(image, lopsided)
    theirs = SlidingWindowInferer(PATCH, overlap=0.5, mode="constant")(image, lopsided)
    torch.testing.assert_close(ours, theirs)


def test_gaussian_weights_give_the_weighted_mean_of_all_windows():
    image = made(1, 1, 19, 31, 25)
    weights = torch.ones(())
    for size in PATCH:
        place = torch.arange(size) - size // 2
        weights = weights.unsqueeze(-1) * torch.exp(-(place**2) / (2 * (size / 8) ** 2)).double()
    total, weight = torch.zeros(2, 19, 31, 25, dtype=torch.float64), torch.zeros(19, 31, 25)
    # evenly spread: 3.67, 4.75 and 5 voxels apart, rounded
    for z, y, x in itertools.product([0, 4, 7, 11], [0, 5, 10, 14, 19], [0, 5, 10, 15]):
        region = (slice(z, z + 8), slice(y, y + 12), slice(x, x + 10))
        total[:, *region] += lopsided(image[..., *region])[0] * weights
        weight[region] += weights
    torch.testing.assert_close(PatchInferer(PATCH)(image, lopsided)[0], (total / weight).float())


def test_one_window_is_the_network_to_the_bit():
    network = nn.Conv3d(1, 3, 3, padding=1)
    image = made(1, 1, *PATCH)
    with torch.no_grad():
        assert torch.equal(PatchInferer(PATCH)(image, network), network(image))


def test_a_small_volume_is_padded_with_zeros_on_both_sides():
    seen = []
    image = made(1, 1, 5, 12, 10)
    PatchInferer(PATCH)(image, lambda x: seen.append(x) or pointwise(x))
    assert torch.equal(seen[0], F.pad(image, (0, 0, 0, 0, 1, 2)))


@pytest.mark.parametrize("axes", [[0], [2], [0, 1], [0, 1, 2]])
def test_mirroring_is_the_mean_over_all_combinations(axes):
    image = made(1, 1, *PATCH)
    flips = [
        [axis + 2 for axis in chosen]
        for size in range(len(axes) + 1)
        for chosen in itertools.combinations(axes, size)
    ]
    expected = torch.stack([lopsided(image.flip(flip)).flip(flip) for flip in flips]).mean(0)
    torch.testing.assert_close(PatchInferer(PATCH, mirror_axes=axes)(image, lopsided), expected)


def test_mirroring_leaves_the_output_of_the_network_alone():
    kept = torch.ones(1, 2, *PATCH)
    PatchInferer(PATCH, mirror_axes=[0])(made(1, 1, *PATCH), lambda x: kept)
    assert torch.equal(kept, torch.ones(1, 2, *PATCH))


def test_a_flat_patch_goes_through_a_volume_slice_by_slice():
    image = made(1, 2, 5, 20, 17)
    seen = []
    inferer = PatchInferer((12, 10), sw_batch_size=4, mirror_axes=[0, 1])
    result = inferer(image, lambda x: seen.append(tuple(x.shape)) or lopsided(x))
    # 3 x 3 windows in each of 5 slices
    assert set(seen) == {(4, 2, 12, 10), (1, 2, 12, 10)}
    slices = [
        PatchInferer((12, 10), mirror_axes=[0, 1])(image[:, :, index], lopsided)
        for index in range(5)
    ]
    torch.testing.assert_close(result, torch.stack(slices, 2))


def test_a_flat_patch_on_pictures():
    image = made(2, 3, 20, 17)
    torch.testing.assert_close(PatchInferer((12, 10))(image, pointwise), pointwise(image))


@pytest.mark.parametrize("background", [0, None])
def test_empty_windows_are_background_without_the_network(background):
    image = torch.zeros(1, 1, 32, 12, 10)
    image[..., 24:, :, :] = made(8, 12, 10)
    calls = []
    inferer = PatchInferer(PATCH, skip_empty=True, background=background)
    result = inferer(image, lambda x: calls.append(1) or pointwise(x))
    everything = []
    PatchInferer(PATCH)(image, lambda x: everything.append(1) or pointwise(x))
    assert 0 < len(calls) < len(everything)
    if background is None:
        assert torch.equal(result[0, :, 0], torch.full((2, 12, 10), -EMPTY_LOGIT))
    else:
        assert (result[0, 0, 0] == EMPTY_LOGIT).all() and (result[0, 1, 0] == 0).all()
    torch.testing.assert_close(result[..., -1, :, :], pointwise(image)[..., -1, :, :])


def test_a_volume_that_is_empty_throughout_still_has_all_outputs():
    result = PatchInferer(PATCH, skip_empty=True)(torch.zeros(1, 1, 32, 12, 10), pointwise)
    assert result.shape == (1, 2, 32, 12, 10) and torch.isfinite(result).all()


def test_meta_data_of_the_image_do_not_slow_the_windows_down():
    seen = []
    image = MetaTensor(made(1, 1, 20, 12, 10))
    result = PatchInferer(PATCH)(image, lambda x: seen.append(type(x)) or pointwise(x))
    assert set(seen) == {torch.Tensor} and type(result) is torch.Tensor


def test_memory_besides_the_result_is_that_of_a_few_windows(monkeypatch):
    largest = []
    original = torch.zeros
    monkeypatch.setattr(
        torch, "zeros", lambda *a, **k: largest.append(original(*a, **k)) or largest[-1]
    )
    PatchInferer(PATCH)(made(1, 1, 40, 40, 40), pointwise)
    volumes = [tensor for tensor in largest if tensor.numel() >= 40**3]
    assert len(volumes) == 1 and volumes[0].shape == (2, 40, 40, 40)


def test_a_device_that_is_too_small_leaves_the_result_to_the_cpu(monkeypatch, caplog):
    original = torch.zeros

    def zeros(*shape, **settings):
        if "device" in settings:
            raise torch.OutOfMemoryError
        return original(*shape, **settings)

    monkeypatch.setattr(torch, "zeros", zeros)
    image = made(1, 1, 20, 12, 10)
    torch.testing.assert_close(PatchInferer(PATCH)(image, pointwise), pointwise(image))
    assert "too small" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mirror_axes": [3]}, "mirror_axes"),
        ({"mirror_axes": [0, 0]}, "each at most once"),
        ({"overlap": 1.0}, "overlap"),
        ({"sw_batch_size": 0}, "sw_batch_size"),
        ({"precision": "int8"}, "precision"),
        ({"precision": "float16"}, "needs a GPU"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises((ConfigError, ValueError), match=message):
        PatchInferer(PATCH, **settings)(made(1, 1, *PATCH), pointwise)


def test_half_precision_computes_in_half_and_blends_in_full():
    network = nn.Conv3d(1, 2, 3, padding=1)
    types = []
    network.register_forward_hook(lambda *args: types.append(args[2].dtype))
    image = made(1, 1, 20, 12, 10)
    with torch.no_grad():
        half = PatchInferer(PATCH, precision="bfloat16", mirror_axes=[0])(image, network)
        full = PatchInferer(PATCH, mirror_axes=[0])(image, network)
    assert set(types) == {torch.bfloat16, torch.float32} and half.dtype == torch.float32
    assert 0 < (half - full).abs().max() < 0.05


def test_auto_is_what_the_device_is_fast_in(monkeypatch):
    assert compute_dtype("auto", torch.device("cuda")) == torch.float16
    for found, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda found=found: found)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        assert has_bfloat16() == found
        assert compute_dtype("auto", torch.device("cpu")) == dtype


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_logits_that_are_not_finite_are_an_error_not_a_mask(bad):
    def network(x):
        logits = torch.stack([x[:, 0], -x[:, 0]], 1)
        logits[0, 1, 3, 3, 3] = bad
        return logits

    inferer = PatchInferer([8, 8, 8])
    for size in (8, 20):
        with pytest.raises(PredictionError, match="NaN or infinite"):
            inferer(made(1, 1, size, size, size), network)


def test_large_finite_logits_are_taken():
    def network(x):
        return x.new_full((len(x), 2, *x.shape[2:]), 3e38)

    assert PatchInferer([8, 8, 8])(made(1, 1, 8, 8, 8), network).isfinite().all()
