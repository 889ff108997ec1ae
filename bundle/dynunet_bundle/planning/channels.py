"""The channels of a plan in words: channels of one name are told once."""

from collections.abc import Sequence

COLOUR_SCHEME = "rgb_to_0_1"
COLOURS = 3


def channel_names_text(names: Sequence[str]) -> str:
    """``"T1, T2"``; of several channels with one name ``"3 colour channels"`` or ``"2 channels zscore"``."""
    if len(names) == 1 or len(set(names)) > 1:
        return ", ".join(names)
    if names[0].casefold() == COLOUR_SCHEME:
        return f"{len(names)} colour channels"
    return f"{len(names)} channels {names[0]}"


def normalization_text(names: Sequence[str], schemes: Sequence[str]) -> str:
    """``"T1 zscore, T2 zscore"``; channels of one name are told once.

    Args:
        names: one name per channel.
        schemes: the normalization of each channel.
    """
    pairs = dict.fromkeys(zip(names, schemes, strict=True))
    if len(names) > 1 == len(pairs):
        return f"{schemes[0]} for each channel"
    return ", ".join(f"{name} {scheme}" for name, scheme in pairs)


def default_channel_names(count: int) -> list[str]:
    """Names of channels that the data set does not name.

    Args:
        count: number of channels.
    """
    return ["R", "G", "B"] if count == COLOURS else [f"channel_{index}" for index in range(count)]
