"""The type and range of each setting of the configs, as JSON Schema: the one table.

The check before a run (``values.py``), the tables of docs/training.md and the tests read it. Names are ids of the
configs, ``optimizer#name`` for a part of one. ``FITTING`` holds the ids of a plan; whether they fit each other is
checked by ``planning/consistency.py``.
"""

from collections.abc import Mapping
from typing import Any

from dynunet_bundle.labels.largest_component import RULES_ID
from dynunet_bundle.planning.plan import PLAN_SCHEMA, VALUE
from dynunet_bundle.shapes import (
    COUNT,
    DURATION,
    FILE_PATH,
    OBJECT,
    OVERLAP,
    POSITIVE,
    Schema,
    list_of,
    object_with,
)

PATH: Schema = {**FILE_PATH, "description": "a path"}
FLAG: Schema = {"type": "boolean"}
SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
FACTOR: Schema = {"type": "number", "exclusiveMinimum": 0}

DEVICE: Schema = {
    "type": "string",
    "pattern": "^(cpu|mps|(cuda|xpu)(:[0-9]{1,4})?)$",
    "description": "a device such as cpu or cuda:0",
}
BLEND: Schema = {"enum": ["gaussian", "constant"]}
"""Schema of the weights of a window's voxels."""

PRECISION: Schema = {"enum": ["auto", "float32", "float16", "bfloat16"]}

NORM_NAME = "^(?i:INSTANCE|BATCH|GROUP|SYNCBATCH|INSTANCE_NVFUSER)$"
"""Pattern of the norms of MONAI's layer factories that a network of a plan can have; MONAI ignores the case."""

NORM: Schema = {
    "anyOf": [
        {"type": "string", "pattern": f"^$|{NORM_NAME}"},
        {
            "type": "array",
            "items": [
                {"type": "string", "pattern": NORM_NAME},
                object_with({name: FLAG for name in ("affine", "track_running_stats")}),
            ],
            "minItems": 2,
            "maxItems": 2,
        },
    ],
    "description": 'a norm and its arguments, such as ["INSTANCE", {"affine": true}], ["BATCH", {}] or '
    '["GROUP", {"num_groups": 16}], or "" for none',
}


def or_null(schema: Schema) -> dict[str, Any]:
    """The schema of a setting that may be null."""
    if "enum" in schema:
        return {**schema, "enum": [*schema["enum"], None]}
    return {**schema, "type": [schema["type"], "null"]}


WEIGHTS: Schema = {
    "anyOf": [PATH, list_of(PATH, minItems=1)],
    "description": "a path, or a list of paths",
}
"""Schema of the weights of a prediction: one file, or those of an ensemble."""

FOLDERS: dict[str, Schema] = {
    "bundle_root": PATH,
    "dataset_dir": PATH,
    "previous_dir": or_null(PATH),
    "ckpt_dir": PATH,
    "output_dir": PATH,
    "prepared_dir": PATH,
    "weights_file": WEIGHTS,
    "device": DEVICE,
    "rank": COUNT,
    "world_size": POSITIVE,
}

FITTING: dict[str, Schema] = {
    **PLAN_SCHEMA["properties"],
    "architecture": {"enum": ["DynUNet", "PlainConvUNet", "ResidualEncoderUNet"]},
    "normalization": list_of(
        {"enum": ["zscore", "zscore_nonzero", "ct", "none", "rescale_to_0_1", "rgb_to_0_1"]},
        minItems=1,
    ),
    "norm_name": NORM,
    "negative_slope": {"type": "number", "minimum": 0, "maximum": 1},
}
"""Ids of a plan: those of ``PLAN_SCHEMA``, and the names that this version knows."""

