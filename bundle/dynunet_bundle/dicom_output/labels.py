"""Which labels of a mask go into a DICOM object, and how their values come back from it."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dynunet_bundle.dicom_output.codes import MAX_MEANING_CHARACTERS, LabelCodes, codes_of_labels
from dynunet_bundle.errors import OutputError

LOG = logging.getLogger(__name__)

VALUE_NOTE = "label value {}"
"""Description of a segment or a region: their numbers count from 1 without gaps, label values need not."""

Present = list[tuple[LabelCodes, int]]
"""Codes and value of each label that occurs, in the order of the labels."""


def present_labels(
    mask: np.ndarray,
    labels: Mapping[str, int],
    task_name: str,
    codes: Mapping[str, Any] | None,
    path: Path,
) -> Present:
    """Find the labels that a mask has; where it has none, remove an older file and say so.

    Args:
        mask: label values.
        labels: label values by name; that of value 0 is the background.
        task_name: see ``codes_of_labels``.
        codes: overrides of ``codes_of_labels``.
        path: of the file to be written.

    Raises:
        OutputError: if the mask has a value that is no label's.
        ConfigError: if ``codes`` is malformed.
    """
    values = set(np.unique(mask).tolist())
    unknown = sorted(values - set(labels.values()) - {0})
    if unknown:
        raise OutputError(
            f"the mask has the values {unknown}, the labels are {dict(labels)}. Pass the labels of its plan."
        )
    found = coded_labels(labels, task_name, codes)
    present = [(code, value) for code, value in found if value in values]
    if not present:
        say_nothing(path)
    return present


def coded_labels(
    labels: Mapping[str, int], task_name: str, codes: Mapping[str, Any] | None
) -> Present:
    """Codes and value of all labels but the background; so colours do not hang on which of them occur."""
    names = [name for name, value in labels.items() if value]
    return [(found, labels[found.name]) for found in codes_of_labels(names, task_name, codes)]


def say_nothing(path: Path) -> None:
    """Remove a file that would tell of an older mask, and warn that there is nothing to write."""
    path.unlink(missing_ok=True)
    LOG.warning("%s is not written: the mask is empty", path.name)


def short_label(text: str) -> str:
    """A text as DICOM takes it for a label: 64 characters, no backslash."""
    return text.replace("\\", "/")[:MAX_MEANING_CHARACTERS]
