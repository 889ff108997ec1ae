"""plans.json and dataset.json become a plan, or are refused with the reason."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.nnunet_results import CLASSES, DATASET, make_results, network_arguments, plans_of

from dynunet_bundle.errors import DatasetError, PlanError
from dynunet_bundle.nnunet.plans import imported_plan
from dynunet_bundle.nnunet.results_folder import read_results
from dynunet_bundle.planning.plan import Plan

SOURCE = Path("results")


def plan_of(plans: dict[str, Any], name: str = "3d_fullres", **dataset: Any) -> Plan:
    return imported_plan(plans, {**DATASET, **dataset}, name, "Task", SOURCE)


def architecture(kind: str = "PlainConvUNet", **changes: Any) -> dict[str, Any]:
    arguments = {**network_arguments(), **changes}
    return {"network_class_name": CLASSES + kind, "arch_kwargs": arguments}


def test_values_are_those_of_nnunet() -> None:
    plan = plan_of(plans_of())
    assert (plan.spacing, plan.patch_size, plan.batch_size) == ([2.0, 2.0, 2.0], [16, 16, 16], 2)
    assert (plan.label_names, plan.label_values) == (["background", "head", "tail"], [0, 1, 2])
    assert (plan.filters, plan.strides) == ([4, 6, 8], [[1, 1, 1], [2, 2, 2], [2, 2, 2]])
    assert plan.kernel_sizes == [[1, 3, 3], [3, 3, 3], [3, 3, 3]]
    assert (plan.architecture, plan.batch_dice, plan.cascade) == ("PlainConvUNet", True, False)
    assert plan.norm_name == ["INSTANCE", {"affine": True}]
    assert plan_of(plans_of("ResidualEncoderUNet")).architecture == "ResidualEncoderUNet"
    flat = plan_of(plans_of(dims=2), "2d")
    assert (flat.spatial_dims, flat.spacing, flat.architecture) == (2, [2.0, 2.0], "DynUNet")


@pytest.mark.parametrize(
    ("reader", "transposed", "axes"),
    [
        ("SimpleITKIO", [0, 1, 2], "zyx"),
        ("NibabelIO", [1, 0, 2], "yzx"),
        ("Tiff3DIO", [2, 0, 1], "xzy"),
        ("NibabelIOWithReorient", [0, 1, 2], "SAR"),
        ("SimpleITKIOWithReorient", [1, 0, 2], "ASR"),
    ],
)
def test_axes_are_those_of_the_reader_and_the_plan(reader, transposed, axes) -> None:
    plans = plans_of() | {"transpose_forward": transposed, "image_reader_writer": reader}
    # nnU-Net predicts with the reader of plans.json, whatever dataset.json says
    assert plan_of(plans, overwrite_image_reader_writer="another").axcodes == axes
    del plans["image_reader_writer"]
    assert plan_of(plans, overwrite_image_reader_writer=reader).axcodes == axes


@pytest.mark.parametrize(
    ("scheme", "mask", "ours"),
    [
        ("ZScoreNormalization", False, "zscore"),
        ("ZScoreNormalization", True, "zscore_nonzero"),
        ("CTNormalization", False, "ct"),
        ("NoNormalization", True, "none"),
        ("RescaleTo01Normalization", False, "rescale_to_0_1"),
        ("RGBTo01Normalization", False, "rgb_to_0_1"),
    ],
)
def test_normalisation(scheme, mask, ours) -> None:
    plan = plan_of(plans_of(normalization_schemes=[scheme], use_mask_for_norm=[mask]))
    assert plan.normalization == [ours]
    facts = {"lower": 1.0, "upper": 9.0, "mean": 5.0, "std": 2.0}
    assert plan.intensity_statistics == [facts if ours == "ct" else None]


def test_regions_and_the_ignored_value() -> None:
    labels = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    plan = plan_of(plans_of(), labels=labels, regions_class_order=[1, 2])
    assert plan.regions == {"whole": [1, 2], "core": [2]}
    assert (plan.regions_class_order, plan.ignore_value) == ([1, 2], 3)


def test_a_configuration_inherits() -> None:
    plans = plans_of()
    own = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres", "batch_size": 7}
    plans["configurations"]["3d_cascade_fullres"] = own
    plan = plan_of(plans, "3d_cascade_fullres")
    assert (plan.cascade, plan.batch_size, plan.patch_size) == (True, 7, [16, 16, 16])
    plans["configurations"]["3d_fullres"] = {"inherits_from": "3d_cascade_fullres"}
    with pytest.raises(PlanError, match="no configuration"):
        plan_of(plans, "3d_cascade_fullres")
    with pytest.raises(PlanError, match='no configuration "2d"; it has 3d_fullres'):
        plan_of(plans_of(), "2d")


def test_plans_before_nnunet_2_3() -> None:
    plans = plans_of()
    configuration = plans["configurations"]["3d_fullres"]
    new = configuration.pop("architecture")["arch_kwargs"]
    configuration |= {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 4,
        "unet_max_num_features": 6,
        "n_conv_per_stage_encoder": [2, 2, 2],
        "n_conv_per_stage_decoder": [2, 2],
        "conv_kernel_sizes": new["kernel_sizes"],
        "pool_op_kernel_sizes": new["strides"],
    }
    plan = plan_of(plans)
    assert (plan.filters, plan.kernel_sizes) == ([4, 6, 6], new["kernel_sizes"])
    configuration["n_conv_per_stage_encoder"] = [3, 3, 3]
    with pytest.raises(PlanError, match="n_conv_per_stage is"):
        plan_of(plans)


def test_settings_of_layers() -> None:
    settings = {
        "norm_op_kwargs": {"eps": 1e-3, "affine": False},
        "nonlin_kwargs": {"negative_slope": 0.2},
    }
    plan = plan_of(plans_of(architecture=architecture(**settings)))
    assert plan.norm_name == ["INSTANCE", {"affine": False, "eps": 1e-3}]
    assert plan.negative_slope == 0.2
    batch = architecture(norm_op="torch.nn.modules.batchnorm.BatchNorm3d")
    assert plan_of(plans_of(architecture=batch)).norm_name[0] == "BATCH"
    default = architecture(nonlin_first=False, stem_channels=None, dropout_op_kwargs={"p": 0})
    assert plan_of(plans_of(architecture=default)) == plan_of(plans_of())
    even = architecture(kernel_sizes=[[3, 3, 3]] * 3, strides=[1, 2, 2])
    assert plan_of(plans_of(architecture=even)).architecture == "DynUNet"


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"architecture": architecture("UMambaBot")}, "the network is UMambaBot"),
    ({"architecture": architecture(n_conv_per_stage=[3, 3, 3])}, "n_conv_per_stage is"),
    ({"architecture": architecture(n_conv_per_stage_decoder=[1, 1])}, "n_conv_per_stage_decoder"),
    (
        {"architecture": architecture("ResidualEncoderUNet", n_blocks_per_stage=[1, 4, 4])},
        "n_blocks",
    ),
    ({"architecture": architecture(norm_op="torch.nn.GroupNorm")}, "the norm is GroupNorm"),
    ({"architecture": architecture(nonlin="torch.nn.ReLU")}, "the activation ReLU"),
    ({"architecture": architecture(strides=[[1, 1, 1]])}, "the same number of levels"),
    # nnU-Net pads its convolution by 1, DynUNet by 0
    ({"architecture": architecture(strides=[[1] * 3, [4] * 3, [2] * 3])}, r"stride \[4, 4, 4\]"),
    (
        {"architecture": architecture(kernel_sizes=[[3] * 3, [2] * 3, [3] * 3])},
        r"kernel \[2, 2, 2\]",
    ),
    ({"architecture": architecture(nonlin_first=True)}, "the network has nonlin_first True"),
    (
        {"architecture": architecture("ResidualEncoderUNet", squeeze_excitation=True)},
        "squeeze_excitation",
    ),
    ({"architecture": architecture(my_option=1)}, "the network has my_option 1"),
    (
        {"architecture": architecture(norm_op_kwargs={"track_running_stats": True})},
        "norm_op_kwargs has track_running_stats True",
    ),
    ({"preprocessor_name": "MyPreprocessor"}, "the preprocessor is MyPreprocessor"),
    ({"resampling_fn_data": "resample_torch_fornnunet"}, "resample_torch_fornnunet"),
    ({"resampling_fn_probabilities_kwargs": {"order": 3}}, "resampling_fn_probabilities"),
    ({"normalization_schemes": ["MyNorm"]}, 'the normalization "MyNorm"'),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_would_give_other_masks_is_refused(changes, message) -> None:
    with pytest.raises(PlanError, match=message) as caught:
        plan_of(plans_of(**changes))
    assert "\n" not in str(caught.value)


def test_an_unknown_reader_is_refused() -> None:
    with pytest.raises(PlanError, match='read by "MyReader"'):
        plan_of(plans_of() | {"image_reader_writer": "MyReader"})


def test_names_that_monai_would_read_as_code_are_refused() -> None:
    with pytest.raises(PlanError, match="channel"):
        plan_of(plans_of(), channel_names={"0": "$exit()"})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("features_per_stage", "444"),
        ("features_per_stage", [2**40]),
        ("kernel_sizes", 1.5),
        ("kernel_sizes", [[3] * 3] * 50_000),
        ("strides", [[1.5]]),
        ("norm_op_kwargs", {"eps": "x"}),
        ("norm_op_kwargs", [1]),
        ("nonlin_kwargs", {"negative_slope": "$1"}),
        ("n_conv_per_stage", {"a": 1}),
    ],
)
def test_a_network_of_another_shape_is_refused(tmp_path: Path, field: str, value: Any) -> None:
    folder = make_results(tmp_path / "results", architecture=architecture(**{field: value}))
    with pytest.raises(DatasetError, match=rf"plans\.json: .*arch_kwargs\.{field}"):
        read_results(folder, None, "final")


@pytest.mark.parametrize("field", ["kernel_sizes", "strides"])
@pytest.mark.parametrize("level", [[], [3], [3, 3], [3, 3, 3, 3]])
def test_levels_of_other_dimensions_are_refused(field: str, level: list[int]) -> None:
    levels = [[1, 1, 1], level, [2, 2, 2]]
    with pytest.raises(PlanError, match="a level has the kernel or stride .*, not 3 numbers"):
        plan_of(plans_of(architecture=architecture(**{field: levels})))


def test_axes_that_are_no_permutation_are_refused(tmp_path: Path) -> None:
    folder = make_results(tmp_path / "results")
    content = {**plans_of(), "transpose_forward": [0, 0, 1]}
    (folder / "plans.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="transpose_forward"):
        read_results(folder, None, "final")
