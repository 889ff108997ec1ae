"""Sources of the names and values of classes: options, task overlays, or the run or ensemble that made the masks."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dynunet_bundle.evaluation.mask_folders import LABEL_IDS, label_ids
from dynunet_bundle.inference.ensemble import RECORD_NAME, read_ensemble_json
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
    """Names and values of the classes: from the options, the overlays or the maker of the masks, in this order.

    ``run.json``, or ``ensemble.json`` of an ensemble, is read only if neither options nor overlays name the classes.
    It then also gives the regions and the ignored value, unless an overlay does. If the given values differ from its
    values, its names are not used.

    Args:
        given: ``label_names`` and ``label_values`` of the command line, None if not given.
        overlays: config files of the task; later ones override earlier ones.
        config_dir: folder of the bundle's configs.
        predictions: folder of masks, where a prediction also writes ``run.json``, and an ensemble ``ensemble.json``.
        plan: plan ids of a model; overlays and options take precedence.

    Raises:
        BundleError: if an overlay, ``run.json`` or ``ensemble.json`` is malformed.
    """
    of_model = {name: plan[name] for name in LABEL_IDS if name in plan} if plan else {}
    of_overlays = of_model | label_ids(overlays, config_dir)
    options = {name: value for name, value in given.items() if value is not None}
    ids = of_overlays | options
    if "label_names" in ids:
        other = "--config_file" if overlays else "--model"
        source = "--label_names" if "label_names" in options else other
        return LabelSource(ids, f"class names: from {source}")
    file, of_run = label_ids_of_masks(Path(predictions))
    if of_run and ids.get("label_values", of_run["label_values"]) == of_run["label_values"]:
        if {"regions", "regions_class_order"} & set(ids):
            of_run = {name: value for name, value in of_run.items() if "regions" not in name}
        return LabelSource(of_run | ids, f"class names and values: from {file}")
    remedy = "pass --label_names or --model to name them"
    return LabelSource(ids, f"{BY_VALUE}; {remedy}")


def label_ids_of_masks(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The file beside some masks that names their classes, and their label ids; empty without such a file.

    Args:
        folder: of masks that ``predict`` or ``ensemble`` wrote.

    Raises:
        BundleError: if the file is malformed.
    """
    run = folder / RUN_NAME
    if run.is_file():
        return run, _label_ids_in(read_run_json(run))
    ensemble = folder / RECORD_NAME
    return ensemble, _label_ids_in(read_ensemble_json(ensemble))


def _label_ids_in(content: Mapping[str, Any]) -> dict[str, Any]:
    """Label ids of a ``run.json`` or ``ensemble.json``; empty if it does not name the classes."""
    names, values = content.get("label_names"), content.get("label_values")
    if not names or not values or len(names) != len(values):
        return {}
    plan = content.get("plan", content)
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
    by_class = ("volumes_ml", "areas_px2", "components", "entropy")
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
