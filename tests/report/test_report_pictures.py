"""Pictures of a report: independent of how the volume is stored, in true proportions, right on the left."""

import tracemalloc
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import save_picture
from PIL import Image
from report_data import LEVELS, SHAPE, body, by_plane, extent, inked, merged, pixels, saved_case

from dynunet_bundle.drawing.colours import BASE_COLOURS, COLOURS, ClassColours
from dynunet_bundle.report.drawing import Sheet, draw_plane, round_below
from dynunet_bundle.report.pictures import (
    LONGEST_SIDE_PIXELS,
    CaseFiles,
    draw_case,
)
from dynunet_bundle.report.planes import foreground_counts, grey_window

ORIENTATIONS = ("RAS", "LPS", "LAS", "PSR", "ASL", "SAL", "IPR")
SPACING = np.array([1.0, 1.5, 2.5])


def octants() -> np.ndarray:
    """An image in RAS: every octant differs; the one to the right, front and head is the brightest."""
    halves = [np.arange(size) >= size // 2 for size in SHAPE]
    right, front, head = np.meshgrid(*halves, indexing="ij")
    return (100 + 100 * right + 200 * front + 400 * head).astype(np.float32)


def tilted(degrees: float) -> np.ndarray:
    """An affine in RAS order, turned about the axis from head to feet."""
    angle = np.radians(degrees)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(SPACING)
    affine[:3, 3] = (-30, 12, 5)
    return affine


def drawn(*given: Any) -> Image.Image:
    """A plane with its contours, as RGB."""
    layers = draw_plane(*given)
    return merged(layers.picture, layers.prediction, layers.reference)


def test_right_front_and_head_of_the_patient_are_left_and_on_top(tmp_path: Path):
    # a block about the middle; the slices through its largest section lie in the right, front, upper half
    mask = np.zeros(SHAPE, np.uint8)
    mask[8:14, 9:16, 6:12] = 1
    mask[11, 13, 9] = 2
    files = saved_case(tmp_path, octants(), mask, affine=np.diag([*SPACING, 1]))
    planes = by_plane(draw_case(files))
    assert list(planes) == ["axial", "coronal", "sagittal"]
    for picture in planes.values():
        height, width = picture.shape[:2]
        corners = [
            picture[y, x].mean()
            for y in (height // 4, 3 * height // 4)
            for x in (width // 4, 3 * width // 4)
        ]
        upper_left, upper_right, lower_left, lower_right = corners
        assert upper_left == max(corners) and lower_right == min(corners)
        assert upper_right != lower_left


@pytest.mark.parametrize("degrees", [0, 12])
@pytest.mark.parametrize("axes", ORIENTATIONS)
def test_a_patient_looks_the_same_however_he_is_stored(tmp_path: Path, axes: str, degrees: float):
    case = (octants(), np.roll(body(), 1, 1), body(), tilted(degrees))
    expected = by_plane(draw_case(saved_case(tmp_path / "as_is", *case)))
    found = by_plane(draw_case(saved_case(tmp_path / axes, *case, axes)))
    assert list(found) == list(expected)
    for name, picture in expected.items():
        assert np.array_equal(found[name], picture), name


@pytest.mark.parametrize("axes", ORIENTATIONS)
def test_captions_count_slices_as_the_file_stores_them(tmp_path: Path, axes: str):
    mask = np.zeros(SHAPE, np.uint8)
    mask[3, 7, 11] = 1
    files = saved_case(tmp_path, octants(), mask, axes=axes)
    stored = sitk.GetArrayFromImage(sitk.ReadImage(str(files.prediction))).transpose(2, 1, 0)
    index, shape = np.argwhere(stored)[0] + 1, stored.shape
    across = {"axial": "IS", "coronal": "AP", "sagittal": "LR"}
    for panel in draw_case(files).panels:
        name = panel.caption.split(",")[0]
        axis = next(place for place, code in enumerate(axes) if code in across[name])
        assert panel.caption == f"{name}, slice {index[axis]} of {shape[axis]}"


def test_a_tilted_volume_is_called_oblique(tmp_path: Path):
    for degrees, told in ((3, False), (12, True)):
        files = saved_case(tmp_path, octants(), body(), affine=tilted(degrees))
        captions = [panel.caption for panel in draw_case(files).panels]
        assert all(("oblique by 12°" in caption) == told for caption in captions)


def test_a_cube_in_millimetres_is_a_square_in_every_plane(tmp_path: Path):
    mask = np.zeros((40, 40, 10), np.uint8)
    mask[12:28, 12:28, 3:7] = 1  # 16 mm each way
    image = np.zeros(mask.shape, np.int16)
    files = saved_case(tmp_path, image, mask, affine=np.diag([1, 1, 4, 1]))
    planes = draw_case(files).panels
    assert {(panel.width, panel.height) for panel in planes} == {(LONGEST_SIDE_PIXELS,) * 2}
    for panel in planes:
        width, height = extent(pixels(panel), 1)
        assert abs(width - height) <= 1
        assert width == pytest.approx(16 / 40 * LONGEST_SIDE_PIXELS, abs=4)


def test_contours_lie_on_the_borders_of_voxels_and_both_show_where_they_agree(tmp_path: Path):
    mask = np.zeros((20, 20, 20), np.uint8)
    mask[5:10, 6:12, 8:12] = 1
    files = saved_case(tmp_path, np.zeros(mask.shape, np.uint8), mask, mask)
    axial = by_plane(draw_case(files))["axial"]
    voxel = LONGEST_SIDE_PIXELS / 20
    # RAS: x runs to the picture's left, y to its top
    rows, columns = np.nonzero(inked(axial, 1))
    for found, border in (
        (columns.min(), 20 - 10),
        (columns.max(), 20 - 5),
        (rows.min(), 20 - 12),
        (rows.max(), 20 - 6),
    ):
        assert abs(found - border * voxel) <= 2
    # the slice is black, so only the line is coloured
    row = rows.min() + 2
    beads = inked(axial, 1)[row, columns.min() : columns.max()]
    assert 0.3 < beads.mean() < 0.7 and not inked(axial, 1)[row + 4].all()
    alone = saved_case(tmp_path / "alone", np.zeros(mask.shape, np.uint8), mask)
    solid = inked(by_plane(draw_case(alone))["axial"], 1)
    assert solid[row, columns.min() : columns.max()].all()
    assert np.array_equal(solid & inked(axial, 1), inked(axial, 1))


def test_a_reference_is_dashed_black_and_in_the_colour_of_its_class():
    empty, mask = np.zeros((20, 20), np.uint8), np.zeros((20, 20), np.uint8)
    mask[5:15, 4:16] = 2
    white, sheet = np.ones((20, 20)), Sheet((200, 200), (), 0, "")
    shown = np.asarray(drawn(white, (0, 1), mask, empty, sheet))
    line = shown[50, 40:160]
    colour, black = (line == LEVELS[1]).all(axis=-1), (line == 0).all(axis=-1)
    assert (colour | black).all()
    assert 0.4 < colour.mean() < 0.6
    photograph = np.repeat(white[..., np.newaxis], 3, axis=-1) * 255
    photographed = np.asarray(drawn(photograph, (0, 255), mask, empty, sheet))
    assert np.array_equal(photographed[50, 40:160], line)


def test_every_class_has_a_colour_of_its_own_in_every_picture():
    names = {9: "a", 4: "b", 255: "c"}
    colours = ClassColours(names)
    assert [colours.colour(value) for value in names] == list(COLOURS[:3])
    assert colours.legend([255, 9, 7]) == [
        ("a", COLOURS[0]),
        ("c", COLOURS[2]),
        ("7", colours.colour(7)),
    ]
    assert colours.colour(7) not in COLOURS[:3]
    assert len(set(COLOURS)) == 3 * len(BASE_COLOURS)
    mask = np.zeros((20, 20), np.uint8)
    mask[4:8, 4:16], mask[10:16, 4:8], mask[10:16, 12:16] = 9, 4, 255
    sheet = Sheet((200, 200), (), 0, "")
    shown = np.asarray(drawn(np.zeros((20, 20)), (0, 1), None, mask, sheet, colours))
    for value, (row, column) in ((1, (40, 60)), (2, (130, 40)), (3, (130, 120))):
        assert inked(shown, value)[row, column]


def test_a_border_between_two_classes_is_drawn_and_ignored_voxels_are_not(tmp_path: Path):
    both, reference = body(), body()
    reference[reference == 2] = 9
    files = saved_case(tmp_path, np.zeros(SHAPE, np.uint8), np.zeros_like(both), reference)
    whole, part = (
        extent(by_plane(draw_case(files, ignore))["axial"], 1, 9) for ignore in (None, 9)
    )
    # a dash may end at a corner
    assert abs(whole[0] - part[0]) <= 8 and whole[1] > 1.5 * part[1]
    one = saved_case(tmp_path / "one", np.zeros(SHAPE, np.uint8), (both > 0).astype(np.uint8))
    two = saved_case(tmp_path / "two", np.zeros(SHAPE, np.uint8), both)
    drawn = [by_plane(draw_case(case))["axial"] for case in (one, two)]
    assert inked(drawn[1], 1, 2).sum() > inked(drawn[0], 1, 2).sum()
    assert inked(drawn[1], 1).any() and inked(drawn[1], 2).any() and not inked(drawn[0], 2).any()


def seen_by(code: str, matrix: list[list[float]]) -> np.ndarray:
    """Linear RGB of a colour as seen with a colour vision deficiency."""
    linear = (np.array([int(code[place : place + 2], 16) for place in (1, 3, 5)]) / 255) ** 2.2
    return np.clip(np.array(matrix) @ linear, 0, 1) ** (1 / 2.2)


@pytest.mark.parametrize(
    "matrix",
    [
        [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
        [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    ],
    ids=["protanopia", "deuteranopia"],
)
def test_the_colours_differ_for_the_colour_blind(matrix: list[list[float]]):
    """Matrices of Machado, Oliveira and Fernandes (IEEE TVCG 15(6), 2009), severity 1."""
    seen = [seen_by(code, matrix) for code in BASE_COLOURS]
    apart = [np.abs(one - other).max() for one, other in combinations(seen, 2)]
    assert min(apart) > 0.1


def test_letters_stand_at_their_borders_and_over_the_contours():
    side = 200
    masks = np.zeros((side, side), np.uint8), np.ones((side, side), np.uint8)
    for place, (rows, columns) in enumerate(
        [
            (slice(85, 115), slice(0, 30)),
            (slice(85, 115), slice(170, 200)),
            (slice(0, 30), slice(85, 115)),
            (slice(170, 200), slice(85, 115)),
        ]
    ):
        letters = ["", "", "", ""]
        letters[place] = "R"
        sheet = Sheet((side, side), letters, 0, "")
        picture = drawn(masks[0], (0, 1), None, masks[0], sheet).convert("L")
        shown = np.array(picture)
        shown[-20:, :20] = 0  # the end of the scale
        assert (shown[rows, columns] > 200).sum() > 20
        shown[rows, columns] = 0
        assert not shown.any()
    everywhere = (np.indices((side, side)).sum(axis=0) % 2).astype(np.uint8)
    sheet = Sheet((side, side), "RLAP", 0, "")
    covered = np.array(drawn(masks[0], (0, 1), None, everywhere, sheet))
    assert (covered[85:115, :30].min(axis=-1) > 200).sum() > 20


def test_the_scale_has_a_round_length():
    for most, expected in ((9.9, 5), (10, 10), (0.49, 0.2), (37, 20), (1999, 1000), (0.05, 0.05)):
        assert round_below(most) == pytest.approx(expected)


def test_the_window_is_taken_from_the_box_of_the_foreground(tmp_path: Path):
    image = np.linspace(0, 1, 40**3).reshape(40, 40, 40)
    box = (slice(10, 30),) * 3
    expected = np.percentile(image[box], (0.5, 99.5))
    image[0], image[12, 12, 12] = 1e9, np.nan
    assert grey_window(image, box, box) == pytest.approx(expected, rel=1e-3)
    tiny = (slice(10, 11),) * 3
    low, high = grey_window(image, tiny, box)
    assert (low, high) == pytest.approx(expected, rel=1e-3)
    low, high = grey_window(np.full((4, 4, 4), 7.0), (slice(0, 4),) * 3, (slice(0, 4),) * 3)
    assert high > low


def test_slices_go_through_the_largest_section_of_both_masks():
    first, second = np.zeros((6, 7, 8), np.uint8), np.zeros((6, 7, 8), np.float64)
    first[1:4, 2, 3] = 1
    second[1:5, 5:7, 3:5] = 2
    counts = foreground_counts([first[::-1], second[::-1]])
    union = (first[::-1] > 0) | (second[::-1] > 0)
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        assert np.array_equal(counts[axis], union.sum(axis=others))


def test_the_first_of_several_channels_is_shown(tmp_path: Path):
    one = saved_case(tmp_path / "one", octants(), body())
    several = np.stack([octants(), -octants(), octants()[::-1]], axis=-1)
    many = saved_case(tmp_path / "many", several, body())
    assert draw_case(one) == draw_case(many)


def test_one_slice_gives_one_plane_and_no_foreground_gives_the_middle(tmp_path: Path):
    flat = saved_case(tmp_path / "flat", octants()[:, :, :1], body()[:, :, 5:6])
    assert [panel.caption for panel in draw_case(flat).panels] == ["axial, slice 1 of 1"]
    plain = saved_case(tmp_path / "2d", octants()[:, :, 0], body()[:, :, 5])
    assert draw_case(plain) == draw_case(flat)
    empty = saved_case(tmp_path / "empty", octants(), np.zeros(SHAPE, np.uint8))
    assert [panel.caption.split()[2] for panel in draw_case(empty).panels] == ["8", "12", "10"]


def test_photographs_keep_their_colours_and_have_no_letters(tmp_path: Path):
    colours = np.zeros((30, 40, 3), np.uint8)
    colours[:15, :, 0], colours[15:, :20, 1], colours[15:, 20:, 2] = 250, 240, 230
    mask = np.zeros((30, 40), np.uint8)
    mask[10:20, 5:35] = 255
    image = save_picture(tmp_path / "image.png", colours)
    label = save_picture(tmp_path / "label.png", mask)
    (panel,) = draw_case(CaseFiles("a", image, label, label)).panels
    assert (panel.width, panel.height, panel.caption) == (440, 330, "")
    shown = pixels(panel)
    assert tuple(shown[20, 420]) == (250, 0, 0)
    assert tuple(shown[320, 180]) == (0, 240, 0)
    assert tuple(shown[320, 420]) == (0, 0, 230)
    # upright: the mask lies on the left
    rows, columns = np.nonzero(inked(shown, (255 - 1) % len(LEVELS) + 1))
    assert abs(columns.min() - 55) <= 2 and abs(rows.min() - 110) <= 2
    grey = save_picture(tmp_path / "grey.png", colours[..., 0])
    (panel,) = draw_case(CaseFiles("a", grey, label)).panels
    assert (pixels(panel)[20, 420] > 200).all()


def test_what_cannot_be_drawn_says_so_without_naming_a_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    files = saved_case(tmp_path, octants(), body(), body()[:-1])
    assert "different grids" in draw_case(files).note
    files = saved_case(tmp_path, octants()[1:], body(), body())
    assert "different grids" in draw_case(files).note
    files.image.write_bytes(b"no image")
    drawn = draw_case(files)
    assert drawn.note and not drawn.panels
    assert str(tmp_path) not in drawn.note
    assert "case case is not drawn" in caplog.text


def test_masks_are_let_go_before_the_image_is_read(tmp_path: Path):
    shape = (160, 160, 120)
    mask = np.zeros(shape, np.int32)
    mask[40:120, 40:120, 40:80] = 1
    files = saved_case(tmp_path, np.zeros(shape, np.int32), mask, mask)
    volume = mask.nbytes
    draw_case(files)  # fonts and modules are loaded once
    tracemalloc.start()
    assert draw_case(files).panels
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # one mask and the other on its way in, for which nibabel needs two and a half times its size
    assert peak < 4 * volume
