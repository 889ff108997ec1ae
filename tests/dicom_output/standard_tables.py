"""The tables of the DICOM standard that dicom-validator checks an object against, without the network.

dicom-validator makes them from the standard's docbook, which it downloads. The package dicom-standard has the text of
edition 2020a as JSON; here its rows get the form that dicom-validator's Part3Reader gives them, and dicom-validator's
own parsers read the conditions and the enumerated values.
"""

import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import pytest

EDITION = "dicom-standard"
MISSING = (
    "{} is not installed: pip install --no-deps dicom-standard==0.1.0; dicom-validator is in [dev]"
)

CONTENT = "sr-document-content"
CONTENT_SEQUENCE = "(0040,A730)"
VALUE_TYPES = {
    "numeric-measurement": "NUM",
    "code": "CODE",
    "composite-object-reference": "COMPOSITE",
    "image-reference": "IMAGE",
    "waveform-reference": "WAVEFORM",
    "spatial-coordinates": "SCOORD",
    "3d-spatial-coordinates": "SCOORD3D",
    "temporal-coordinates": "TCOORD",
    "container": "CONTAINER",
}
"""PS3.3 table C.17-5 includes each of these macros "if and only if" Value Type is this; the JSON lacks that."""

NOT_SHARED = {"frame-content": "M - May not be used as a Shared Functional Group"}
"""PS3.3 A.51.5 says so of mandatory macros; the JSON has conditions of conditional ones only."""

OBSERVATIONS = "rt-roi-observations"
MISPLACED = {
    f"{OBSERVATIONS}:00082228:0062": f"{OBSERVATIONS}:30060080:0062",
    f"{OBSERVATIONS}:00082228:3006": f"{OBSERVATIONS}:30060080:3006",
    f"{OBSERVATIONS}:00082228:300a": f"{OBSERVATIONS}:30060080:300a",
    f"{OBSERVATIONS}:000822": f"{OBSERVATIONS}:30060080:000822",
}
"""Beginnings of paths in the JSON and where they belong: an include of PS3.3 table C.8-44 lacks its ">", so that what
follows it in RT ROI Observations Sequence landed below the last attribute of the include."""

Rows = dict[str, Any]


@cache
def read(name: str) -> Any:
    """One JSON file of dicom-standard; skips where it is not installed."""
    try:
        files = importlib.metadata.files(EDITION) or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(MISSING.format(EDITION))
    for file in files:
        if file.name == f"{name}.json":
            return json.loads(file.read_text(encoding="utf-8"))
    pytest.skip(f"{EDITION} has no {name}.json")


def dicom_info(sop_classes: Iterable[str]) -> Any:
    """The ``DicomInfo`` of dicom-validator for these SOP classes; skips where a package is missing."""
    pytest.importorskip("dicom_validator", reason=MISSING.format("dicom-validator"))
    from dicom_validator.validator.dicom_info import DicomInfo

    tables = Tables(dictionary())
    iods = {uid: tables.iod(uid) for uid in sop_classes}
    read.cache_clear()  # 55 MB of JSON
    return DicomInfo(tables.dictionary, iods, tables.modules)


def dictionary() -> dict[str, dict[str, str]]:
    """PS3.6 as dicom-validator has it, by tag."""
    return {
        row["tag"]: {
            "name": row["name"],
            "vr": row["valueRepresentation"],
            "vm": row["valueMultiplicity"],
            "prop": "RET" if row["retired"] == "Y" else "",
        }
        for row in read("attributes")
    }


