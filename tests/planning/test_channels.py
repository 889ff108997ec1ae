"""Channels of one name are told once."""

import pytest

from dynunet_bundle.planning.channels import channel_names_text, normalization_text


@pytest.mark.parametrize(
    ("names", "schemes", "told", "normalized"),
    [
        (["CT"], ["ct"], "CT", "CT ct"),
        (["MRI"], ["zscore"], "MRI", "MRI zscore"),
        (["T1", "T2"], ["zscore", "zscore"], "T1, T2", "T1 zscore, T2 zscore"),
        (
            ["rgb_to_0_1"] * 3,
            ["rgb_to_0_1"] * 3,
            "3 colour channels",
            "rgb_to_0_1 for each channel",
        ),
        (["zscore"] * 2, ["zscore"] * 2, "2 channels zscore", "zscore for each channel"),
        (["a", "a", "b"], ["none"] * 3, "a, a, b", "a none, b none"),
    ],
)
def test_channels_are_told_once(
    names: list[str], schemes: list[str], told: str, normalized: str
) -> None:
    assert channel_names_text(names) == told
    assert normalization_text(names, schemes) == normalized
