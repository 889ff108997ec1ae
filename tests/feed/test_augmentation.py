"""The declaration of the augmentation is checked and completed; the shipped configs are valid."""

import json
import math
from typing import Any

import pytest
from conftest import BUNDLE

from dynunet_bundle.errors import ConfigError
from dynunet_bundle.feed.augmentation import (
    Augmentation,
    default_degrees,
    rotates_in_plane,
)

WHOLE = {
    "rotation": {"prob": 0.2, "degrees": [-30, 30]},
    "scaling": {"prob": 0.2, "factor": [0.7, 1.4], "interpolation": "cubic"},
    "noise": {"prob": 0.1, "std": [0, 0.1]},
    "blur": {"prob": 0.2, "sigma": [0.5, 1.0], "channel_prob": 0.5, "per_axis": False},
    "brightness": {"prob": 0.15, "factor": [0.75, 1.25]},
    "brightness_contrast": {
        "prob": 0.15,
        "brightness": [0.7, 1.3],
        "contrast": [0.65, 1.5],
        "center": 0.5,
    },
    "contrast": {"prob": 0.15, "factor": [0.75, 1.25]},
    "low_resolution": {"prob": 0.25, "zoom": [0.5, 1], "channel_prob": 0.5},
    "gamma_inverted": {"prob": 0.1, "gamma": [0.7, 1.5]},
    "gamma": {"prob": 0.3, "gamma": [0.7, 1.5]},
    "mirror": {"prob": 0.5, "axes": [0, 1, 2]},
}
"""Every kind with every setting."""
MAY_LACK = {
    ("rotation", "degrees"): None,
    ("scaling", "interpolation"): "linear",
    ("blur", "channel_prob"): 1.0,
    ("blur", "per_axis"): True,
    ("low_resolution", "channel_prob"): 1.0,
}
SETTINGS = [(kind, setting) for kind, settings in WHOLE.items() for setting in settings]
RANGES = [(kind, setting) for kind, setting in SETTINGS if isinstance(WHOLE[kind][setting], list)]
RANGES.remove(("mirror", "axes"))
POSITIVE = [
    (kind, setting)
    for kind, setting in RANGES
    if (kind, setting) not in [("rotation", "degrees"), ("noise", "std")]
]


def declared(kind: str, **settings: Any) -> Augmentation:
    return Augmentation.from_config({kind: {**WHOLE[kind], **settings}})


def test_every_kind_and_setting_is_read() -> None:
    augmentation = Augmentation.from_config(WHOLE)
    assert set(augmentation.kinds) == set(WHOLE)
    for kind, settings in WHOLE.items():
        assert augmentation.prob(kind) == settings["prob"]
        for setting, value in settings.items():
            expected = tuple(value) if isinstance(value, list) else value
            assert augmentation.setting(kind, setting, "absent") == expected


def test_kinds_that_are_absent_are_off() -> None:
    augmentation = Augmentation.from_config({})
    assert [augmentation.prob(kind) for kind in WHOLE] == [0.0] * len(WHOLE)
    assert augmentation.setting("scaling", "factor", (1, 1)) == (1, 1)


@pytest.mark.parametrize(("kind", "setting"), SETTINGS)
def test_a_missing_setting_is_named_or_has_its_default(kind: str, setting: str) -> None:
    config = {kind: {name: value for name, value in WHOLE[kind].items() if name != setting}}
    if (kind, setting) in MAY_LACK:
        found = Augmentation.from_config(config).setting(kind, setting, "absent")
        assert found == MAY_LACK[kind, setting]
    else:
        with pytest.raises(ConfigError, match=rf"{kind} lacks .*\b{setting}\b"):
            Augmentation.from_config(config)


@pytest.mark.parametrize(
    ("config", "hint"),
    [
        ({"nois": {"prob": 0.1}}, '"nois" .*"noise"'),
        ({"brightnes": {}}, '"brightnes" .*"brightness"'),
        ({"rotate": {}}, '"rotate" .*"rotation"'),
        ({"zoom": {}}, '"zoom" .*rotation, scaling, noise, .*mirror'),
        ({"flip": {}}, "rotation, .*noise, blur, brightness, .*contrast, .*mirror"),
        ({"lowresolution": {}}, '"low_resolution"'),
        ({"gamma_invert": {}}, '"gamma_inverted"'),
        ({"brightness-contrast": {}}, '"brightness_contrast"'),
        ({"noise": {"sdt": [0, 1]}}, '"sdt" .*noise.*"std"'),
        ({"mirror": {"axis": [0]}}, '"axis" .*mirror.*"axes"'),
        ({"contrast": {"std": [0, 1]}}, '"std" .*contrast.*prob, factor'),
        ({"blur": {"per_channel": 0.5}}, '"per_channel" .*blur'),
        ({"scaling": {"interpolate": "cubic"}}, '"interpolate" .*scaling.*"interpolation"'),
        ({"rotation": {"degree": [0, 1]}}, '"degree" .*rotation.*"degrees"'),
    ],
)
def test_an_unknown_name_or_setting_is_refused_with_the_nearest(
    config: dict[str, Any], hint: str
) -> None:
    with pytest.raises(ConfigError, match=hint):
        Augmentation.from_config(config)


