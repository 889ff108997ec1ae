"""What a config names says so: the first line of its docstring tells which config and which id."""

import inspect
import json
from collections import defaultdict
from collections.abc import Iterator
from pydoc import locate
from typing import Any

import pytest
from conftest import BUNDLE

CONFIGS = [
    path for path in sorted((BUNDLE / "configs").glob("*.json")) if path.name != "metadata.json"
]
RECIPES = ("cpu.json", "quick.json", "seed_recipe.json")
"""They give components of train.json other arguments."""

OWN = "dynunet_bundle."


def places(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Components of this package, each with the id that it belongs to: steps of a list have that of the list."""
    if isinstance(value, dict):
        target = value.get("_target_", "")
        if target.startswith(OWN):
            yield target, "#".join(path).removesuffix("#transforms")
        for name, item in value.items():
            yield from places(item, (*path, name))
    elif isinstance(value, list):
        for item in value:
            # what stands inside of a step belongs to the list, too
            yield from (
                (target, "#".join(path).removesuffix("#transforms"))
                for target, _ in places(item, path)
            )


def named() -> dict[str, set[tuple[str, str]]]:
    """Config and id of every place, by component."""
    found = defaultdict(set)
    for config in CONFIGS:
        if config.name not in RECIPES:
            for target, name in places(json.loads(config.read_text()), ()):
                found[target].add((config.name, name))
    return found


@pytest.mark.parametrize("target", sorted(named()))
def test_the_first_line_names_config_and_id(target: str) -> None:
    first = (inspect.getdoc(locate(target)) or "").partition("\n\n")[0]
    first = first.replace("multi_gpu_*.json", "multi_gpu_train.json and multi_gpu_evaluate.json")
    for config, name in named()[target]:
        assert config in first, f"{target}: {config} names it, its first line says: {first}"
        # evaluate.json sets parts of train.json's validation
        short = name.removeprefix("validate#")
        assert f"``{name}``" in first or f"``{short}``" in first, f"{target}: {name} of {config}"


def test_recipes_name_what_train_json_names() -> None:
    for config in RECIPES:
        content = json.loads((BUNDLE / "configs" / config).read_text())
        for target, name in places(content, ()):
            assert ("train.json", name) in named()[target]
