"""The preview shows the same patches in all rows, each augmentation alone with its values, and the same anatomy."""

import numpy as np
import pytest
from feed_cases import SHIPPED, prepare

from dynunet_bundle.drawing.colours import COLOURS
from dynunet_bundle.drawing.slices import TEXT_LINE_PIXELS
from dynunet_bundle.feed import preview as module
from dynunet_bundle.feed.augmentation import Augmentation
from dynunet_bundle.feed.preview import TILE_PIXELS, preview
from dynunet_bundle.feed.source import Sampling
from dynunet_bundle.labels.scheme import IGNORE_CLASS

ROW = 26 + TILE_PIXELS + 6


def dataset(folder):
    rng = np.random.default_rng(0)
    images = [rng.random((1, 24, 24, 24), dtype=np.float32) for _ in range(2)]
    labels = [np.zeros((24, 24, 24), np.uint8) for _ in images]
    for label in labels:
        label[8:16, 8:16, 8:16] = 1
        label[3:5, 3:8, 3:8] = 2
        label[20:] = IGNORE_CLASS
    return prepare(folder, images, labels)


def sampling(augmentation, size=(16, 16, 16)):
    return Sampling(size, Augmentation.from_config(augmentation), oversampling=1.0, seed=1)


def test_rows_show_the_same_patches_under_each_augmentation(tmp_path):
    declared = {
        "brightness": {"prob": 0.0, "factor": [2.0, 2.0]},
        "mirror": {"prob": 0.0, "axes": []},
    }
    pixels = np.array(preview(dataset(tmp_path), sampling(declared), columns=2)).astype(int)
    # two blocks side by side: unchanged and brightness left, mirror and all right; 26 pixels of title above each row
    width = pixels.shape[1] // 2
    tile = np.s_[26 : 26 + TILE_PIXELS, 6 : 6 + TILE_PIXELS]
    blocks = [pixels[top:, left:][tile] for left in (0, width) for top in (0, ROW)]
    as_it_is, brighter, mirrored, everything = blocks
    assert as_it_is.std() > 10
    # "alone" means with probability 1; a mirror without axes and the declared probability of 0 have no effect
    assert brighter.mean() > as_it_is.mean() + 20
    np.testing.assert_array_equal(mirrored, as_it_is)
    np.testing.assert_array_equal(everything, as_it_is)
    # the text below the brighter patch: only that row has one
    below = pixels[ROW + 26 + TILE_PIXELS :][:TEXT_LINE_PIXELS, 6 : 6 + TILE_PIXELS]
    assert below.min() < 100


def rows_of(folder, declared, size=(16, 16, 16), columns=4):
    drawn = sampling(declared, size)
    cases = dataset(folder)
    return {
        title: (augmentation, module._patches(cases, drawn, augmentation, columns))
        for title, augmentation in module._rows(drawn.augmentation).items()
    }


@pytest.mark.parametrize("size", [(16, 16, 16), (4, 16, 16), (16, 16)])
def test_each_kind_is_certain_in_its_row_and_its_value_is_below(tmp_path, size):
    rows = rows_of(tmp_path, SHIPPED, size)
    assert len(rows) == len(SHIPPED) + 2
    for kind, (title, (augmentation, patches)) in zip(SHIPPED, [*rows.items()][1:-1], strict=True):
        name = kind.replace("_", " ")
        assert title.startswith(name)
        for patch in patches:
            text = " ".join(module._text_of(patch, augmentation))
            assert text.startswith("mirrored axes" if kind == "mirror" else name)
            assert any(letter.isdigit() for letter in text)
    _, unchanged = rows["unchanged"]
    assert [module._text_of(patch, augmentation) for patch in unchanged] == [[]] * len(unchanged)


def test_values_below_are_those_that_were_drawn(tmp_path):
    declared = {
        "rotation": {"prob": 0, "degrees": [12.0, 12.0]},
        "scaling": {"prob": 0, "factor": [1.25, 1.25]},
        "noise": {"prob": 0, "std": [0.5, 0.5]},
        "blur": {"prob": 0, "sigma": [0.75, 0.75], "channel_prob": 0.0},
        "contrast": {"prob": 0, "factor": [0.8, 0.8]},
        "low_resolution": {"prob": 0, "zoom": [0.5, 0.5], "channel_prob": 0.0},
        "gamma_inverted": {"prob": 0, "gamma": [1.5, 1.5]},
        "gamma": {"prob": 0, "gamma": [0.7, 0.7]},
        "brightness_contrast": {"prob": 0, "brightness": [2, 2], "contrast": [1, 1], "center": 0.5},
        "mirror": {"prob": 0, "axes": [0, 2]},
    }
    rows = rows_of(tmp_path, declared, columns=1)
    texts = [
        " ".join(module._text_of(patch, augmentation)) for augmentation, (patch,) in rows.values()
    ]
    assert texts[1:-1] == [
        "rotation 12° 12° 12°",
        "scaling 1.25",
        "noise std 0.50",
        "blur sigma 0.75",
        "contrast x 0.80",
        "low resolution to 8x8x8",
        "gamma inverted 1.50",
        "gamma 0.70",
        "brightness and contrast x 2.00 +0.00",
        "mirrored axes 0, 2",
    ]


def test_the_shown_slice_follows_the_anatomy(tmp_path):
    declared = {
        "mirror": {"prob": 0.5, "axes": [0, 1, 2]},
        "rotation": {"prob": 0.5, "degrees": [90.0, 90.0]},
        "scaling": {"prob": 0.5, "factor": [0.7, 1.3]},
    }
    rows = rows_of(tmp_path, declared, columns=6)
    _, unchanged = rows.pop("unchanged")
    moved = 0
    for _, patches in rows.values():
        for before, after in zip(unchanged, patches, strict=True):
            point = module._shown_point(before.label)
            index = module._slice_with(after, point)
            structure = before.label[int(point[0]), round(point[1]), round(point[2])]
            assert structure > 0 and structure in after.label[index]
            moved += index != point[0]
    assert moved > 6


def test_the_legend_has_the_classes_in_their_colours(tmp_path):
    picture = preview(dataset(tmp_path), sampling({}), 2, ["background", "head", "tail"])
    colours = {colour for _, colour in picture.getcolors(picture.width * picture.height)}
    codes = {"#{:02x}{:02x}{:02x}".format(*colour) for colour in colours}
    assert {COLOURS[0], COLOURS[1]} <= codes
    # ignored voxels are not a class
    assert COLOURS[(IGNORE_CLASS - 1) % len(COLOURS)] not in codes
