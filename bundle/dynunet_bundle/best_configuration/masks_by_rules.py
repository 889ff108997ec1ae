"""Component rules applied to masks that exist, as ``nnUNetv2_apply_postprocessing`` does.

Stored on disk: ``run.json`` beside the new masks, with the names of the classes and the rules.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dynunet_bundle.dataset.case_errors import too_large, unreadable
from dynunet_bundle.dataset.cases import absolute, list_images
from dynunet_bundle.errors import (
    BundleError,
    CaseError,
    DatasetError,
    OutputError,
    PredictionError,
    failed_cases,
    first_line,
)
from dynunet_bundle.evaluation.label_source import label_ids_of_masks
from dynunet_bundle.files import case_name, ensure_writable, sha256_of, write_json
from dynunet_bundle.images.read import mask_values, read_volume
from dynunet_bundle.inference.run_json import RUN_NAME, read_run_json
from dynunet_bundle.inference.save_mask import save_mask
from dynunet_bundle.labels.largest_component import ComponentRules, keep_largest, require_rules
from dynunet_bundle.machine.locks import WAIT, exclusive
from dynunet_bundle.terminal import progress, tell_start

KEPT = ("task_name", "plan", "plan_sha256", "weights", "label_names", "label_values")
"""Entries of a ``run.json`` that hold for the new masks as well."""

logger = logging.getLogger(__name__)


def apply_rules(masks: Path, output: Path, rules: ComponentRules) -> list[Path]:
    """Write each mask of a folder with the rules applied, on its grid and in its format.

    Args:
        masks: folder of masks.
        output: another folder, for the new masks.
        rules: ``keep_largest``, see ``largest_component``.

    Returns:
        Paths of the new masks.

    Raises:
        ConfigError: if the rules are malformed, or have values that the masks' classes lack.
        DatasetError: if the folder has no masks.
        OutputError: if both folders are the same, or the masks cannot be written.
        PredictionError: if masks cannot be read; all others are written.
    """
    _, label_ids = label_ids_of_masks(masks)
    require_rules(rules, label_ids.get("label_values"))
    files = {case_name(file): file for file in list_images(masks)} if masks.is_dir() else {}
    if not files:
        raise DatasetError(f"{masks} has no masks. Pass the --output_dir of a prediction.")
    if absolute(masks).resolve() == absolute(output).resolve():
        raise OutputError(f"{output} holds the masks themselves. Choose another --output_dir.")
    tell_start("postprocessing", cases=len(files), rules=list(map(str, rules)), folder=output)
    failures: dict[str, str] = {}
    written: dict[str, Path] = {}
    with exclusive(ensure_writable(output) / ".prediction.lock", "prediction", WAIT):
        for case, file in progress(files.items(), "postprocess", total=len(files)):
            try:
                written[case] = _apply(case, file, output, rules)
            except CaseError as error:
                logger.error("%s failed: %s", case, first_line(error))
                failures[case] = str(error)
        write_json(output / RUN_NAME, _record(masks, label_ids, rules, written, failures))
    if failures:
        raise PredictionError(failed_cases(list(failures.values()), len(files)))
    return list(written.values())


def _apply(case: str, file: Path, output: Path, rules: ComponentRules) -> Path:
    try:
        array = mask_values(case, read_volume(file).array[0])
        for values in rules:
            keep_largest(array, values)
    except BundleError:
        raise
    except MemoryError as error:
        raise too_large(case, first_line(error), "the mask") from error
    except Exception as error:
        raise unreadable({"image": str(file)}, error) from error
    return save_mask(torch.from_numpy(array), file, output, case)


def _record(
    masks: Path,
    label_ids: Mapping[str, Any],
    rules: ComponentRules,
    written: Mapping[str, Path],
    failures: Mapping[str, str],
) -> dict[str, Any]:
    run = read_run_json(masks / RUN_NAME)
    if any(case.get("objects") for case in run.get("cases", {}).values()):
        logger.warning("the DICOM objects in %s are of the masks without the rules", masks)
    parameters = run.get("parameters", {})
    earlier = list(parameters.get("keep_largest", ()))
    done = {
        case: {"status": "done", "mask": file.name, "mask_sha256": sha256_of(file)}
        for case, file in written.items()
    }
    failed = {case: {"status": "failed", "error": text} for case, text in failures.items()}
    return {
        "status": "failed" if failures else "finished",
        "exit_code": PredictionError.exit_code if failures else 0,
        **label_ids,
        **{name: run[name] for name in KEPT if name in run},
        "parameters": {**parameters, "keep_largest": [*earlier, *map(list, rules)]},
        "cases": {**done, **failed},
    }
