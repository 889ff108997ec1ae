"""The DICOM codes of a label: category, type, modifiers, region, colour.

``codes.json`` lists common names. Its codes and meanings are those of the context groups of DICOM PS3.16 in pydicom's
dictionaries: SNOMED CT, and two of NCIt for brain tumours. A name that is not in the table is split: "left_kidney" is a
kidney with the modifier left, "liver tumour" a neoplasm in the region liver. An unknown name gets a private code with
the label as its meaning.

Stored on disk: ``PRIVATE_SCHEME`` and the private codes, in DICOM objects.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from dynunet_bundle.drawing.colours import RGB_COLOURS
from dynunet_bundle.errors import ConfigError, some_of
from dynunet_bundle.files import read_json
from dynunet_bundle.shapes import TEXT, by_name, list_of, object_with

TABLE = Path(__file__).with_name("codes.json")

CODE = list_of(TEXT, minItems=3, maxItems=3)
TABLE_SCHEMA = object_with(
    {
        "categories": by_name(CODE),
        "modifiers": by_name(CODE),
        "labels": by_name(
            object_with(
                {
                    "category": TEXT,
                    "type": CODE,
                    "modifiers": list_of(TEXT),
                    "synonyms": list_of(TEXT),
                    "rgb": list_of(
                        {"type": "integer", "minimum": 0, "maximum": 255}, minItems=3, maxItems=3
                    ),
                },
                ("category", "type"),
            )
        ),
    },
    ("categories", "modifiers", "labels"),
)
"""Schema of ``codes.json``."""

PRIVATE_SCHEME = "99DYNUNET"
"""Designator of our coding scheme; 99 is the prefix of private schemes (PS3.16 section 8.2)."""

MAX_MEANING_CHARACTERS = 64
"""Length limit of Code Meaning and Segment Label, both of value representation LO (PS3.5 section 6.2)."""

SPELLINGS = (("tumour", "tumor"), ("oedema", "edema"), ("oesoph", "esoph"), ("haem", "hem"))
FILLERS = frozenset({"of", "the", "in", "and", "with", "class", "label"})


class Code(NamedTuple):
    """A coded concept: value and meaning in a coding scheme."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class LabelCodes:
    """The codes of one label.

    Attributes:
        name: name of the label in the plan.
        category: a code of CID 7150, e.g. "Anatomical Structure".
        type: the segmented structure.
        modifiers: modifiers of the region, or of the type if there is no region; e.g. "Left".
        region: location of an abnormal structure or a tissue, or None.
        rgb: recommended colour, 0 to 255.
    """

    name: str
    category: Code
    type: Code
    modifiers: tuple[Code, ...] = ()
    region: Code | None = None
    rgb: tuple[int, int, int] | None = None

    @property
    def is_anatomy(self) -> bool:
        """Whether the label is a structure of the healthy body, such as an organ."""
        return self.category == _table().categories["anatomy"]


def codes_of_labels(
    names: Sequence[str],
    task_name: str = "",
    overrides: Mapping[str, str | Mapping[str, Any]] | None = None,
) -> list[LabelCodes]:
    """Find the codes of labels, with a different colour for each.

    Args:
        names: label names without the background.
        task_name: an organ in this name is the region of abnormal structures: "cancer" in "Task06_Lung" is a neoplasm
            of the lung, "Anterior" in "Task04_Hippocampus" the anterior hippocampus.
        overrides: by label name, either another name to look up, or a mapping with "type" and optionally "category",
            "modifiers", "region" and "rgb". Codes are [value, scheme, meaning]; a category may also be a key of the
            table, such as "anatomy" or "abnormal".

    Raises:
        ConfigError: if an override is malformed or is for an unknown label.
    """
    overrides = overrides or {}
    unknown = sorted(set(overrides) - set(names))
    if unknown:
        raise ConfigError(
            f"label codes are given for {unknown}, which are not labels. Use names from {list(names)}."
        )
    organ = _find_organ(_words(task_name))
    found = []
    for name in names:
        override = overrides.get(name)
        if isinstance(override, Mapping):
            found.append(_from_mapping(name, override))
        else:
            codes = _look_up(_words(override or name), organ)
            found.append(replace(codes, name=name) if codes else _private(name))
    return _with_distinct_colours(found)


