"""docs/training.md lists every option of train.json, in its order and with its default."""

import json
import re
from typing import Any

from conftest import BUNDLE, ROOT

from dynunet_bundle.configs.settings import SETTINGS
from dynunet_bundle.configs.values import require_values
from dynunet_bundle.planning.plan import PLAN_IDS
from dynunet_bundle.shapes import describe

TRAIN = json.loads((BUNDLE / "configs" / "train.json").read_text())
FIRST_PART = "preflight"
"""Behind the options stand the components that are made of them."""

ROW = re.compile(r"^\| `([^`]+)` \| (.+?) \| .*\|$", re.MULTILINE)


def options() -> dict[str, Any]:
    """Defaults of all options by their ids: top-level ones, and the settings of components among them."""
    found: dict[str, Any] = {}
    for name in list(TRAIN)[: list(TRAIN).index(FIRST_PART)]:
        value = TRAIN[name]
        if isinstance(value, dict) and "_target_" in value:
            found |= {f"{name}#{key}": item for key, item in value.items() if is_setting(key, item)}
        elif name not in (*PLAN_IDS, "imports"):
            found[name] = value
    return found


def is_setting(key: str, value: Any) -> bool:
    """Whether an argument of a component is a value, not a reference, an expression or a part."""
    return key != "_target_" and not isinstance(value, dict) and str(value)[:1] not in ("@", "$")


def rows() -> dict[str, str]:
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    table = text.partition("| id | Default |")[2].partition("\n\n")[0]
    return dict(ROW.findall(table))


def test_the_table_has_every_option_in_the_order_of_train_json() -> None:
    assert list(rows()) == list(options())


def test_the_table_has_the_defaults_of_train_json() -> None:
    for name, default in options().items():
        told = rows()[name]
        if told.startswith("`"):
            assert json.loads(told.strip("`")) == default, name
        else:
            # in words: what is computed, and lists with a page of their own
            assert isinstance(default, dict) or str(default).startswith("$"), name


def test_the_table_has_the_values_that_the_check_allows() -> None:
    table = {name: describe(SETTINGS[name]) for name in options()}
    assert values("| id | Default |", 2) == table


def test_every_option_has_a_type_and_range() -> None:
    """The one table of settings has each option of the configs, and each default is of its kind."""
    for name in ("train", "evaluate", "inference"):
        content = json.loads((BUNDLE / "configs" / f"{name}.json").read_text())
        require_values({key: content[key] for key in SETTINGS if key in content}, name, {})
        first = list(content)[: list(content).index("preflight")]
        assert [key for key in first if key not in SETTINGS and is_option(key, content[key])] == []


def is_option(name: str, value: Any) -> bool:
    is_component = isinstance(value, dict) and "_target_" in value
    return name != "imports" and not is_component


def values(head: str, column: int) -> dict[str, str]:
    """A column of a table of docs/training.md by id."""
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    lines = text.partition(head)[2].partition("\n\n")[0].splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("| `")]
    return {row[0].strip("`"): row[column] for row in cells}


def test_the_ids_of_a_plan_have_a_table_of_their_own() -> None:
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    table = text.partition("| id of the plan |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `([^`]+)` \| .+ \|$", table, re.MULTILINE) == list(PLAN_IDS)
    allowed = {name: describe(SETTINGS[name]) for name in PLAN_IDS}
    assert values("| id of the plan |", 1) == allowed
