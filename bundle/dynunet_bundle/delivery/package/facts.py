"""Facts of a package that no training records: source and licence of the data, authors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dynunet_bundle.errors import ConfigError
from dynunet_bundle.files import read_json
from dynunet_bundle.planning.channels import channel_names_text
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


IMPORTED_LICENSE = """\
This bundle contains no data.

The weights were trained with {framework} and imported. They keep the licence that their authors gave them, which was
not recorded. Write it here, with the name of the authors and of the data, before you give this bundle to others.
"""
IMPORTED_AUTHORS = "not stated (they trained the weights with {framework})"
NEEDED = ("data_license", "authors")
"""Facts without which imported weights are not published."""


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


def load_facts(
    path: str | Path | None,
    plan: Mapping[str, Any],
    origin: Mapping[str, Any] | None = None,
    draft: bool = True,
) -> Facts:
    """The facts of a task: those of a file override those of the Decathlon, or else those derived from the plan.

    Args:
        path: JSON with any of the names of ``Facts``, or None.
        plan: the plan ids.
        origin: ``origin`` of the model.json of imported weights, or None.
        draft: accept imported weights whose licence and authors the file does not give.

    Raises:
        ConfigError: if the file is missing or malformed, has an unknown name or a value that is not text, or lacks the
            licence or the authors of imported weights.
    """
    given = _given_facts(path)
    missing = [name for name in NEEDED if not given.get(name, "").strip()]
    framework = str((origin or {}).get("framework"))
    if origin and missing and not draft:
        lack = "--facts is not given" if path is None else f"{path} lacks {' and '.join(missing)}"
        raise ConfigError(
            f"the weights were trained with {framework} and keep the licence of their authors, but {lack}. Ask them, "
            'write {"data_license": "...", "authors": "..."} into a JSON file, and pass it as --facts.'
        )
    given["references"] = tuple(given.get("references", ()))
    defaults = _default_facts(plan)
    if origin:
        unknown = IMPORTED_AUTHORS.format(framework=framework)
        text = IMPORTED_LICENSE.format(framework=framework)
        defaults |= {"data_license": text, "authors": unknown, "copyright": unknown}
    return Facts(**{**defaults, **given})


def states_license(path: str | Path | None) -> bool:
    """Whether a file of facts gives what imported weights need before they are published.

    Args:
        path: JSON as for ``load_facts``, or None.

    Raises:
        ConfigError: if the file is missing or malformed.
    """
    given = _given_facts(path)
    return all(given.get(name, "").strip() for name in NEEDED)


def _given_facts(path: str | Path | None) -> dict[str, Any]:
    return {} if path is None else read_json(path, ConfigError, FACTS_SCHEMA)


def _channels(names: Sequence[str]) -> str:
    return channel_names_text(names) if len(set(names)) == 1 else " and ".join(names)


def _default_facts(plan: Mapping[str, Any]) -> dict[str, Any]:
    task = plan["task_name"]
    if preset_for(task) is None:
        names = ", ".join(plan["regions"] or plan["label_names"][1:])
        return {
            "subject": f"{names} in {_channels(plan['channel_names'])}",
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