PLACEHOLDER = re.compile(r"class_\d+")
"""Name of a class for which the data set has none, as a plan writes it."""


def uncoded_doubt(
    names: Sequence[str],
    task_name: str = "",
    overrides: Mapping[str, str | Mapping[str, Any]] | None = None,
) -> str | None:
    """What to do about labels that get a private code, which other systems cannot interpret; None if none does.

    Args:
        names: label names without the background.
        task_name: see ``codes_of_labels``.
        overrides: see ``codes_of_labels``.

    Raises:
        ConfigError: as ``codes_of_labels``.
    """
    found = codes_of_labels(names, task_name, overrides)
    private = [codes.name for codes in found if codes.type.scheme == PRIVATE_SCHEME]
    if not private:
        return None
    if all(PLACEHOLDER.fullmatch(name) for name in private):
        return (
            f"{some_of(private)} stand for classes without names, so a SEG gets private codes. Name the classes with "
            "dynunet-bundle plan --label_names, background first."
        )
    example = json.dumps({"label_codes": {private[0]: "left kidney"}}, ensure_ascii=False)
    return (
        f"no DICOM code is known for {some_of(private)}: a SEG gets private codes, which other systems cannot "
        f"interpret. Set label_codes in an overlay: for each class a known name, such as {example}, or a code, as in "
        "docs/dicom_output.md."
    )


def _look_up(words: tuple[str, ...], organ: Code | None) -> LabelCodes | None:
    modifiers = tuple(_table().modifiers[word] for word in words if word in _table().modifiers)
    bare = tuple(word for word in words if word not in _table().modifiers)
    entry = _entry(words)
    if entry is not None:
        modifiers = ()
    else:
        entry = _entry(bare)
    if entry is not None:
        region = organ if _needs_region(entry) else None
        return replace(entry, modifiers=(*modifiers, *entry.modifiers), region=region)
    if not bare:
        anatomy = _table().categories["anatomy"]
        return LabelCodes("", anatomy, organ, modifiers) if organ and modifiers else None
    return _look_up_parts(bare, modifiers)


def _look_up_parts(words: tuple[str, ...], modifiers: tuple[Code, ...]) -> LabelCodes | None:
    """Codes of an organ and a finding in it, in either order: "liver tumor", "tumor of the liver"."""
    for cut in range(1, len(words)):
        for first, second in ((words[:cut], words[cut:]), (words[cut:], words[:cut])):
            place, finding = _entry(first), _entry(second)
            if place and finding and place.is_anatomy and _needs_region(finding):
                return replace(finding, modifiers=modifiers, region=place.type)
    return None


def _find_organ(words: tuple[str, ...]) -> Code | None:
    """The longest run of words that names an anatomical structure."""
    for length in range(len(words), 0, -1):
        for start in range(len(words) - length + 1):
            entry = _entry(words[start : start + length])
            if entry is not None and entry.is_anatomy:
                return entry.type
    return None


def _needs_region(entry: LabelCodes) -> bool:
    return entry.category in (_table().categories["abnormal"], _table().categories["tissue"])


def _entry(words: tuple[str, ...]) -> LabelCodes | None:
    """The entry of a phrase or of its singular."""
    labels = _table().labels
    return labels.get(words) or labels.get(
        (*words[:-1], words[-1].removesuffix("s")) if words else ()
    )


