"""What goes through ``literal`` comes out of MONAI's parser unchanged, and nothing of it runs."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser

from dynunet_bundle.configs.literals import literal

TEXTS = [
    "$__import__('os').system('touch MARKER')",
    "$@id(1)",
    "@id",
    "%id",
    "%other.json::id",
    "scan #2",
    "a::b",
    "@#id",
    "##@##",
    "100 % of $5 @ home",
    "plain",
    "",
    " $x",
    "$",
    "quotes ' and \" and \\ and \\$ and \\\\@",
    "line\nbreak\ttab\x00\x1b[31m",
    "größe 北京 \u202e",
    "$import os",
    "_target_",
]


def parsed(value: Any) -> Any:
    parser = ConfigParser({"id": "secret", "value": literal(value), "copy": "@value"})
    assert parser.get_parsed_content("copy") == parser.get_parsed_content("value")
    return parser.get_parsed_content("value")


@pytest.mark.parametrize("text", TEXTS)
def test_texts_stay_what_they_are(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parsed(text) == text
    assert parsed([text, {"key": text}]) == [text, {"key": text}]
    assert parsed({text: [text]}) == {text: [text]}
    assert not list(tmp_path.iterdir())


def test_components_and_references_of_data_are_data() -> None:
    value = {"_target_": "os.getcwd", "_disabled_": True, "a": {"_target_": "int", "x": "@id"}}
    assert parsed(value) == value


@pytest.mark.parametrize("value", [None, True, 0, -1, 1.5, [1, [2.5, None]], {"a": {"b": [True]}}])
def test_other_json_is_left_alone(value: Any) -> None:
    assert literal(value) == value
    assert parsed(value) == value


def test_paths_become_texts(tmp_path: Path) -> None:
    assert parsed(tmp_path / "a #1") == str(tmp_path / "a #1")


def test_random_json_comes_back() -> None:
    rng = random.Random(0)  # noqa: S311
    letters = "$@%#'\"\\:[](){}_ab \n\x1b\u00e9\u4e2d"

    def text() -> str:
        return "".join(rng.choice(letters) for _ in range(rng.randrange(12)))

    def value(depth: int) -> Any:
        kind = rng.randrange(6 if depth else 4)
        if kind < 3:
            return text()
        if kind == 3:
            return rng.choice([None, True, rng.randrange(99), rng.random()])
        if kind == 4:
            return [value(depth - 1) for _ in range(rng.randrange(4))]
        return {text(): value(depth - 1) for _ in range(rng.randrange(4))}

    for _ in range(1000):
        found = value(3)
        assert parsed(found) == found, json.dumps(found)
