"""Our restatement of nnU-Net's planning rules against what nnU-Net 2.8.1 planned from the same fingerprints."""

import json
from pathlib import Path

import numpy as np
import pytest

from dynunet_bundle.planning.nnunet_rules import (
    PLANNERS,
    PlannedConfiguration,
    plan_configurations,
    resampled_shapes,
    target_spacing,
)
from dynunet_bundle.planning.topology import nnunet_topology

ORACLE = json.loads((Path(__file__).parent / "planner_oracle.json").read_text())


def planned(
    name: str, planner: str, gpu_memory_gb: float | None = None
) -> dict[str, PlannedConfiguration]:
    facts = ORACLE[name]
    spacings, shapes = np.array(facts["spacings_mm"]), np.array(facts["shapes_after_crop"])
    target = target_spacing(spacings, shapes)
    median_shape = np.median(resampled_shapes(spacings, shapes, target), axis=0)
    return plan_configurations(
        target,
        median_shape,
        facts["num_training"],
        facts["num_classes_with_background"],
        planner,
        gpu_memory_gb,
    )


@pytest.mark.parametrize("planner", PLANNERS)
@pytest.mark.parametrize("name", ORACLE)
def test_every_number_equals_nnunets(name, planner):
    expected = ORACLE[name]["expected"][planner]["configurations"]
    # the cascade inherits all from 3d_fullres
    expected = {key: value for key, value in expected.items() if "patch_size" in value}
    found = planned(name, planner)
    assert set(found) == set(expected)
    for key, configuration in found.items():
        theirs = expected[key]
        assert configuration.topology.patch_size == theirs["patch_size"]
        assert configuration.batch_size == theirs["batch_size"]
        assert configuration.topology.strides == theirs["strides"]
        assert configuration.topology.kernel_sizes == theirs["kernel_sizes"]
        assert configuration.features == theirs["features"]
        assert configuration.batch_dice == theirs["batch_dice"]
        assert configuration.spacing == pytest.approx(theirs["spacing"], abs=5e-6)
        assert configuration.median_shape == pytest.approx(theirs["median_image_size"])


def test_more_memory_gives_larger_patches_or_batches():
    small, large = (
        planned("brats", "plain", 8)["3d_fullres"],
        planned("brats", "plain", 24)["3d_fullres"],
    )
    size = [np.prod(one.topology.patch_size) * one.batch_size for one in (small, large)]
    assert size[1] > 2 * size[0]
    assert planned("brats", "plain", 8) == planned("brats", "plain")


def test_a_coarse_axis_takes_its_10th_percentile_but_never_below_the_others():
    shapes = np.array([[10, 300, 300]] * 5)
    spacings = np.array([[3.0 + step, 0.5, 0.5] for step in range(5)])
    assert target_spacing(spacings, shapes)[0] == pytest.approx(np.percentile(spacings[:, 0], 10))
    spacings[:, 0] = [0.1, 5, 5, 5, 5]
    spacings[0, 0] = spacings[1, 0] = 0.1
    assert target_spacing(spacings, shapes)[0] == pytest.approx(0.5 + 1e-5)
    # many slices: no anisotropy in voxels, so the median stays
    shapes[:, 0] = 200
    assert target_spacing(spacings, shapes)[0] == 5


def test_the_last_axis_is_not_pooled_alone_below_12_voxels():
    strides = nnunet_topology([1.0, 1.0, 1.0], [7, 7, 11]).strides
    assert strides == [[1, 1, 1]]
    assert nnunet_topology([1.0, 1.0, 1.0], [7, 7, 12]).strides[1] == [1, 1, 2]


@pytest.mark.parametrize(
    ("num_training", "gpu_memory_gb", "limit"),
    [(100_000, None, "memory"), (1000, None, "data"), (1, None, "minimum"), (1, 80, "minimum")],
)
def test_the_limit_of_the_batch_is_recorded(
    num_training: int, gpu_memory_gb: float | None, limit: str
):
    shape, spacing = np.array([40.0, 56, 40]), np.ones(3)
    configuration = plan_configurations(spacing, shape, num_training, 3, "plain", gpu_memory_gb)[
        "3d_fullres"
    ]
    assert configuration.batch_limit == limit
    share = 0.05 * num_training * np.prod(shape) / np.prod(configuration.topology.patch_size)
    if limit == "data":
        assert configuration.batch_size == round(share) > 2
    elif limit == "memory":
        assert 2 <= configuration.batch_size < share
    else:
        assert configuration.batch_size == 2 > share
