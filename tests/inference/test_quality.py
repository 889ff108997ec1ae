"""Doubtful predictions are noted and flagged, others are not."""

import math

import pytest
import torch

from dynunet_bundle.inference import quality
from dynunet_bundle.inference.flags import LOOK, UNUSABLE, find_flags
from dynunet_bundle.inference.quality import NoteQualityd
from dynunet_bundle.labels.scheme import LabelScheme

CLASSES = LabelScheme(["background", "a", "b"])
REGIONS = LabelScheme(CLASSES.names, regions={"a": [1, 2], "b": [2]}, regions_class_order=[1, 2])


def logits_of(shares, shape=(4, 5, 6)):
    logs = torch.tensor(shares).log().reshape(-1, 1, 1, 1)
    return logs.expand(-1, *shape).clone()


def test_entropy_is_that_of_the_probabilities_in_bits():
    logits = logits_of([0.25, 0.5, 0.25])
    noted = NoteQualityd("pred", CLASSES)({"pred": logits, "image": torch.zeros(1, 4, 5, 6)})
    assert noted["quality"]["entropy"]["a"] == pytest.approx(1.5, abs=1e-5)
    assert noted["quality"]["entropy"]["b"] is None


def test_entropy_of_regions_is_that_of_each():
    logits = torch.full((2, 4, 5, 6), math.log(3.0))
    logits[1] = -1
    noted = NoteQualityd("pred", REGIONS)({"pred": logits, "image": torch.zeros(1, 4, 5, 6)})
    expected = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert noted["quality"]["entropy"] == {"a": pytest.approx(expected, abs=1e-5), "b": None}


def test_large_volumes_are_looked_at_in_part(monkeypatch):
    logits = torch.randn(3, 20, 20, 20, generator=torch.Generator().manual_seed(0))
    data = {"pred": logits, "image": torch.zeros(1, 20, 20, 20)}
    whole = NoteQualityd("pred", CLASSES)(data)["quality"]["entropy"]["a"]
    monkeypatch.setattr(quality, "MAX_VOXELS", 1000)
    part = NoteQualityd("pred", CLASSES)(data)["quality"]["entropy"]["a"]
    assert part != whole and part == pytest.approx(whole, rel=0.1)


def test_intensities_outside_the_training_are_those_that_were_cut_off():
    statistics = {"lower": -100.0, "upper": 300.0, "mean": 50.0, "std": 20.0}
    image = torch.zeros(2, 4, 5, 6)
    image[0, 0] = (300 - 50) / 20
    image[0, 1, 0] = (-100 - 50) / 20
    noted = NoteQualityd("pred", CLASSES, intensity_statistics=[statistics, None])(
        {"pred": logits_of([0.1, 0.8, 0.1]), "image": image}
    )
    assert noted["quality"]["clipped"] == [pytest.approx(36 / 120), None]


def facts(**changes):
    return {
        "volumes_ml": {"a": 2.0, "b": 1.0},
        "components": {"a": 1, "b": 1},
        "entropy": {"a": 0.1, "b": 0.1},
        "clipped": [0.01],
        **changes,
    }


TRAINING = {"volumes_ml": {"a": [1.0, 3.0], "b": [0.5, 2.0]}, "components": {"a": [1, 2]}}


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({}, []),
        ({"volumes_ml": {"a": 3.2, "b": 1.0}}, []),
        ({"volumes_ml": {"a": 3.4, "b": 0.4}}, [("volume", "a"), ("volume", "b")]),
        ({"volumes_ml": {"a": 0.0, "b": 1.0}}, []),
        ({"volumes_ml": {"a": 0.0, "b": 0.0}}, [("empty", None)]),
        ({"components": {"a": 2, "b": 9}}, []),
        ({"components": {"a": 3, "b": 9}}, [("components", "a")]),
        ({"entropy": {"a": None, "b": 0.9}}, [("entropy", "b")]),
        ({"entropy": None}, []),
        ({"clipped": [None, 0.4]}, [("intensity", None)]),
    ],
)
def test_flags(changes, kinds):
    flags = find_flags(facts(**changes), TRAINING, max_entropy=0.5, max_clipped=0.1)
    assert [(flag["kind"], flag["label"]) for flag in flags] == kinds


def test_without_facts_of_the_training_only_the_prediction_itself_counts():
    flags = find_flags(facts(components={"a": 9, "b": 9}), {}, max_entropy=0.5, max_clipped=0.1)
    assert flags == []


@pytest.mark.parametrize(
    ("changes", "grade"),
    [
        ({"volumes_ml": {"a": 8.9, "b": 1.0}}, LOOK),
        ({"volumes_ml": {"a": 9.1, "b": 1.0}}, UNUSABLE),
        ({"volumes_ml": {"a": 0.3, "b": 1.0}}, UNUSABLE),
        ({"volumes_ml": {"a": 0.0, "b": 0.0}}, UNUSABLE),
        ({"components": {"a": 20, "b": 1}}, LOOK),
        ({"components": {"a": 21, "b": 1}}, UNUSABLE),
        ({"entropy": {"a": 0.9, "b": 0.1}}, LOOK),
        ({"entropy": {"a": 1.1, "b": 0.1}}, UNUSABLE),
        ({"clipped": [0.4]}, LOOK),
        ({"clipped": [0.6]}, UNUSABLE),
        ({"sheared_degrees": 9.0}, LOOK),
    ],
)
def test_a_flag_has_a_grade(changes, grade):
    (flag,) = find_flags(facts(**changes), TRAINING, max_entropy=0.5, max_clipped=0.1)
    assert flag["grade"] == grade


def test_many_components_are_usual_if_the_training_had_as_many():
    training = {"components": {"a": [1, 40]}}
    assert find_flags(facts(components={"a": 35, "b": 1}), training, 0.5, 0.1) == []
    (flag,) = find_flags(facts(components={"a": 41, "b": 1}), training, 0.5, 0.1)
    assert flag["grade"] == UNUSABLE


def test_the_flag_of_a_picture_is_in_pixels():
    found = {**facts(areas_px2={"a": 9500, "b": 1000}), "volumes_ml": None}
    (flag,) = find_flags(found, TRAINING, max_entropy=0.5, max_clipped=0.1)
    assert flag["message"] == "a has 9500 px\u00b2; training cases have 1000 to 3000 px\u00b2"
    assert flag["range"] == [1000, 3000]
    assert flag["grade"] == UNUSABLE
