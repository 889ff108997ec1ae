"""Name and shape of ``run.json``, for its readers; ``run_record.py`` writes it. Nothing here needs torch."""

from pathlib import Path
from typing import Any

from dynunet_bundle.errors import ConfigError
from dynunet_bundle.files import read_json
from dynunet_bundle.planning.plan import PLAN_SCHEMA, VALUE
from dynunet_bundle.shapes import (
    COUNT,
    DURATION,
    FILE_NAME,
    MAYBE_NUMBER,
    MAYBE_TEXT,
    OBJECT,
    SHA256,
    TEXT,
    by_name,
    list_of,
    object_with,
)

RUN_NAME = "run.json"

CASE_SCHEMA = object_with(
    {
        "status": TEXT,
        "error": MAYBE_TEXT,
        "inputs": list_of(OBJECT),
        "mask": FILE_NAME,
        "mask_sha256": SHA256,
        "objects": list_of(FILE_NAME),
        "refused": by_name(TEXT),
        "made_by": TEXT,
        "shape": list_of(COUNT),
        "spacing_mm": list_of({"type": "number"}),
        "sheared_degrees": {"type": "number"},
        "seconds": {**by_name({"type": "number"}), "type": ["object", "null"]},
        "volumes_ml": {**by_name({"type": "number"}), "type": ["object", "null"]},
        "areas_px2": {**by_name({"type": "number"}), "type": ["object", "null"]},
        "components": {**by_name(COUNT), "type": ["object", "null"]},
        "entropy": {**by_name(MAYBE_NUMBER), "type": ["object", "null"]},
        "clipped": list_of(MAYBE_NUMBER),
        "in_training": {"type": "boolean"},
        "flags": list_of(
            object_with(
                {
                    "kind": TEXT,
                    "grade": TEXT,
                    "label": MAYBE_TEXT,
                    "message": TEXT,
                    "value": MAYBE_NUMBER,
                    "range": {
                        **list_of({"type": "number"}, minItems=2, maxItems=2),
                        "type": ["array", "null"],
                    },
                }
            )
        ),
    }
)
RUN_SCHEMA = object_with(
    {
        "status": TEXT,
        "exit_code": {"type": ["integer", "null"]},
        "error": MAYBE_TEXT,
        "started": TEXT,
        "seconds": DURATION,
        "task_name": TEXT,
        "versions": OBJECT,
        "device": TEXT,
        "plan": PLAN_SCHEMA,
        "plan_sha256": SHA256,
        "weights": list_of(object_with({"file": TEXT, "sha256": SHA256})),
        "parameters": OBJECT,
        "label_names": {**list_of(TEXT), "type": ["array", "null"]},
        "label_values": {**list_of(VALUE), "type": ["array", "null"]},
        "parts": object_with(
            {
                "number": COUNT,
                "states": by_name(
                    object_with(
                        {
                            "status": TEXT,
                            "exit_code": {"type": ["integer", "null"]},
                            "error": MAYBE_TEXT,
                        },
                        ("status", "exit_code", "error"),
                    )
                ),
            },
            ("number", "states"),
        ),
        "cases": by_name(CASE_SCHEMA),
    },
    description="Predict again, or move the file away: dynunet-bundle predict did not write it.",
)
"""Schema of ``run.json``; after an early stop, values that were not known yet are missing."""


def read_run_json(path: Path) -> dict[str, Any]:
    """The content of ``run.json``; empty if it does not exist.

    Raises:
        ConfigError: if it is malformed.
    """
    run: dict[str, Any] = read_json(path, ConfigError, RUN_SCHEMA) if path.is_file() else {}
    return run
