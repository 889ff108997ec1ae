"""What a package says that no file of a training knows: whose data, which licence, who made it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dynunet_bundle.errors import ConfigError
from dynunet_bundle.files import read_json
from dynunet_bundle.planning.presets import preset_for
from dynunet_bundle.shapes import TEXT, by_name, list_of, object_with

DATA_SOURCES = Path(__file__).with_name("data_sources.json")
"""What the ten tasks of the Medical Segmentation Decathlon show."""

DECATHLON_LICENSE = """\
This bundle contains no data.

It is made for {task} of the Medical Segmentation Decathlon (http://medicaldecathlon.com), which its authors give under
CC BY-SA 4.0: https://creativecommons.org/licenses/by-sa/4.0/
"""

UNKNOWN_LICENSE = """\
This bundle contains no data.

It is made for the data set {task}. Nothing was stated about the licence of that data; ask the authors of the bundle
before you use it for other than your own research.
"""


@dataclass(frozen=True)
class Facts:
    """Texts about a task that people write; None or empty where nothing was said.

    Attributes:
        subject: what is segmented in what, e.g. ``"the spleen in CT"``.
        description: a sentence on the model; None takes one that names the subject.
        data_source: name and address of the data.
        data_license: content of ``docs/data_license.txt``.
        authors: who made the bundle.
        copyright: who holds the rights.
        intended_use: what it is for.
        limitations: where it is known or expected to fail.
        memory: what was measured of GPU memory, a sentence.
        references: publications, beside those of the method.
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
    description=f"It is an object with any of {', '.join(item.name for item in fields(Facts))}.",
)
SOURCES_SCHEMA = by_name(object_with({"subject": TEXT}, ("subject",)))


def load_facts(path: str | Path | None, plan: Mapping[str, Any]) -> Facts:
    """The facts of a task: those of a file, over those of the Decathlon, over what the plan's names say.

    Args:
        path: JSON with some of the names of ``Facts``, or None.
        plan: the plan ids.

    Raises:
        ConfigError: if the file is missing or malformed, or has an unknown name or a value that is no text.
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
