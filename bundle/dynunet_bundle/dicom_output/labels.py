"""The labels of a mask that are written into a DICOM object, with their codes and values.

Stored on disk: ``VALUE_NOTE``, in segments and regions of DICOM objects.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from dynunet_bundle.dicom_output.codes import (
    MAX_MEANING_CHARACTERS,
    LabelCodes,
    codes_of_labels,
    uncoded_doubt,
)
from dynunet_bundle.errors import ObjectError

LOG = logging.getLogger(__name__)

VALUE_NOTE = "label value {}"
"""Description of a segment or region. Their numbers are 1, 2, 3, ...; label values may have gaps."""

Present = list[tuple[LabelCodes, int]]
"""Codes and value of each label in the mask, in the order of the labels."""


def present_labels(
    mask: np.ndarray,
    labels: Mapping[str, int],
    task_name: str,
    codes: Mapping[str, Any] | None,
    path: Path,
) -> Present:
    """Find the labels in a mask; if it is empty, remove an older file and log a warning.

    Args:
        mask: label values of any shape.
        labels: label values by name; 0 is the background.
        task_name: see ``codes_of_labels``.
        codes: overrides of ``codes_of_labels``.
        path: the file to be written.

    Raises:
        ObjectError: if the mask has a value that is not in ``labels``.
        ConfigError: if ``codes`` is malformed.
    """
    values = set(np.unique(mask).tolist())
    unknown = sorted(values - set(labels.values()) - {0})
    if unknown:
        raise ObjectError(
            f"the mask has the values {unknown}, but the labels are {dict(labels)}. Pass the labels of the mask's plan."
        )
    found = coded_labels(labels, task_name, codes)
    present = [(code, value) for code, value in found if value in values]
    if not present:
        say_nothing(path)
    return present


def coded_labels(
    labels: Mapping[str, int], task_name: str, codes: Mapping[str, Any] | None
) -> Present:
    """Codes and values of all labels except the background, in a mask or not, so that colours do not vary by mask."""
    names = [name for name, value in labels.items() if value]
    tell_uncoded(names, task_name, codes)
    return [(found, labels[found.name]) for found in codes_of_labels(names, task_name, codes)]


def tell_uncoded(names: Sequence[str], task_name: str, codes: Mapping[str, Any] | None) -> None:
    """Warn of labels without a code that others can interpret, once in a process.

    Args:
        names: label names without the background.
        task_name: see ``codes_of_labels``.
        codes: overrides of ``codes_of_labels``.
    """
    doubt = uncoded_doubt(names, task_name, codes)
    if doubt:
        _tell_once(doubt)


@cache
def _tell_once(line: str) -> None:
    LOG.warning("%s", line)


def say_nothing(path: Path) -> None:
    """Remove the file of an older mask, and warn that there is nothing to write."""
    path.unlink(missing_ok=True)
    LOG.warning("%s is not written: the mask is empty", path.name)


def short_label(text: str) -> str:
    """A text that is valid as a DICOM label: at most 64 characters, no backslash."""
    return text.replace("\\", "/")[:MAX_MEANING_CHARACTERS]