class Tables:
    """Turns rows of dicom-standard into tables of dicom-validator; ``modules`` has those that were asked for."""

    def __init__(self, words: Mapping[str, dict[str, str]]) -> None:
        from dicom_validator.spec_reader.condition_parser import ConditionParser
        from dicom_validator.spec_reader.enum_parser import EnumParser

        self.dictionary = dict(words)
        self.modules: dict[str, Rows] = {}
        self._conditions = ConditionParser(self.dictionary)
        self._enums = EnumParser(self._section, self._conditions)
        self._space = EnumParser.docbook_ns
        links = read("references").items()
        self._sections = {link.rpartition("#sect_")[2]: html for link, html in links}

    def iod(self, sop_class: str) -> dict[str, Any]:
        """Modules and functional group macros of a SOP class; their attributes go into ``modules``."""
        title = next(row["ciod"] for row in read("sops") if row["id"] == sop_class)
        ciod = next(row["id"] for row in read("ciods") if row["name"] == title)
        modules = self._uses(ciod, "module", "ciod_to_modules")
        macros = self._uses(ciod, "macro", "ciod_to_fg_macros")
        self._add("module", {one["ref"] for one in modules.values()})
        self._add("macro", {one["ref"] for one in macros.values()})
        return {"title": title, "modules": modules, "group_macros": macros}

    def _uses(self, ciod: str, kind: str, file: str) -> dict[str, Any]:
        used = {}
        for row in read(file):
            if row["ciodId"] != ciod:
                continue
            ref = row[f"{kind}Id"]
            text = " - ".join(filter(None, (row["usage"], row["conditionalStatement"])))
            use = NOT_SHARED.get(ref, text)
            used[ref] = {"ref": f"{kind}:{ref}", "use": use}
            if len(use) > 1:
                used[ref]["cond"] = self._conditions.parse(use).result_dict()
        return used

    def _add(self, kind: str, refs: Iterable[str]) -> None:
        wanted = {ref for ref in refs if ref not in self.modules}
        tables: dict[str, Rows] = {ref: {} for ref in wanted}
        for row in read(f"{kind}_to_attributes"):
            ref = f"{kind}:{row[f'{kind}Id']}"
            if ref in wanted:
                self._place(tables[ref], row)
        self.modules.update(tables)
        if f"module:{CONTENT}" in wanted:
            self._grow(tables[f"module:{CONTENT}"])
        for groups in ("(5200,9229)", "(5200,9230)"):
            for table in tables.values():
                if groups in table:
                    # dicom-validator puts the macros of the IOD here
                    table[groups]["items"] = {"include": [{"ref": "FuncGroup"}]}

    def _place(self, table: Rows, row: Mapping[str, Any]) -> None:
        """Put a row where its path leads: ``module:tag of a sequence:tag``; parents stand before children."""
        for step in placed(row["path"]).split(":")[1:-1]:
            tag = f"({step[:4]},{step[4:]})".upper().replace("XX", "xx")
            table = table[tag].setdefault("items", {})
        table[row["tag"]] = self._attribute(row)

    def _attribute(self, row: Mapping[str, Any]) -> Rows:
        known = self.dictionary.get(row["tag"], {"name": "", "vr": ""})
        # the few without a type, of normalized classes, are not asked for
        found: Rows = {"name": known["name"], "type": row["type"].replace("None", "3")}
        if row["type"] in ("1C", "2C", "3"):
            condition = self._conditions.parse(plain(row["description"])).result_dict()
            if condition["type"] != "U":
                found["cond"] = condition
        links = [one["sourceUrl"].rpartition("#")[2] for one in row["externalReferences"]]
        enums = self._enums.parse(self._docbook(row["description"], links), known["vr"])
        fitting = [one for one in enums if one.get("tag", row["tag"]) == row["tag"]]
        if fitting:
            found["enums"] = [jsoned(one) for one in fitting]
        return found

    def _section(self, label: str) -> Any:
        html = self._sections.get(label)
        return None if html is None else self._docbook(html)

    def _docbook(self, html: str, links: Iterable[str] = ()) -> Any:
        """The lists of values of a text, and its links, as EnumParser looks for them."""
        from lxml import etree

        node = etree.Element(f"{self._space}section")
        for part in etree.fromstring(html).findall("div"):
            terms, title = part.findall("dl/dt"), part.find("p")
            if terms and title is not None:
                values = etree.SubElement(node, f"{self._space}variablelist")
                etree.SubElement(values, f"{self._space}title").text = text_of(title)
                for term in terms:
                    entry = etree.SubElement(values, f"{self._space}varlistentry")
                    etree.SubElement(entry, f"{self._space}term").text = text_of(term)
        para = etree.SubElement(node, f"{self._space}para")
        for link in links:
            etree.SubElement(para, f"{self._space}xref", linkend=link)
        return node

    def _grow(self, content: Rows) -> None:
        """Content items hold content items, to any depth, and what a value type has only where it is of that type."""
        self._add("macro", {f"macro:{name}" for name in VALUE_TYPES})
        includes = []
        for name, value in VALUE_TYPES.items():
            text = f"Required if Value Type (0040,A040) is {value}. Shall not be present otherwise."
            condition = self._conditions.parse(text).result_dict()
            includes.append({"ref": f"macro:{name}", "cond": condition})
        nested = content[CONTENT_SEQUENCE]["items"]
        # JSON stops at the first level: PS3.3 table C.17-6 includes itself in its items
        for tag in ("(0040,A032)", "(0040,A171)", CONTENT_SEQUENCE):
            nested[tag] = content[tag]
        of_values = {tag for name in VALUE_TYPES for tag in self.modules[f"macro:{name}"]}
        for table in (content, nested):
            for tag in of_values & set(table):
                del table[tag]
            table["include"] = includes


def placed(path: str) -> str:
    """Where a row belongs; see ``MISPLACED``."""
    for wrong, right in MISPLACED.items():
        if path.startswith(wrong):
            return right + path[len(wrong) :]
    return path


def jsoned(enum: Mapping[str, Any]) -> Rows:
    """Enumerated values as they come back from dicom-validator's JSON files."""
    cond = enum.get("cond")
    rest = {key: value for key, value in enum.items() if key not in ("cond", "tag")}
    return rest if cond is None else {**rest, "cond": cond.result_dict()}


def plain(html: str) -> str:
    """The text of a piece of HTML, as Part3Reader takes it from docbook."""
    from lxml import etree

    return text_of(etree.fromstring(html))


def text_of(node: Any) -> str:
    return " ".join(" ".join(node.itertext()).split())
