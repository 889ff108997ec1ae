"""Pictures show grey values between their limits, and outlines only on the borders of labels."""

import io

import numpy as np
from PIL import Image, ImageColor

from dynunet_bundle.drawing.colours import COLOURS
from dynunet_bundle.drawing.slices import (
    grey_limits,
    grid_picture,
    png_bytes,
    side_by_side,
    slice_picture,
)


def test_grey_values_go_from_black_to_white_between_the_limits():
    ramp = np.tile(np.linspace(-1, 3, 40, dtype=np.float32), (40, 1))
    shown = np.array(slice_picture(ramp, np.zeros((40, 40), np.uint8), (0.0, 2.0), (40, 40)))
    assert (shown[..., :1] == shown).all()
    assert (shown[:, :10] == 0).all() and (shown[:, -9:] == 255).all()
    assert (np.diff(shown[0, :, 0].astype(int)) >= 0).all()


def test_a_class_is_outlined_in_its_colour_and_its_inside_is_not():
    label = np.zeros((60, 60), np.uint8)
    label[10:50, 10:30], label[10:50, 30:50] = 1, 2
    shown = np.array(slice_picture(np.zeros((60, 60), np.float32), label, (0, 1), (60, 60)))
    for value, (left, right) in ((1, (10, 29)), (2, (30, 49))):
        colour = ImageColor.getrgb(COLOURS[value - 1])
        assert tuple(shown[30, left]) == tuple(shown[30, right]) == colour
        assert tuple(shown[30, (left + right) // 2]) == (0, 0, 0)
    assert (shown[label == 0] == 0).all()


def test_limits_leave_outliers_out_and_are_never_equal():
    image = np.append(np.linspace(0, 1, 10_000), [1e9])
    low, high = grey_limits(image)
    assert 0 < low < 0.02 and 0.98 < high < 1
    low, high = grey_limits(np.ones(10))
    assert high > low


def test_grids_and_rows_hold_their_pictures_whole():
    tiles = [Image.new("RGB", (20, 30), colour) for colour in ("red", "green", "blue")]
    grid = np.array(grid_picture([tiles, tiles[:2]], ["first", "second"]))
    for colour, count in (((255, 0, 0), 2), ((0, 128, 0), 2), ((0, 0, 255), 1)):
        assert (grid == colour).all(axis=-1).sum() == count * 20 * 30
    both = side_by_side([tiles[0], Image.new("RGB", (5, 50), "blue")])
    assert both.size == (25, 50)
    assert both.getpixel((0, 40)) == (255, 255, 255) and both.getpixel((24, 49)) == (0, 0, 255)


def test_png_bytes_are_a_png():
    picture = Image.new("RGB", (7, 5), "green")
    again = Image.open(io.BytesIO(png_bytes(picture)))
    assert again.format == "PNG" and again.size == (7, 5)
    assert np.array_equal(np.array(again), np.array(picture))
