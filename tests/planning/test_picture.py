"""The picture of a plan shows every case, the planned values and the patch in proportion."""

import numpy as np
import pytest

from dynunet_bundle.dataset.layouts import DatasetDescription
from dynunet_bundle.labels.scheme import IGNORE_CLASS, LabelScheme
from dynunet_bundle.planning.fingerprint import Fingerprint
from dynunet_bundle.planning.picture import CASES, HEIGHT, WIDTH, draw_plan
from dynunet_bundle.planning.planner import make_plan


@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
def test_cases_plan_and_patch_are_drawn(configuration):
    shapes = np.array([[20, 64, 48], [24, 60, 50], [22, 70, 52]])
    spacings = np.array([[3.0, 1.0, 1.0], [3.0, 1.1, 1.1], [3.5, 1.0, 1.0]])
    found = Fingerprint("SAR", spacings, shapes, 1.0, [])
    dataset = DatasetDescription("Own", ("MRI",), LabelScheme(("background", "organ")), (), ())
    plan = make_plan(dataset, found, configuration)
    image = np.random.default_rng(0).random((22, 64, 50)).astype(np.float32)
    label = np.zeros((22, 64, 50), np.uint8)
    label[10, 20:40, 20:30] = 1
    label[2:6] = IGNORE_CLASS
    figure = draw_plan(plan, spacings, shapes, image, label)
    assert figure.bbox.size == pytest.approx((WIDTH, HEIGHT))
    assert figure.get_suptitle() == f"Own, {plan.spatial_dims}D: 3 cases"
    sizes, distances, slices = figure.axes
    for axes, values, planned, name in (
        (sizes, shapes, plan.patch_size, "patch"),
        (distances, spacings, plan.spacing, "target"),
    ):
        (dots,) = axes.lines
        assert dots.get_color() == CASES
        dims = plan.spatial_dims
        columns = np.round(dots.get_xdata()).astype(int)
        for axis in range(dims):
            drawn = dots.get_ydata()[columns == axis]
            assert drawn.tolist() == values[:, 3 - dims + axis].tolist()
        (lines,) = axes.collections
        assert [segment[0, 1] for segment in lines.get_segments()] == list(planned)
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["cases", name]
        assert [text.get_text() for text in axes.get_xticklabels()] == list("SAR"[-dims:])
        assert axes.get_ylabel() in ("voxels", "mm") and axes.get_ylim()[0] == 0
    (shown,) = slices.images
    assert shown.get_extent() == [0, 50 * plan.spacing[-1], 64 * plan.spacing[-2], 0]
    (patch,) = slices.lines
    width, height = np.ptp(patch.get_xdata()), np.ptp(patch.get_ydata())
    assert (height, width) == pytest.approx(np.array(plan.patch_size[-2:]) * plan.spacing[-2:])
    assert [text.get_text() for text in slices.get_legend().get_texts()] == ["organ", "patch"]
    explained = figure.get_supxlabel()
    assert all(f"{letter}: " in explained for letter in "SAR"[-plan.spatial_dims :])
    assert "Target: " in explained and "Patch: " in explained
    # unlabelled voxels are not foreground
    assert "slice 10 along S " in slices.get_title(loc="left")


def test_the_plan_of_pictures_is_drawn_in_pixels():
    shapes, spacings = np.array([[1, 64, 48]] * 3), np.ones((3, 3))
    found = Fingerprint("SAR", spacings, shapes, 1.0, [])
    dataset = DatasetDescription("Own", ("grey",), LabelScheme(("background", "organ")), (), ())
    plan = make_plan(dataset, found, "2d")
    image, label = np.ones((1, 64, 48), np.float32), np.zeros((1, 64, 48), np.uint8)
    label[0, 20:40, 20:30] = 1
    figure = draw_plan(plan, spacings, shapes, image, label, in_pixels=True)
    sizes, distances, slices = figure.axes
    assert (sizes.get_ylabel(), distances.get_ylabel()) == ("pixels", "px")
    assert [text.get_text() for text in sizes.get_xticklabels()] == ["height", "width"]
    assert slices.get_title(loc="left").startswith("a prepared picture")
    told = figure.get_supxlabel()
    assert not any(word in told for word in ("voxel", "patient", "mm"))
