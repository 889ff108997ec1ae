"""Check of the content of ``metadata.json``; the schema checks its form."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from dynunet_bundle.delivery.verify.bundle_folder import BundleFolder, BundleProblem
from dynunet_bundle.shapes import TEXT, by_name, list_of, object_with

MANDATORY = (
    "version",
    "changelog",
    "schema",
    "monai_version",
    "pytorch_version",
    "numpy_version",
    "required_packages_version",
    "task",
    "description",
    "authors",
    "copyright",
    "network_data_format",
)
"""Ids required by MONAI's bundle specification and the Model Zoo's CI, where ``required_packages_version`` replaces
the older ``optional_packages_version``."""

METADATA_SCHEMA = object_with(
    {
        "changelog": by_name(TEXT),
        "required_packages_version": by_name(TEXT),
        "optional_packages_version": by_name(TEXT),
        "network_data_format": by_name(
            by_name(
                object_with(
                    {
                        "num_channels": {"type": "integer", "minimum": 1, "maximum": 10_000},
                        "channel_def": by_name(TEXT),
                        "spatial_shape": list_of({"type": ["integer", "string"]}),
                    }
                )
            )
        ),
    },
    description="Correct configs/metadata.json.",
)
"""Schema of the parts that the checks read; ``metadata_schema.json`` covers the whole file."""

SEMANTIC_VERSION = re.compile(r"\d+\.\d+\.\d+")
EXACT_VERSION = re.compile(r"\d+(\.\d+)+((a|b|rc|\.post)\d+)?")
DATA_FIELDS = ("num_channels", "spatial_shape", "dtype", "is_patch_data", "channel_def")


def check_metadata(bundle: BundleFolder) -> list[BundleProblem]:
    """Mandatory ids, a changelog entry for the version, exact versions, channels numbered from 0, the plan's sizes."""
    metadata = bundle.config("metadata.json", METADATA_SCHEMA)
    problems = [
        BundleProblem(f'metadata.json lacks "{name}".', "Add it.")
        for name in MANDATORY
        if name not in metadata
    ]
    problems += _versions(metadata)
    formats = metadata.get("network_data_format", {})
    plan = bundle.config("inference.json")
    for side, key, names in (
        ("inputs", "image", plan.get("channel_names")),
        ("outputs", "pred", list(plan.get("regions") or plan.get("label_names") or [])),
    ):
        entry = formats.get(side, {}).get(key)
        if entry is None:
            problems.append(
                BundleProblem(
                    f'network_data_format has no {side} "{key}".',
                    "Add it; MONAI and MONAI Label look for that name.",
                )
            )
            continue
        faults = _data_faults(entry, names, plan)
        problems += [
            BundleProblem(f"{side} {key}: {fault}.", "Package the model again.") for fault in faults
        ]
    return problems


def _versions(metadata: Mapping[str, Any]) -> Iterator[BundleProblem]:
    version = str(metadata.get("version"))
    if not SEMANTIC_VERSION.fullmatch(version):
        yield BundleProblem(f'version is "{version}".', "Use X.Y.Z.")
    if version not in metadata.get("changelog", {}):
        yield BundleProblem(f"the changelog has no entry for {version}.", "Add an entry.")
    required = dict(metadata.get("required_packages_version", {}))
    optional = dict(metadata.get("optional_packages_version", {}))
    both = sorted(required.keys() & optional.keys())
    if both:
        yield BundleProblem(
            f"{', '.join(both)} is required and optional.", "List each package once."
        )
    own = {name: metadata.get(name, "") for name in MANDATORY if name.endswith("y_version")}
    own |= {name: metadata.get(name, "") for name in ("monai_version", "pytorch_version")}
    for name, value in {**own, **required, **optional}.items():
        if not EXACT_VERSION.fullmatch(str(value)):
            yield BundleProblem(
                f'the version of {name} is "{value}".', "Give an exact version, which pip needs."
            )


def _data_faults(
    entry: Mapping[str, Any], names: list[str] | None, plan: Mapping[str, Any]
) -> Iterator[str]:
    missing = [name for name in DATA_FIELDS if name not in entry]
    if missing:
        yield f"{', '.join(missing)} missing"
        return
    channels = entry["channel_def"]
    if list(channels) != [str(index) for index in range(entry["num_channels"])]:
        yield f"channel_def has {list(channels)} for {entry['num_channels']} channels"
    if names and list(channels.values())[: len(names)] != names:
        yield f"channel_def names {list(channels.values())}, but the plan {names}"
    if "patch_size" in plan and entry["spatial_shape"] != plan["patch_size"]:
        yield f"spatial_shape is {entry['spatial_shape']}, but the plan's patch is {plan['patch_size']}"
