"""Handlers that watch a training, as declared in train.json, for configs whose lists lack some of them."""

import json
from typing import Any

from conftest import BUNDLE

WRITER = {
    "_target_": "torch.utils.tensorboard.SummaryWriter",
    "_disabled_": "$@rank > 0",
    "log_dir": "$@output_dir + '/tensorboard'",
}
TRAINING: list[dict[str, Any]] = [
    {
        "_target_": "dynunet_bundle.training.watching.progress.ProgressHandler",
        "_disabled_": "$@rank > 0",
        "output_dir": "@output_dir",
        "evaluator": "@validate#evaluator",
        "optimizer": "@optimizer",
        "label_names": "$@labels.target_names",
        "batch_size": "@batch_size",
        "world_size": "@world_size",
    },
    {
        "_target_": "TensorBoardStatsHandler",
        "_disabled_": "$@rank > 0",
        "summary_writer": "@train#summary_writer",
        "iteration_log": False,
        "epoch_event_writer": {
            "_target_": "dynunet_bundle.training.watching.tensorboard.write_epoch",
            "_mode_": "callable",
        },
    },
    {
        "_target_": "dynunet_bundle.training.watching.curves.CurvesHandler",
        "_disabled_": "$@rank > 0",
        "output_dir": "@output_dir",
        "labels": "@labels",
    },
    {
        "_target_": "dynunet_bundle.training.watching.tracking.EpochTracking",
        "_disabled_": "$@rank > 0",
    },
]
VALIDATION: list[dict[str, Any]] = [
    {
        "_target_": "dynunet_bundle.training.watching.tracking.NamedScores",
        "labels": "@labels",
    },
    {
        "_target_": "dynunet_bundle.training.watching.tensorboard.ExampleSlices",
        "_disabled_": "$@rank > 0",
        "summary_writer": "@train#summary_writer",
        "spacing": "@spacing",
        "label_names": "@label_names",
    },
]


def watched() -> dict[str, Any]:
    """Overrides of train.json whose lists have exactly these handlers of this kind."""
    config = json.loads((BUNDLE / "configs" / "train.json").read_text())
    ours = {handler["_target_"] for handler in TRAINING + VALIDATION}

    def others(part: str) -> list[dict[str, Any]]:
        return [one for one in config[part]["handlers"] if one["_target_"] not in ours]

    return {
        "train#summary_writer": WRITER,
        "train#handlers": others("train") + TRAINING,
        "validate#handlers": VALIDATION + others("validate"),
    }
