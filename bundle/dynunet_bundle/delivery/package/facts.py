"""Facts of a package that no training records: source and licence of the data, authors."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dynunet_bundle.errors import ConfigError
from dynunet_bundle.files import read_json
from dynunet_bundle.planning.presets import preset_for
from dynunet_bundle.shapes import TEXT, by_name, list_of, object_with

DATA_SOURCES = Path(__file__).with_name("data_sources.json")
"""Subjects of the ten tasks of the Medical Segmentation Decathlon."""

DECATHLON_LICENSE = """\
This bundle contains no data.

It is made for {task} of the Medical Segmentation Decathlon (http://medicaldecathlon.com), which its authors license
under CC BY-SA 4.0: https://creativecommons.org/licenses/by-sa/4.0/
"""

UNKNOWN_LICENSE = """\
This bundle contains no data.

It is made for the data set {task}. The licence of that data was not stated; ask the authors of the bundle before you
use it for anything but your own research.
"""


@dataclass(frozen=True)
class Facts:
    """Texts about a task, written by people; None or empty if unknown.

    Attributes:
        subject: the structures and the modality, e.g. ``"the spleen in CT"``.
        description: one sentence on the model; if None, a sentence with the subject.
        data_source: name and address of the data.
        data_license: content of ``docs/data_license.txt``.
        authors: authors of the bundle.
        copyright: copyright holders.
        intended_use: intended use.
        limitations: known or expected failures.
        memory: measured GPU memory, one sentence.
        references: publications, in addition to that of the method.
    """

    subject: str
    data_source: str
    data_license: str
    description: str | None = None
    authors: str = "The dynunet-bundle authors"
    copyright: str = "The dynunet-bundle authors"
    intended_use: str = "Research. Not a medical device."
    limitations: str | None = None
    memory: str | None = None
    references: tuple[str, ...] = ()


FACTS_SCHEMA = object_with(
    {item.name: TEXT for item in fields(Facts)} | {"references": list_of(TEXT)},
    additionalProperties=False,
    description=f"Write an object with any of {', '.join(item.name for item in fields(Facts))}.",
)
SOURCES_SCHEMA = by_name(object_with({"subject": TEXT}, ("subject",)))


def load_facts(path: str | Path | None, plan: Mapping[str, Any]) -> Facts:
    """The facts of a task: those of a file override those of the Decathlon, or else those derived from the plan.

    Args:
        path: JSON with any of the names of ``Facts``, or None.
        plan: the plan ids.

    Raises:
        ConfigError: if the file is missing or malformed, or has an unknown name or a value that is not text.
    """
    given = {} if path is None else read_json(path, ConfigError, FACTS_SCHEMA)
    given["references"] = tuple(given.get("references", ()))
    return Facts(**{**_default_facts(plan), **given})


def _default_facts(plan: Mapping[str, Any]) -> dict[str, Any]:
    task = plan["task_name"]
    if preset_for(task) is None:
        names = ", ".join(plan["regions"] or plan["label_names"][1:])
        return {
            "subject": f"{names} in {' and '.join(plan['channel_names'])}",
            "data_source": task,
            "data_license": UNKNOWN_LICENSE.format(task=task),
        }
    sources = read_json(DATA_SOURCES, ConfigError, SOURCES_SCHEMA)
    return {
        "subject": sources[task[:6]]["subject"],
        "data_source": f"{task} of the Medical Segmentation Decathlon, http://medicaldecathlon.com",
        "data_license": DECATHLON_LICENSE.format(task=task),
        "references": (
            "Antonelli et al., The Medical Segmentation Decathlon, Nature Communications 13 (2022)",
        ),
    }