def _words(name: str) -> tuple[str, ...]:
    """Lower-case words in American spelling without fillers: "Task03_LiverTumours" -> ("task03", "liver", "tumors")."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    for british, american in SPELLINGS:
        text = text.replace(british, american)
    return tuple(word for word in re.split(r"[\W_]+", text) if word and word not in FILLERS)


class _Table(NamedTuple):
    categories: dict[str, Code]
    modifiers: dict[str, Code]
    labels: dict[tuple[str, ...], LabelCodes]


@cache
def _table() -> _Table:
    content = read_json(TABLE, ConfigError, TABLE_SCHEMA)
    categories = {key: Code(*value) for key, value in content["categories"].items()}
    modifiers = {key: Code(*value) for key, value in content["modifiers"].items()}
    labels = {}
    for name, entry in content["labels"].items():
        rgb = tuple(entry["rgb"]) if "rgb" in entry else None
        codes = LabelCodes(
            name,
            categories[entry["category"]],
            Code(*entry["type"]),
            tuple(modifiers[word] for word in entry.get("modifiers", ())),
            rgb=rgb,
        )
        for phrase in (name, *entry.get("synonyms", ())):
            labels[_words(phrase)] = codes
    return _Table(categories, modifiers, labels)


def _private(name: str) -> LabelCodes:
    """A private code, in the category "Tissue", which is the most general one."""
    # a Code Value has at most 16 characters; the length of a label is not limited
    value = hashlib.sha256(" ".join(_words(name)).encode()).hexdigest()[:12].upper()
    meaning = name.replace("\\", "/")[:MAX_MEANING_CHARACTERS]
    return LabelCodes(name, _table().categories["tissue"], Code(value, PRIVATE_SCHEME, meaning))


def _from_mapping(name: str, override: Mapping[str, Any]) -> LabelCodes:
    known = {"category", "type", "modifiers", "region", "rgb"}
    if "type" not in override or set(override) - known:
        raise ConfigError(
            f'the codes of label "{name}" have the keys {sorted(override)}. "type" is required, '
            f"and only {sorted(known)} are allowed."
        )
    category = override.get("category", "anatomy")
    if isinstance(category, str):
        category = _table().categories.get(category)
    rgb = override.get("rgb")
    return LabelCodes(
        name,
        _code(name, category),
        _code(name, override["type"]),
        tuple(_code(name, code) for code in override.get("modifiers", ())),
        _code(name, override["region"]) if override.get("region") else None,
        _rgb(name, rgb) if rgb is not None else None,
    )


def _code(name: str, value: Any) -> Code:
    if isinstance(value, str) and value in _table().modifiers:
        return _table().modifiers[value]
    if (
        isinstance(value, Sequence)
        and len(value) == len(Code._fields)
        and all(isinstance(part, str) and part for part in value)
    ):
        return Code(*value)
    raise ConfigError(
        f'a code of label "{name}" is {value!r}. Give [value, scheme, meaning], e.g. ["78961009", "SCT", "Spleen"].'
    )


def _rgb(name: str, value: Any) -> tuple[int, int, int]:
    try:
        red, green, blue = (int(part) for part in value)
    except (TypeError, ValueError):
        red = -1
    if red < 0 or not all(0 <= part <= 255 for part in (red, green, blue)):
        raise ConfigError(
            f'the colour of label "{name}" is {value!r}. Give three numbers from 0 to 255.'
        )
    return red, green, blue


def _with_distinct_colours(labels: Iterable[LabelCodes]) -> list[LabelCodes]:
    taken: set[tuple[int, int, int]] = set()
    coloured = []
    for number, codes in enumerate(labels):
        rgb = codes.rgb
        if rgb is None or rgb in taken:
            start = number % len(RGB_COLOURS)  # the label's colour in a report
            palette = RGB_COLOURS[start:] + RGB_COLOURS[:start]
            rgb = next((colour for colour in palette if colour not in taken), palette[0])
        taken.add(rgb)
        coloured.append(replace(codes, rgb=rgb))
    return coloured