@pytest.mark.parametrize("settings", [0.5, None, [0.5, [0, 1]], "on"])
@pytest.mark.parametrize("kind", WHOLE)
def test_an_entry_without_named_settings_is_refused(kind: str, settings: Any) -> None:
    with pytest.raises(ConfigError, match=kind):
        Augmentation.from_config({kind: settings})


@pytest.mark.parametrize(
    ("kind", "setting"),
    [(kind, setting) for kind, setting in SETTINGS if setting in ("prob", "channel_prob")],
)
@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan, math.inf, "0.5", None, [0.5], True])
def test_a_probability_outside_0_to_1_is_refused(kind: str, setting: str, share: Any) -> None:
    with pytest.raises(ConfigError, match=f"{kind}: {setting}"):
        declared(kind, **{setting: share})
    for fine in (0, 1, 0.25):
        assert declared(kind, **{setting: fine}).setting(kind, setting, None) == fine


@pytest.mark.parametrize(("kind", "setting"), RANGES)
@pytest.mark.parametrize(
    "limits",
    [
        [0.9, 0.8],
        [0.5],
        [],
        [0.5, 0.8, 0.9],
        0.5,
        "0.5",
        ["a", "b"],
        {"low": 0.5, "high": 0.8},
        [True, 1.0],
        [False, True],
        [math.nan, 1.0],
        [0.5, math.nan],
        [0.5, math.inf],
        [-math.inf, 1.0],
        [None, 1.0],
    ],
)
def test_a_range_that_is_no_pair_is_refused(kind: str, setting: str, limits: Any) -> None:
    with pytest.raises(ConfigError, match=f"{kind}: {setting}"):
        declared(kind, **{setting: limits})


@pytest.mark.parametrize(("kind", "setting"), RANGES)
def test_no_range_but_that_of_rotation_may_be_null(kind: str, setting: str) -> None:
    if (kind, setting) == ("rotation", "degrees"):
        assert declared(kind, degrees=None).setting(kind, setting, "absent") is None
    else:
        with pytest.raises(ConfigError, match=f"{kind}: {setting} is None"):
            declared(kind, **{setting: None})


@pytest.mark.parametrize(("kind", "setting"), POSITIVE)
@pytest.mark.parametrize("limits", [[0, 0.5], [-0.5, 0.5], [-2, -1], [0, 0]])
def test_factors_sigmas_and_exponents_are_above_0(
    kind: str, setting: str, limits: list[float]
) -> None:
    with pytest.raises(ConfigError, match=rf"{kind}: {setting} is .*above 0"):
        declared(kind, **{setting: limits})
    assert declared(kind, **{setting: [0.001, 0.5]}).setting(kind, setting, 0) == (0.001, 0.5)


@pytest.mark.parametrize(
    ("kind", "setting", "limits", "hint"),
    [
        ("noise", "std", [-0.1, 0.1], "from 0"),
        ("low_resolution", "zoom", [0.5, 1.1], "above 0 to 1"),
        ("low_resolution", "zoom", [2, 3], "above 0 to 1"),
        ("rotation", "degrees", [-181, 30], "from -180 to 180"),
        ("rotation", "degrees", [-30, 270], "from -180 to 180"),
    ],
)
def test_a_range_outside_its_limits_is_refused(
    kind: str, setting: str, limits: list[float], hint: str
) -> None:
    with pytest.raises(ConfigError, match=f"{kind}: {setting} is .*{hint}"):
        declared(kind, **{setting: limits})


@pytest.mark.parametrize(
    ("kind", "setting", "limits"),
    [
        ("noise", "std", [0, 0]),
        ("noise", "std", [2, 2]),
        ("low_resolution", "zoom", [1, 1]),
        ("rotation", "degrees", [-180, 180]),
        ("rotation", "degrees", [0, 0]),
        ("rotation", "degrees", [10, 20]),
        ("scaling", "factor", [1, 1]),
        ("scaling", "factor", (0.5, 3)),
    ],
)
def test_limits_belong_to_the_range(kind: str, setting: str, limits: Any) -> None:
    assert declared(kind, **{setting: limits}).setting(kind, setting, None) == tuple(limits)


