"""Codes of labels: the table agrees with pydicom's dictionaries, and names are split correctly."""

import json
import re

import pytest
from PIL import ImageColor
from pydicom.sr._concepts_dict import concepts

from dynunet_bundle.dicom_output.codes import (
    PRIVATE_SCHEME,
    TABLE,
    Code,
    LabelCodes,
    codes_of_labels,
    uncoded_doubt,
)
from dynunet_bundle.dicom_output.labels import coded_labels
from dynunet_bundle.drawing.colours import COLOURS, ClassColours
from dynunet_bundle.errors import ConfigError

CONTENT = json.loads(TABLE.read_text())


def one(name: str, task: str = "") -> LabelCodes:
    return codes_of_labels([name], task)[0]


def described(codes: LabelCodes) -> tuple[str, tuple[str, ...], str | None]:
    modifiers = tuple(code.meaning for code in codes.modifiers)
    return codes.type.meaning, modifiers, codes.region and codes.region.meaning


@pytest.mark.parametrize("part", ["categories", "modifiers", "labels"])
def test_each_code_has_the_meaning_that_the_standard_gives_it(part: str) -> None:
    known = {
        (value, scheme, meaning)
        for scheme, entries in concepts.items()
        for codes in entries.values()
        for value, (meaning, _) in codes.items()
    }
    for entry in CONTENT[part].values():
        assert tuple(entry if part != "labels" else entry["type"]) in known


def test_no_phrase_means_two_things() -> None:
    seen: dict[str, str] = {}
    for name, entry in CONTENT["labels"].items():
        for phrase in (name, *entry.get("synonyms", ())):
            assert phrase == re.sub(r"[\W_]+", " ", phrase).lower()
            assert seen.setdefault(phrase, name) == name
            codes = one(phrase)
            assert codes.type == Code(*entry["type"])
            assert codes.category == Code(*CONTENT["categories"][entry["category"]])


@pytest.mark.parametrize(
    ("task", "name", "wanted"),
    [
        ("Task01_BrainTumour", "edema", ("Edema", (), "Brain")),
        ("Task01_BrainTumour", "non-enhancing tumor", ("Non-Enhancing Lesion", (), "Brain")),
        ("Task01_BrainTumour", "enhancing tumour", ("Enhancing Lesion", (), "Brain")),
        ("Task02_Heart", "left atrium", ("Left atrium", (), None)),
        ("Task03_Liver", "liver", ("Liver", (), None)),
        ("Task03_Liver", "cancer", ("Neoplasm", (), "Liver")),
        ("Task04_Hippocampus", "Anterior", ("Hippocampus", ("Anterior",), None)),
        ("Task04_Hippocampus", "Posterior", ("Hippocampus", ("Posterior",), None)),
        ("Task05_Prostate", "PZ", ("Peripheral zone of the prostate", (), None)),
        ("Task05_Prostate", "TZ", ("Transition zone of the prostate", (), None)),
        ("Task06_Lung", "cancer", ("Neoplasm", (), "Lung")),
        ("Task07_Pancreas", "pancreas", ("Pancreas", (), None)),
        ("Task08_HepaticVessel", "Vessel", ("Blood Vessel", (), "Liver")),
        ("Task09_Spleen", "spleen", ("Spleen", (), None)),
        ("Task10_Colon", "colon cancer primaries", ("Neoplasm, Primary", (), "Colon")),
        ("", "kidney_left", ("Kidney", ("Left",), None)),
        ("", "Right Kidneys", ("Kidney", ("Right",), None)),
        ("", "tumour of the left kidney", ("Neoplasm", ("Left",), "Kidney")),
        ("", "pulmonary_nodules", ("Nodule", (), "Lung")),
        ("", "vertebrae_L3", ("L3 vertebra", (), None)),
        ("", "hippocampus head", ("Hippocampus", ("Anterior",), None)),
        ("", "left hippocampus body+tail", ("Hippocampus", ("Left", "Posterior"), None)),
        ("", "multiple sclerosis lesions", ("Lesion of Brain", (), None)),
        # an organ of the task is no region of an organ
        ("Task03_Liver", "spleen", ("Spleen", (), None)),
    ],
)
def test_names_of_real_tasks(
    task: str, name: str, wanted: tuple[str, tuple[str, ...], str | None]
) -> None:
    assert described(one(name, task)) == wanted
    assert one(name, task).name == name


