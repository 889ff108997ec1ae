"""Presets and topology against the seed's tables; the rules for all other data sets."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import BUNDLE, save_nifti

from dynunet_bundle.dataset.layouts import DatasetDescription
from dynunet_bundle.dataset.select import load_dataset
from dynunet_bundle.errors import PlanError
from dynunet_bundle.labels.scheme import LabelScheme
from dynunet_bundle.planning.fingerprint import Fingerprint, extract_fingerprint
from dynunet_bundle.planning.nnunet_rules import PLANNERS
from dynunet_bundle.planning.plan import PLAN_IDS, Plan, plan_differences, plan_from
from dynunet_bundle.planning.planner import (
    make_plan,
    normalization_of,
    planned_configurations,
    scheme_of,
    seed_plan,
)
from dynunet_bundle.planning.presets import preset_for
from dynunet_bundle.planning.topology import seed_topology

LABELS = LabelScheme(("background", "organ", "lesion"))


def dataset(name: str, channel_names: Sequence[str] = ("MRI",)) -> DatasetDescription:
    return DatasetDescription(name, tuple(channel_names), LABELS, (), ())


STATISTICS = {
    "mean": 99.290012,
    "std": 39.47,
    "min": -1024.0,
    "max": 3000.0,
    "percentile_00_5": -41.0,
    "median": 101.0,
    "percentile_99_5": 176.00004,
}
CT_FACTS = {"lower": -41.0, "upper": 176.0, "mean": 99.29, "std": 39.47}


def facts(shapes: np.ndarray, spacings: np.ndarray, relative_size: float = 1.0) -> Fingerprint:
    """The fingerprint of cases with these shapes and spacings, given as right, anterior, superior."""
    coarsest = int(np.argmax(np.median(spacings, axis=0)[[2, 1, 0]]))
    axcodes = ("SAR", "ASR", "RSA")[coarsest]
    order = ["RAS".index(code) for code in axcodes]
    return Fingerprint(axcodes, spacings[:, order], shapes[:, order], relative_size, [STATISTICS])


def fingerprint(shape: Sequence[int], spacing: Sequence[float]) -> Fingerprint:
    """Three equal cases."""
    return facts(np.array([shape] * 3), np.array([spacing] * 3, dtype=float))


# --- the ten tasks of the Decathlon
# as NVIDIA's example configures them (data_preprocessing/configs.py) and what its get_unet_params makes of it:
# patch, spacing, CT statistics; strides, levels with kernel 133 instead of 333, bottleneck size

SIX = "111 222 222 222 222 222"
FIVE = "111 222 222 222 222 122"
SEED_3D = {
    "01": ([128, 128, 128], [1.0, 1.0, 1.0], None, SIX, 0, [4, 4, 4]),
    "02": ([80, 192, 160], [1.37, 1.25, 1.25], None, FIVE, 0, [5, 6, 5]),
    "03": ([128] * 3, [1, 0.7676, 0.7676], (-17, 201, 99.4, 39.36), SIX, 0, [4, 4, 4]),
    "04": ([40, 56, 40], [1.0, 1.0, 1.0], None, "111 222 222 222", 0, [5, 7, 5]),
    "05": ([20, 320, 256], [3.6, 0.62, 0.62], None, "111 122 122 222 222 122", 2, [5, 10, 8]),
    "06": ([80, 192, 160], [1.24, 0.79, 0.79], (-1024, 325, -158.58, 324.7), FIVE, 0, [5, 6, 5]),
    "07": (
        [40, 224, 224],
        [2.5, 0.8, 0.8],
        (-96, 215, 77.9, 75.4),
        "111 122 222 222 222 122",
        1,
        [5, 7, 7],
    ),
    "08": ([64, 192, 192], [1.5, 0.8, 0.8], (-3, 243, 104.37, 52.62), FIVE, 0, [4, 6, 6]),
    "09": (
        [64, 192, 160],
        [1.6, 0.79, 0.79],
        (-41, 176, 99.29, 39.47),
        "111 122 222 222 222 222",
        1,
        [4, 6, 5],
    ),
    "10": (
        [56, 192, 160],
        [3, 0.78, 0.78],
        (-30, 165.82, 62.18, 32.65),
        "111 122 222 222 222 122",
        1,
        [7, 6, 5],
    ),
}
SEED_2D = {
    "01": ([192, 160], [1.0, 1.0]),
    "02": ([320, 256], [1.25, 1.25]),
    "03": ([512, 512], [0.7676, 0.7676]),
    "04": ([56, 40], [1.0, 1.0]),
    "05": ([320, 320], [0.62, 0.62]),
    "06": ([512, 512], [0.79, 0.79]),
    "07": ([512, 512], [0.8, 0.8]),
    "08": ([512, 512], [0.8, 0.8]),
    "09": ([512, 512], [0.79, 0.79]),
    "10": ([512, 512], [0.78, 0.78]),
}
NAMES = {
    "01": "BrainTumour",
    "02": "Heart",
    "03": "Liver",
    "04": "Hippocampus",
    "05": "Prostate",
    "06": "Lung",
    "07": "Pancreas",
    "08": "HepaticVessel",
    "09": "Spleen",
    "10": "Colon",
}


@pytest.mark.parametrize("task", SEED_3D)
def test_3d_plans_of_the_decathlon(task: str):
    patch, spacing, ct, strides, thin_levels, bottleneck = SEED_3D[task]
    plan = seed_plan(dataset(f"Task{task}_{NAMES[task]}"))
    assert plan.spatial_dims == 3
    assert plan.axcodes == "SAR"
    assert plan.patch_size == patch
    assert plan.spacing == spacing
    assert plan.batch_size == 2
    assert plan.strides == [[int(stride) for stride in level] for level in strides.split()]
    levels = len(plan.strides)
    assert plan.kernel_sizes == [[1, 3, 3]] * thin_levels + [[3, 3, 3]] * (levels - thin_levels)
    assert plan.filters == [32, 64, 128, 256, 320, 320][:levels]
    assert (np.array(plan.patch_size) / np.prod(plan.strides, axis=0)).tolist() == bottleneck
    if ct is None:
        assert plan.normalization == ["zscore_nonzero" if task == "01" else "zscore"]
        assert plan.intensity_statistics == [None]
    else:
        assert plan.normalization == ["ct"]
        names = ("lower", "upper", "mean", "std")
        assert plan.intensity_statistics == [dict(zip(names, ct, strict=True))]


@pytest.mark.parametrize("task", SEED_2D)
def test_2d_plans_of_the_decathlon(task: str):
    patch, spacing = SEED_2D[task]
    plan = seed_plan(dataset(f"Task{task}_{NAMES[task]}"), spatial_dims=2)
    levels = 4 if task == "04" else 6
    assert plan.spatial_dims == 2
    assert plan.patch_size == patch
    assert plan.spacing == spacing
    assert plan.batch_size == 64
    assert plan.strides == [[1, 1]] + [[2, 2]] * (levels - 1)
    assert plan.kernel_sizes == [[3, 3]] * levels
    assert plan.filters == [32, 64, 128, 256, 512, 512][:levels]


def test_the_plan_of_task04_is_the_default_of_train_json():
    config = json.loads((BUNDLE / "configs" / "train.json").read_text())
    task04 = DatasetDescription(
        "Task04_Hippocampus", ("MRI",), LabelScheme(("background", "Anterior", "Posterior")), (), ()
    )
    assert seed_plan(task04).overlay() == {name: config[name] for name in PLAN_IDS}


def test_presets_belong_to_whole_task_names():
    assert preset_for("Task04") == preset_for("Task04_Hippocampus") is not None
    for name in ("Task041_Other", "Task4_Hippocampus", "Task11_Other", "Hippocampus", ""):
        assert preset_for(name) is None


def test_every_channel_of_a_preset_is_normalised_alike():
    plan = seed_plan(dataset("Task01_BrainTumour", ("FLAIR", "T1w", "t1gd", "T2w")))
    # skull-stripped: statistics of the brain, not of the empty space around it
    assert plan.normalization == ["zscore_nonzero"] * 4
    assert plan.intensity_statistics == [None] * 4


# --- topology


@pytest.mark.parametrize(
    ("spacing", "patch", "strides", "kernels"),
    [
        # an axis of 8 is halved, one of 7 is not
        ([1, 1, 1], [8, 7, 16], "111 212 112", "333 333 333"),
        # twice the finest is still near, more is not; after a halving in the plane it is
        ([2.0, 1, 1], [16, 16, 16], "111 222 222", "333 333 333"),
        ([2.1, 1, 1], [16, 16, 16], "111 122 222 211", "133 333 333 333"),
        # the finest axis may be any one
        ([1, 3, 1], [16, 16, 16], "111 212 222 121", "313 333 333 333"),
        # never more than five downsamplings
        ([1, 1, 1], [512, 512, 512], SIX, "333 333 333 333 333 333"),
        ([1, 1], [64, 64], "11 22 22 22 22", "33 33 33 33 33"),
        # nothing to halve
        ([1, 1, 1], [7, 7, 7], "111", "333"),
    ],
)
def test_topology_rule(spacing: list[float], patch: list[int], strides: str, kernels: str):
    def levels(text: str) -> list[list[int]]:
        return [[int(digit) for digit in level] for level in text.split()]

    found = seed_topology(spacing, patch)
    assert (found.kernel_sizes, found.strides) == (levels(kernels), levels(strides))


@pytest.mark.parametrize(
    ("patch", "expected"), [([50, 51, 49], [56, 56, 56]), ([56, 40], [56, 40])]
)
def test_the_patch_is_rounded_up_to_the_product_of_strides(patch: list[int], expected: list[int]):
    assert seed_topology([1.0] * len(patch), patch).patch_size == expected


# --- other data sets: the figures are tested against nnU-Net's own in test_nnunet_rules.py


def test_an_isotropic_set_reads_superior_first_and_takes_the_median_image():
    plan = make_plan(dataset("Own"), fingerprint((60, 70, 50), (1, 1, 1)))
    assert plan.axcodes == "SAR"
    assert plan.spacing == [1.0, 1.0, 1.0]
    # (s, a, r) = (50, 70, 60), halved four times each while at least 8 are left (50 -> 25 -> 13 -> 7)
    assert plan.strides == [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]]
    assert plan.patch_size == [56, 80, 64]
    assert plan.batch_size == 2
    assert plan.normalization == ["zscore"]
    assert plan.label_names == ["background", "organ", "lesion"]


@pytest.mark.parametrize(
    ("axcodes", "shape", "spacing"),
    [
        ("SAR", (64, 96, 20), (1, 1, 5)),
        ("ASR", (64, 20, 96), (1, 5, 1)),
        ("RSA", (20, 64, 96), (5, 1, 1)),
    ],
)
def test_the_coarsest_axis_comes_first(
    axcodes: str, shape: tuple[int, int, int], spacing: tuple[float, float, float]
):
    plan = make_plan(dataset("Own"), fingerprint(shape, spacing))
    assert plan.axcodes == axcodes
    assert plan.spacing == [5.0, 1.0, 1.0]
    # the rest keeps its place: sizes of the axes that axcodes names
    sizes = dict(zip("RAS", shape, strict=True))
    assert plan.patch_size == [sizes[axis] for axis in axcodes]
    assert plan.kernel_sizes[0] == [1, 3, 3]
    assert plan.strides[1] == [1, 2, 2]


def test_medians_are_over_cases_not_over_the_first():
    shapes = np.array([[40, 40, 40], [64, 64, 64], [200, 200, 200]])
    spacings = np.array([[2.0] * 3, [1.0] * 3, [0.5] * 3])
    plan = make_plan(dataset("Own"), facts(shapes, spacings))
    assert plan.spacing == [1.0, 1.0, 1.0]
    # at 1 mm the cases have 80, 64 and 100 voxels; 80 / 2^4 = 5
    assert plan.patch_size == [80, 80, 80]


def test_a_2d_plan_leaves_the_first_axis_out():
    found = fingerprint((64, 20, 96), (1, 5, 1.5))
    plan = make_plan(dataset("Own"), found, "2d")
    assert plan.axcodes == "ASR"
    assert plan.spacing == [1.5, 1.0]
    assert plan.patch_size == [96, 64]
    assert plan.strides == [[1, 1]] + [[2, 2]] * 4


@pytest.mark.parametrize("shape", [(6, 6, 6), (7, 15, 7)])
def test_images_too_small_for_a_network(shape: tuple[int, int, int]):
    with pytest.raises(PlanError, match="too small for a U-Net of 3 levels"):
        make_plan(dataset("Own"), fingerprint(shape, (1, 1, 1)))


def test_single_slices_have_no_3d_plan():
    found = fingerprint((64, 64, 1), (1, 1, 1.0))
    with pytest.raises(PlanError, match="there is no 3d_fullres .* these fit: 2d"):
        make_plan(dataset("Own"), found)
    assert make_plan(dataset("Own"), found, "2d").patch_size == [64, 64]


def test_a_task_without_a_table_is_planned_from_its_data():
    with pytest.raises(PlanError, match="no table for Own"):
        seed_plan(dataset("Own"))


def percentile(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    return float(np.percentile(values, share, weights=weights, method="inverted_cdf"))


def test_a_ct_is_planned_from_the_foreground_of_the_whole_set(tmp_path: Path):
    rng = np.random.default_rng(0)
    cases, foreground = [], []
    for index in range(3):
        # the second channel is no CT, and the background would change every number
        image = rng.integers(-1000, 2000, (24, 20, 16, 2)).astype(np.int16)
        label = (rng.random((24, 20, 16)) < 0.1 * (index + 1)).astype(np.uint8) * (index % 2 + 1)
        image[label > 0, 0] = rng.normal(60 + 10 * index, 25, (label > 0).sum()).astype(np.int16)
        foreground.append(image[label > 0, 0])
        cases.append(
            {
                "image": str(save_nifti(tmp_path / f"i{index}.nii.gz", image)),
                "label": str(save_nifti(tmp_path / f"l{index}.nii.gz", label)),
            }
        )
    own = replace(dataset("Own", ("CT", "PET")), training=tuple(cases))
    plan = make_plan(own, extract_fingerprint(own))
    values = np.concatenate(foreground).astype(np.float64)
    # each case weighs the same, however large its foreground
    weights = np.concatenate([np.full(len(one), 1 / len(one)) for one in foreground])
    mean = np.average(values, weights=weights)
    assert plan.normalization == ["ct", "zscore"]
    assert plan.intensity_statistics[1] is None
    assert plan.intensity_statistics[0] == pytest.approx(
        {
            "lower": percentile(values, weights, 0.5),
            "upper": percentile(values, weights, 99.5),
            "mean": mean,
            "std": np.sqrt(np.average((values - mean) ** 2, weights=weights)),
        },
        abs=1e-3,
    )
    # what is planned becomes an overlay
    assert json.loads(json.dumps(plan.overlay(), allow_nan=False)) == plan.overlay()


# --- the plan as a value


@pytest.fixture
def plan() -> Plan:
    return seed_plan(dataset("Task09_Spleen", ("CT",)))


def test_a_plan_is_found_in_a_config_that_holds_more(plan: Plan):
    assert plan_from({"epochs": 5, **plan.overlay()}) == plan


def test_a_plan_with_holes_is_refused(plan: Plan):
    config = {k: v for k, v in plan.overlay().items() if k not in ("axcodes", "filters")}
    with pytest.raises(PlanError, match=r"lacks ids of a plan: axcodes, filters"):
        plan_from(config)


def test_what_makes_two_plans_differ(plan: Plan):
    ours = plan.overlay()
    same = ours | {"batch_size": 9, "task_name": "Task77_Other", "epochs": 3}
    assert plan_differences(ours, same) == []
    theirs = ours | {"spacing": [1.0, 1.0, 1.0], "axcodes": "RAS"}
    assert plan_differences(ours, theirs) == [
        "axcodes: SAR against RAS",
        "spacing: [1.6, 0.79, 0.79] against [1.0, 1.0, 1.0]",
    ]


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        *((name, "ct") for name in ("CT", "ct", " Ct ")),
        *((name, "zscore") for name in ("MRI", "CTA", "PET-CT", "", "R", "zscore", "rgb")),
        *((name, "none") for name in ("noNorm", "NONORM")),
        ("rescale_to_0_1", "rescale_to_0_1"),
        ("rgb_to_0_1", "rgb_to_0_1"),
    ],
)
def test_the_name_of_a_channel_asks_for_its_normalisation(name: str, scheme: str):
    # as nnU-Net's table of names does
    assert scheme_of(name) == scheme


def test_only_a_z_score_moves_inside_the_mask():
    names = ("CT", "nonorm", "rescale_to_0_1", "rgb_to_0_1", "MRI")
    schemes = ["ct", "none", "rescale_to_0_1", "rgb_to_0_1", "zscore_nonzero"]
    assert normalization_of(names, 0.1) == schemes


def test_normalisation_follows_the_names_and_the_empty_share_of_the_volume():
    names = ("FLAIR", " ct ", "T1w")
    assert normalization_of(names, 0.9) == ["zscore", "ct", "zscore"]
    assert normalization_of(names, 0.74) == ["zscore_nonzero", "ct", "zscore_nonzero"]
    assert normalization_of(names, 0.75) == ["zscore", "ct", "zscore"]


def test_a_large_ct_has_a_low_resolution_plan_and_then_batch_dice_at_full():
    own = dataset("Own", ("CT",))
    large = fingerprint((512, 512, 400), (0.8, 0.8, 1.0))
    full, low = (make_plan(own, large, name) for name in ("3d_fullres", "3d_lowres"))
    assert full.batch_dice and not low.batch_dice
    assert min(np.array(low.spacing) / np.array(full.spacing)) > 1.2
    assert full.normalization == ["ct"] and full.intensity_statistics == [CT_FACTS]


def test_more_gpu_memory_gives_a_larger_plan():
    found = fingerprint((200, 200, 200), (1, 1, 1))
    small, large = (make_plan(dataset("Own"), found, gpu_memory_gb=gb) for gb in (8, 24))
    voxels = [np.prod(plan.patch_size) * plan.batch_size for plan in (small, large)]
    assert voxels[1] > 2 * voxels[0]


def test_without_intensities_only_a_ct_lacks_statistics():
    found = replace(fingerprint((64, 64, 64), (1, 1, 1)), intensities=[])
    assert make_plan(dataset("Own"), found).intensity_statistics == [None]


def test_names_for_another_number_of_channels():
    with pytest.raises(PlanError, match="the channel names are FLAIR, T1w, but the images have 1"):
        make_plan(dataset("Own", ("FLAIR", "T1w")), fingerprint((64, 64, 64), (1, 1, 1)))


@pytest.mark.parametrize("planner", PLANNERS)
def test_a_residual_planner_plans_the_residual_network(planner: str):
    found = fingerprint((64, 64, 64), (1, 1, 1))
    plan = make_plan(dataset("Own"), found, planner=planner)
    residual = planner != "plain"
    assert plan.architecture == ("ResidualEncoderUNet" if residual else "DynUNet")
    configuration = planned_configurations(found, 3, planner=planner)["3d_fullres"]
    assert plan.patch_size == configuration.topology.patch_size
    assert plan.batch_size == configuration.batch_size


@pytest.mark.parametrize(
    ("spacing", "architecture"), [((1, 1, 1), "DynUNet"), ((8, 1, 1), "PlainConvUNet")]
)
def test_kernels_that_differ_by_level_need_the_decoder_of_nnunet(spacing, architecture):
    plan = make_plan(dataset("Own"), fingerprint((16, 128, 128), spacing))
    assert (len({str(kernel) for kernel in plan.kernel_sizes}) > 1) == (architecture != "DynUNet")
    assert plan.architecture == architecture


def test_a_seed_plan_is_for_the_plain_network():
    assert seed_plan(dataset("Task04_Hippocampus")).architecture == "DynUNet"


def test_label_values_are_the_data_sets():
    own = DatasetDescription("Own", ("MRI",), LabelScheme(LABELS.names, (0, 128, 255)), (), ())
    plan = make_plan(own, fingerprint((64, 64, 64), (1, 1, 1)))
    assert plan.label_values == [0, 128, 255]
    assert plan_differences(plan.overlay(), plan.overlay() | {"label_values": [0, 1, 2]}) == [
        "label_values: [0, 128, 255] against [0, 1, 2]"
    ]


@pytest.mark.parametrize(
    ("folder", "channels", "patch"),
    [("wbc_2d_rgb", ("R", "G", "B"), [128, 128]), ("em_2d_grey", ("EM",), [512, 512])],
)
def test_real_pictures_are_planned_in_2d(
    real_data: Path, tmp_path: Path, folder: str, channels: tuple[str, ...], patch: list[int]
):
    plain = load_dataset(real_data / "extra" / folder)
    plain = replace(plain, training=plain.training[:12])
    found = extract_fingerprint(plain, cache_dir=tmp_path)
    values = sorted(found.label_voxels)
    own = plain.named(channels, LabelScheme([f"class_{value}" for value in values], values))
    assert list(planned_configurations(found, len(values))) == ["2d"]
    plan = make_plan(own, found, "2d")
    assert plan.spatial_dims == 2
    assert plan.spacing == [1.0, 1.0]
    assert plan.patch_size == patch
    assert plan.label_values == values == ([0, 128, 255] if len(channels) == 3 else [0, 255])


# --- regions and ignored voxels

TUMOUR = {"whole": (1, 2), "core": (2,)}


def test_a_plan_has_regions_and_the_ignore_value_as_json():
    labels = LabelScheme(LABELS.names, LABELS.values, 3, TUMOUR, (1, 2))
    described = replace(dataset("Own"), labels=labels)
    overlay = make_plan(described, fingerprint((64, 64, 64), (1, 1, 1))).overlay()
    ids = {name: overlay[name] for name in ("ignore_value", "regions", "regions_class_order")}
    assert ids == {
        "ignore_value": 3,
        "regions": {"whole": [1, 2], "core": [2]},
        "regions_class_order": [1, 2],
    }
    assert json.loads(json.dumps(overlay)) == overlay
    plain = make_plan(dataset("Own"), fingerprint((64, 64, 64), (1, 1, 1)))
    assert (plain.ignore_value, plain.regions, plain.regions_class_order) == (None, None, None)


def test_memory_is_planned_for_the_entries_of_nnunets_label_table():
    plain = dataset("Own")
    assert plain.num_entries == 3
    assert replace(plain, labels=LabelScheme(LABELS.names, ignore_value=3)).num_entries == 4
    regions = LabelScheme(LABELS.names, regions={"all": (1, 2)}, regions_class_order=(1,))
    assert replace(plain, labels=regions).num_entries == 2


def test_regions_in_another_order_are_another_plan():
    ours = {"regions": {"whole": [1, 2], "core": [2]}, "regions_class_order": [1, 2]}
    theirs = {**ours, "regions": dict(reversed(ours["regions"].items()))}
    assert ours == theirs  # a mapping does not tell
    assert plan_differences(ours, dict(ours)) == []
    (difference,) = plan_differences(ours, theirs)
    assert difference.startswith("regions: ")
    # a plan from before there were regions has none
    assert plan_differences({}, {"regions": None, "ignore_value": None}) == []
