"""The picture of a plan shows every case, the planned values and the patch in proportion."""

import numpy as np
import pytest
from PIL import ImageColor

from dynunet_bundle.dataset.layouts import DatasetDescription
from dynunet_bundle.labels.scheme import LabelScheme
from dynunet_bundle.planning.fingerprint import Fingerprint
from dynunet_bundle.planning.picture import CASES, HEIGHT, PLANNED, WIDTH, draw_plan
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
    picture = draw_plan(plan, spacings, shapes, image, label)
    assert picture.size == (WIDTH, HEIGHT)
    pixels = np.array(picture)

    def count(colour: str, columns: slice) -> int:
        return int((pixels[:, columns] == ImageColor.getrgb(colour)).all(axis=-1).sum())

    for panel in (slice(0, 410), slice(410, 800)):
        assert count(CASES, panel) > 50
        assert count(PLANNED, panel) > 50
    patch = np.argwhere((pixels[:, 800:] == ImageColor.getrgb(PLANNED)).all(axis=-1))
    rows, columns = np.ptp(patch[patch[:, 0] < HEIGHT - 40], axis=0) + 1
    expected = np.array(plan.patch_size[-2:]) * plan.spacing[-2:]
    assert rows / columns == pytest.approx(expected[0] / expected[1], rel=0.05)