@pytest.mark.parametrize(
    ("kind", "setting", "value"),
    [
        *(("scaling", "interpolation", value) for value in ("nearest", "", None, 3, ["cubic"])),
        *(("blur", "per_axis", value) for value in (1, 0, "yes", None, [True])),
        *(
            ("brightness_contrast", "center", value)
            for value in ("0.5", None, [0.5], True, math.nan, math.inf)
        ),
    ],
)
def test_a_value_that_is_no_choice_or_number_is_refused(
    kind: str, setting: str, value: Any
) -> None:
    with pytest.raises(ConfigError, match=f"{kind}: {setting} is"):
        declared(kind, **{setting: value})


@pytest.mark.parametrize("center", [0, -1.5, 0.5])
def test_the_center_of_the_contrast_is_any_number(center: float) -> None:
    found = declared("brightness_contrast", center=center)
    assert found.setting("brightness_contrast", "center", None) == center


@pytest.mark.parametrize("axes", [[3], [-1], [0, 1, 7], [0.5], ["0"], [True], [None], 0, "0", None])
def test_an_axis_that_does_not_exist_is_refused(axes: Any) -> None:
    with pytest.raises(ConfigError, match="mirror: axes"):
        declared("mirror", axes=axes)


@pytest.mark.parametrize("axes", [[], [0], [2, 0], [0, 1, 2]])
def test_any_of_the_axes_may_be_mirrored(axes: list[int]) -> None:
    assert declared("mirror", axes=axes).setting("mirror", "axes", None) == tuple(axes)


@pytest.mark.parametrize(
    ("patch_size", "in_plane", "degrees"),
    [
        ((40, 56, 40), False, 30),
        ((128, 128, 128), False, 30),
        ((20, 60, 60), False, 30),  # not more than three times
        ((20, 61, 61), True, 180),
        ((20, 40, 61), True, 180),
        ((16, 320, 256), True, 180),
        ((100, 20, 20), False, 30),  # long across, not in, the plane
        ((256, 256), True, 180),
        ((256, 171), True, 180),  # 1.497 times
        ((240, 160), True, 180),  # not more than 1.5 times
        ((241, 160), True, 15),
        ((160, 241), True, 15),
        ((512, 64), True, 15),
    ],
)
def test_nnunets_range_of_rotation(
    patch_size: tuple[int, ...], in_plane: bool, degrees: float
) -> None:
    """nnU-Net's rules: dummy 2D above a ratio of 3 to the first axis; 15 degrees above a ratio of 1.5 in 2D."""
    assert rotates_in_plane(patch_size) == in_plane
    assert default_degrees(patch_size) == (-degrees, degrees)


@pytest.mark.parametrize("name", ["train.json", "quick.json", "cpu.json", "seed_augmentation.json"])
def test_the_shipped_declarations_are_read(name: str) -> None:
    config = json.loads((BUNDLE / "configs" / name).read_text())["augmentation"]
    augmentation = Augmentation.from_config(config)
    assert len(augmentation.kinds) == len(config) > 0
    for kind, settings in config.items():
        assert augmentation.prob(kind) == settings["prob"] > 0
        for setting, value in settings.items():
            expected = tuple(value) if isinstance(value, list) else value
            assert augmentation.setting(kind, setting, "absent") == expected


def test_train_json_declares_the_list_of_nnunet() -> None:
    """The transforms of batchgeneratorsv2 0.3.6 as called by nnU-Net 2.8.1's trainer."""
    config = json.loads((BUNDLE / "configs" / "train.json").read_text())["augmentation"]
    found = {kind: tuple(settings.values()) for kind, settings in config.items()}
    assert found == {
        "rotation": (0.2, None),
        "scaling": (0.2, [0.7, 1.4]),
        "noise": (0.1, [0.0, 0.1]),
        "blur": (0.2, [0.5, 1.0], 0.5),
        "brightness": (0.15, [0.75, 1.25]),
        "contrast": (0.15, [0.75, 1.25]),
        "low_resolution": (0.25, [0.5, 1.0], 0.5),
        "gamma_inverted": (0.1, [0.7, 1.5]),
        "gamma": (0.3, [0.7, 1.5]),
        "mirror": (0.5, [0, 1, 2]),
    }