def test_unknown_names_get_a_private_code() -> None:
    name = "Zweifelhaftes\\" + "x" * 80
    codes = one(name)
    assert codes.type.scheme == PRIVATE_SCHEME
    assert len(codes.type.value) <= 16
    assert codes.type.meaning == ("Zweifelhaftes/" + "x" * 80)[:64]
    assert codes.type == one(name.upper()).type._replace(meaning=codes.type.meaning)
    assert codes.type.value != one("something else").type.value
    # a partial match does not count: the label is more than the organ or the side alone
    assert one("liver something").type.scheme == PRIVATE_SCHEME
    assert one("Anterior").type.scheme == PRIVATE_SCHEME


def test_classes_without_names_get_names_first() -> None:
    told = uncoded_doubt(["class_1", "class_2"])
    assert told and "class_1, class_2" in told and "--label_names" in told
    assert "label_codes" not in told
    mixed = uncoded_doubt(["class_1", "lab7"])
    assert mixed and '"label_codes"' in mixed


def test_labels_without_a_code_are_named_with_the_key_to_set() -> None:
    told = uncoded_doubt(["liver", "lab7", "plaque"], "Task03_Liver", {"plaque": "cancer"})
    assert told and "lab7" in told and "plaque" not in told and "liver" not in told
    assert '{"label_codes": {"lab7": "left kidney"}}' in told
    assert uncoded_doubt(["liver", "lab7"], overrides={"lab7": "left kidney"}) is None
    assert uncoded_doubt(["Anterior"], "Task04_Hippocampus") is None


def test_labels_without_a_code_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        coded_labels({"background": 0, "told once": 1}, "", None)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    coded_labels({"background": 0, "told once": 1}, "", {"told once": "liver"})
    assert len(caplog.records) == 1


def test_colours_are_distinct() -> None:
    names = ["liver", "hepatic", "tumor", "cancer", *"abcdefg"]
    colours = [codes.rgb for codes in codes_of_labels(names)]
    assert colours[0] == tuple(CONTENT["labels"]["liver"]["rgb"])
    assert len(set(colours)) == len(names)
    many = [codes.rgb for codes in codes_of_labels([str(i) for i in range(50)])]
    assert len(set(many)) == len(COLOURS)


def test_a_label_without_a_colour_has_that_of_its_class_in_reports() -> None:
    report = ClassColours({1: "liver", 2: "a", 3: "b"})
    _, *others = codes_of_labels(["liver", "a", "b"])
    assert [codes.rgb for codes in others] == [
        ImageColor.getrgb(report.colour(value)) for value in (2, 3)
    ]


def test_overrides() -> None:
    codes = codes_of_labels(
        ["a", "b", "liver"],
        overrides={
            "a": "left kidney",
            "b": {
                "type": ["1", "99ME", "My thing"],
                "category": "abnormal",
                "modifiers": ["left", ["2", "99ME", "Odd"]],
                "region": ["3", "99ME", "Place"],
                "rgb": [1, 2, 3],
            },
        },
    )
    assert described(codes[0]) == ("Kidney", ("Left",), None)
    assert codes[0].name == "a"
    assert described(codes[1]) == ("My thing", ("Left", "Odd"), "Place")
    assert codes[1].category.meaning == "Morphologically Abnormal Structure"
    assert codes[1].rgb == (1, 2, 3)
    assert described(codes[2]) == ("Liver", (), None)


@pytest.mark.parametrize(
    "override",
    [
        {"c": "liver"},
        {"a": {}},
        {"a": {"type": ["1", "SCT"]}},
        {"a": {"type": ["1", "SCT", ""]}},
        {"a": {"type": "liver"}},
        {"a": {"type": ["1", "SCT", "x"], "kind": 1}},
        {"a": {"type": ["1", "SCT", "x"], "category": "animal"}},
        {"a": {"type": ["1", "SCT", "x"], "rgb": [1, 2, 256]}},
        {"a": {"type": ["1", "SCT", "x"], "rgb": "red"}},
    ],
)
def test_malformed_overrides_are_refused(override: dict) -> None:
    with pytest.raises(ConfigError):
        codes_of_labels(["a"], overrides=override)
