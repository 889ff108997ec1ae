"""Shapes of nnU-Net's plans.json and dataset.json, as far as they are read."""

from dynunet_bundle.labels.dataset_json import LABELS_SCHEMA
from dynunet_bundle.planning.plan import (
    BATCH_SIZE,
    FILTERS,
    LEVELS,
    SIZES,
    SPACING,
    VALUE,
)
from dynunet_bundle.shapes import (
    FILE_NAME,
    MAYBE_TEXT,
    NUMBER,
    OBJECT,
    TEXT,
    Schema,
    by_name,
    list_of,
    object_with,
)

RESAMPLING = {
    "resampling_fn_data": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
    "resampling_fn_seg": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
    "resampling_fn_probabilities": {
        "is_seg": False,
        "order": 1,
        "order_z": 0,
        "force_separate_z": None,
    },
}
"""Arguments of nnU-Net's ``resample_data_or_seg_to_shape`` that the bundle's resampling implements."""

CHANNELS = by_name(TEXT, minProperties=1, propertyNames={"pattern": "^[0-9]{1,4}$"})
DATASET_SCHEMA = object_with(
    {
        "channel_names": CHANNELS,
        "modality": CHANNELS,
        "labels": LABELS_SCHEMA,
        "regions_class_order": {**list_of(VALUE), "type": ["array", "null"]},
        "file_ending": TEXT,
        "overwrite_image_reader_writer": MAYBE_TEXT,
    },
    ("labels",),
    description="Pass a folder of nnUNet_results with the dataset.json that nnU-Net saved.",
)
"""Schema of the dataset.json of a results folder, which lists no cases."""

BLOCKS: Schema = {
    "type": ["integer", "array"],
    "minimum": 1,
    "maximum": 64,
    "items": {"type": "integer", "minimum": 1, "maximum": 64},
}
"""Schema of convolutions or blocks: one number, or one per level."""

NETWORK_SCHEMA = object_with(
    {
        "features_per_stage": FILTERS,
        "kernel_sizes": LEVELS,
        "strides": LEVELS,
        "n_conv_per_stage": BLOCKS,
        "n_blocks_per_stage": BLOCKS,
        "n_conv_per_stage_decoder": BLOCKS,
        "norm_op": MAYBE_TEXT,
        "norm_op_kwargs": {
            **object_with(
                {"eps": {"type": "number", "exclusiveMinimum": 0}, "affine": {"type": "boolean"}}
            ),
            "type": ["object", "null"],
        },
        "nonlin": MAYBE_TEXT,
        "nonlin_kwargs": {
            **object_with({"negative_slope": NUMBER}),
            "type": ["object", "null"],
        },
    }
)
"""Schema of the arguments of a network; whether it is one of ours is checked afterwards."""

CONFIGURATION_SCHEMA = object_with(
    {
        "inherits_from": MAYBE_TEXT,
        "previous_stage": {**FILE_NAME, "type": ["string", "null"]},
        "preprocessor_name": TEXT,
        "spacing": SPACING,
        "patch_size": SIZES,
        "batch_size": BATCH_SIZE,
        "batch_dice": {"type": "boolean"},
        "normalization_schemes": list_of(TEXT, minItems=1),
        "use_mask_for_norm": list_of({"type": "boolean"}),
        **{step: TEXT for step in RESAMPLING},
        **{f"{step}_kwargs": OBJECT for step in RESAMPLING},
        "architecture": object_with(
            {"network_class_name": TEXT, "arch_kwargs": NETWORK_SCHEMA},
            ("network_class_name", "arch_kwargs"),
        ),
        # before nnU-Net 2.3
        "UNet_class_name": TEXT,
        "UNet_base_num_features": FILTERS["items"],
        "unet_max_num_features": FILTERS["items"],
        "conv_kernel_sizes": LEVELS,
        "pool_op_kernel_sizes": LEVELS,
        "n_conv_per_stage_encoder": BLOCKS,
        "n_conv_per_stage_decoder": BLOCKS,
    }
)
STATISTICS = {
    "lower": "percentile_00_5",
    "upper": "percentile_99_5",
    "mean": "mean",
    "std": "std",
}
"""nnU-Net's names of the intensities of a CT by ours."""

INTENSITY_TABLE = by_name(
    object_with({name: {"type": "number"} for name in STATISTICS.values()}),
)
PLANS_SCHEMA = object_with(
    {
        "dataset_name": TEXT,
        "configurations": by_name(CONFIGURATION_SCHEMA, minProperties=1),
        "image_reader_writer": TEXT,
        "transpose_forward": list_of({"enum": [0, 1, 2]}, minItems=3, maxItems=3, uniqueItems=True),
        "foreground_intensity_properties_per_channel": INTENSITY_TABLE,
        "foreground_intensity_properties_by_modality": INTENSITY_TABLE,
    },
    ("configurations",),
    description="Pass a folder of nnUNet_results with the plans.json that nnU-Net saved.",
)
"""Schema of plans.json; other keys are ignored."""