TRAINING: dict[str, Schema] = {
    "recipe": {"type": "object"},
    "fold": {"anyOf": [COUNT, {"const": "all"}], "description": "a whole number, or all"},
    "num_folds": {"type": "integer", "minimum": 2, "maximum": 2**15},
    "splits_file": or_null(PATH),
    "seed": {"type": "integer", "minimum": 0, "maximum": 2**32 - 1},
    "deterministic": FLAG,
    "epochs": POSITIVE,
    "iterations_per_epoch": POSITIVE,
    "val_interval": POSITIVE,
    "skip_validation": COUNT,
    "early_stopping": or_null(POSITIVE),
    "checkpoint": {"enum": ["last_and_best", "last_only", "none"]},
    "restart": FLAG,
    "pretrained": or_null(PATH),
    "learning_rate": DURATION,
    "lr_epoch_level": FLAG,
    "gradient_clip": or_null(FACTOR),
    "gradient_accumulation": POSITIVE,
    "deep_supervision": FLAG,
    "ema_decay": or_null(OVERLAP),
    "oversampling": SHARE,
    "optimizer#name": {"enum": ["sgd", "adam", "adamw", "radam"]},
    "optimizer#momentum": DURATION,
    "optimizer#nesterov": FLAG,
    "optimizer#weight_decay": DURATION,
    "optimizer#no_decay": list_of({"enum": ["norm", "bias"]}),
    "optimizer#lookahead": or_null(
        object_with(
            {"steps": POSITIVE, "rate": {**FACTOR, "maximum": 1}}, additionalProperties=False
        )
    ),
    "lr_scheduler#name": {"enum": ["none", "poly", "cosine", "cosine_annealing"]},
    "lr_scheduler#power": FACTOR,
    "lr_scheduler#end_factor": SHARE,
    "lr_scheduler#warmup_steps": COUNT,
    "lr_scheduler#first_cycle_steps": POSITIVE,
    "lr_scheduler#cycle_growth": {"type": "number", "minimum": 1},
    "lr_scheduler#peak_decay": {**FACTOR, "maximum": 1},
    "loss#include_background": FLAG,
    "loss#pixel_loss": {"enum": ["cross_entropy", "focal", "topk"]},
    "loss#focal_gamma": DURATION,
    "loss#topk_percent": {**FACTOR, "maximum": 100},
    "loss#dice_weight": DURATION,
    "loss#pixel_weight": DURATION,
    "loss#smooth": DURATION,
    "augmentation": OBJECT,
    "mask_augmentation": or_null(OBJECT),
    "own_augmentation": list_of(OBJECT),
    "volumes_per_batch": or_null(POSITIVE),
    "amp": FLAG,
    "amp_dtype": PRECISION,
    "tf32": FLAG,
    "compile": FLAG,
    "compile_mode": or_null(
        {"enum": ["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]}
    ),
    "memory_format": {
        "type": "string",
        "pattern": "^[$@%]",
        "description": "an expression such as $torch.contiguous_format",
    },
    "store_dtype": {"enum": ["float32", "float16"]},
    "num_workers": POSITIVE,
    "feed_threads": POSITIVE,
    "feed_workers": COUNT,
    "validate#inferer#mode": BLEND,
    "validate#inferer#overlap": OVERLAP,
    "validate#inferer#sw_batch_size": POSITIVE,
}

PREDICTION: dict[str, Schema] = {
    "input": PATH,
    "series_rules": or_null(OBJECT),
    "masks_dir": or_null(PATH),
    "probabilities_dir": or_null(PATH),
    "displayable_configs": object_with(
        {"mirroring": FLAG, "overlap": OVERLAP, "skip_empty": FLAG}, additionalProperties=False
    ),
    "mirror_axes": list_of({"type": "integer", "minimum": 0, "maximum": 2}, uniqueItems=True),
    "overlap": OVERLAP,
    "sw_batch_size": POSITIVE,
    "precision": PRECISION,
    "backend": {"enum": ["torch", "torchscript", "onnx"]},
    "backend_file": or_null(PATH),
    RULES_ID: list_of(list_of({**VALUE, "minimum": 1}, minItems=1)),
    "allow_trained_cases": FLAG,
    "dicom_objects": list_of({"enum": ["seg", "fractional", "rtstruct", "report"]}),
    "label_codes": or_null(OBJECT),
    "resume": FLAG,
    "part": or_null(list_of(COUNT, minItems=2, maxItems=2)),
    "max_entropy": DURATION,
    "max_clipped": SHARE,
    "inferer#mode": BLEND,
}
"""Settings that only inference.json or evaluate.json has."""

SETTINGS: Mapping[str, Schema] = {**FOLDERS, **FITTING, **TRAINING, **PREDICTION}
