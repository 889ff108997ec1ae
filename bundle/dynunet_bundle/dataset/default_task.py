"""Data that the default plan, that of one task, does not fit. It holds if no overlay and no model has another."""

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from dynunet_bundle.dataset.cases import Case, absolute, image_files, name_of
from dynunet_bundle.dataset.layouts import DATASET_NAME, DatasetDescription, read_layout
from dynunet_bundle.errors import BundleError, PlanError
from dynunet_bundle.files import NIFTI_SUFFIXES
from dynunet_bundle.images.nifti import affine_mm, load_nifti

DEFAULT_TASK = "Task04_Hippocampus"
"""Task of the plan in train.json, evaluate.json and inference.json, and of the weights in ``models``."""

MAX_PATCHES = 4
"""Patches in the volume of a case above which nnU-Net plans a coarser configuration. The task's cases are about one."""

NUM_LOOKS = 3
"""Cases whose headers are read."""


def is_default(plan: Mapping[str, Any] | None) -> bool:
    """Whether a plan is the default of the configs."""
    return plan is not None and plan.get("task_name") == DEFAULT_TASK


def plan_line(folder: str | Path) -> str:
    """What to do with data that need a plan of their own.

    Args:
        folder: folder of the data set.
    """
    return f"Run dynunet-bundle plan {shlex.quote(str(folder))} and pass its overlay with --config_file."


def require_names(dataset: DatasetDescription, folder: str, plan: Mapping[str, Any] | None) -> None:
    """Refuse to train the default plan on data of another name that do not name their channels and classes.

    Args:
        dataset: the data set.
        folder: its folder.
        plan: ids of the plan; None leaves the data unchecked.

    Raises:
        PlanError: with the command that plans the data.
    """
    if not is_default(plan) or dataset.channel_names or dataset.name == DEFAULT_TASK:
        return
    raise PlanError(
        f"{dataset.name} names no channels and classes, and no overlay is given. Those of the default plan, "
        f"{DEFAULT_TASK}, may be others. {plan_line(folder)} If the default plan is meant, pass "
        f"--task_name {shlex.quote(dataset.name)}."
    )


def other_classes(source: str | Path, plan: Mapping[str, Any] | None) -> str | None:
    """Doubt about images of a data set whose classes are not those of the default plan; None if there is none.

    Args:
        source: the images: a file, or a folder.
        plan: ids of the plan.
    """
    if not is_default(plan):
        return None
    path = absolute(source)
    root = next((one for one in (path, *path.parents[:2]) if (one / DATASET_NAME).is_file()), None)
    if root is None:
        return None
    with suppress(BundleError):
        dataset = read_layout(root, complete=False)
        planned = tuple((plan or {}).get("label_names", ()))
        if dataset.labels.names not in ((), planned):
            return (
                f"the images are of {dataset.name}, with the classes {', '.join(dataset.labels.names[1:])}, but the "
                f"model is that of {DEFAULT_TASK}, with {', '.join(planned[1:])}. Pass a model of these classes with "
                f"--model. To train one, begin with dynunet-bundle plan {shlex.quote(str(root))}."
            )
    return None


def other_sizes(cases: Sequence[Case], plan: Mapping[str, Any] | None) -> str | None:
    """Doubt about images much larger than those of the default plan, or of another dimension; None if there is none.

    Only headers of NIfTI files are read.

    Args:
        cases: the cases; the first ones are looked at.
        plan: ids of the plan.
    """
    if plan is None or not is_default(plan):
        return None
    patch_mm = [size * step for size, step in zip(plan["patch_size"], plan["spacing"], strict=True)]
    for case, shape, spacing_mm in _looks(cases[:NUM_LOOKS]):
        extent_mm = [size * step for size, step in zip(shape, spacing_mm, strict=True)]
        is_flat = min(shape) == 1 and len(patch_mm) > 2  # noqa: PLR2004 - a plane has two axes
        if is_flat or math.prod(extent_mm) > MAX_PATCHES * math.prod(patch_mm):
            return (
                f"case {case} has {_product(shape)} voxels, {_product(extent_mm)} mm, but the plan is that of "
                f"{DEFAULT_TASK}, for crops of about {_product(patch_mm)} mm."
            )
    return None


def _looks(cases: Sequence[Case]) -> Iterator[tuple[str, list[int], list[float]]]:
    """Name, shape and spacing of cases, as far as a NIfTI header tells them."""
    for case in cases:
        file = image_files(case)[0]
        if str(file).lower().endswith(NIFTI_SUFFIXES):
            # a file that cannot be read is told as the fault of its case
            with suppress(Exception):
                image = load_nifti(file)
                steps = np.linalg.norm(affine_mm(image)[:3, :3], axis=0)
                shape = [*image.shape, 1, 1, 1][:3]
                yield name_of(case), shape, [float(step) for step in steps]


def _product(values: Sequence[float]) -> str:
    return " x ".join(f"{value:.0f}" for value in values)
