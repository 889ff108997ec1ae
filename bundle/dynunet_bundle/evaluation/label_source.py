"""Where the names and values of classes come from: options, task overlays, or the run that made the masks."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dynunet_bundle.evaluation.mask_folders import LABEL_IDS, label_ids
from dynunet_bundle.inference.run_json import RUN_NAME, read_run_json

BY_VALUE = "classes are named by their values"


class LabelSource(NamedTuple):
    """Names and values of the classes, and their source.

    Attributes:
        ids: keyword arguments of ``find_masks``.
        told: where the names come from, as one line of text.
    """

    ids: dict[str, Any]
    told: str


def find_label_source(
    given: Mapping[str, Any],
    overlays: Sequence[str],
    config_dir: str | Path,
    predictions: str | Path,
    plan: Mapping[str, Any] | None = None,
) -> LabelSource:
    """Names and values of the classes: from the options, the overlays or the run that made the masks, in this order.

    ``run.json`` is read only if neither options nor overlays name the classes. It then also gives the regions and the
    ignored value, unless an overlay does. If the given values differ from the run's, its names are not used.

    Args:
        given: ``label_names`` and ``label_values`` of the command line, None if not given.
        overlays: config files of the task; later ones override earlier ones.
        config_dir: folder of the bundle's configs.
        predictions: folder of masks, where a prediction also writes ``run.json``.
        plan: plan ids of a model; overlays and options take precedence.

    Raises:
        ConfigError: if an overlay or ``run.json`` is malformed.
    """
    of_model = {name: plan[name] for name in LABEL_IDS if name in plan} if plan else {}
    of_overlays = of_model | label_ids(overlays, config_dir)
    options = {name: value for name, value in given.items() if value is not None}
    ids = of_overlays | options
    if "label_names" in ids:
        other = "--config_file" if overlays else "--model"
        source = "--label_names" if "label_names" in options else other
        return LabelSource(ids, f"class names: from {source}")
    file = Path(predictions) / RUN_NAME
    of_run = _ids_of_run(file)
    if of_run and ids.get("label_values", of_run["label_values"]) == of_run["label_values"]:
        if {"regions", "regions_class_order"} & set(ids):
            of_run = {name: value for name, value in of_run.items() if "regions" not in name}
        return LabelSource(of_run | ids, f"class names and values: from {file}")
    remedy = "pass --label_names or --model to name them"
    return LabelSource(ids, f"{BY_VALUE}; {remedy}")


def _ids_of_run(file: Path) -> dict[str, Any]:
    """Label ids of a ``run.json``; empty if the file is missing or does not name the classes."""
    run = read_run_json(file)
    names, values = run.get("label_names"), run.get("label_values")
    if not names or not values or len(names) != len(values):
        return {}
    plan = run.get("plan", {})
    rest = ("ignore_value", "regions", "regions_class_order")
    return {
        "label_names": names,
        "label_values": values,
        **{key: plan[key] for key in rest if plan.get(key) is not None},
    }


def with_names(run: Mapping[str, Any], class_names: Mapping[int, str]) -> dict[str, Any]:
    """Rename the classes of a run to those of the scores, so that a page uses one name per class.

    Args:
        run: content of ``run.json``.
        class_names: name of each label value; other values keep their name in the run.

    Returns:
        A copy of ``run`` with the new names.
    """
    pairs = zip(run.get("label_values") or (), run.get("label_names") or (), strict=False)
    new = {old: class_names.get(value, old) for value, old in pairs}
    if all(old == name for old, name in new.items()):
        return dict(run)
    cases = {case: _renamed_case(facts, new) for case, facts in run.get("cases", {}).items()}
    return {**run, "label_names": list(new.values()), "cases": cases}


def _renamed_case(facts: Mapping[str, Any], new: Mapping[str, str]) -> dict[str, Any]:
    by_class = ("volumes_ml", "components", "entropy")
    renamed = {
        key: {new.get(name, name): value for name, value in facts[key].items()}
        for key in by_class
        if facts.get(key)
    }
    flags = [_renamed_flag(flag, new) for flag in facts.get("flags", ())]
    return {**facts, **renamed, "flags": flags}


def _renamed_flag(flag: Mapping[str, Any], new: Mapping[str, str]) -> dict[str, Any]:
    """The flag with the new name of its class, also as a whole word in its message."""
    old = flag.get("label")
    if not isinstance(old, str) or old not in new:
        return dict(flag)
    word = re.compile(rf"(?<!\w){re.escape(old)}(?!\w)")
    message = word.sub(lambda _: new[old], str(flag.get("message", "")))
    return {**flag, "label": new[old], "message": message}
