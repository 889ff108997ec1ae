"""docs/traceability.md names files and tests that exist, and no requirement without a test."""

import ast
import json
import re
from functools import cache
from pathlib import Path

import pytest
from conftest import ROOT

TABLE = ROOT / "docs" / "traceability.md"
GROUPS = {
    "Geometry and values",
    "Same result again",
    "Bad input",
    "Prediction",
    "Evaluation and report",
    "Export",
    "DICOM",
    "Delivery",
    "Security and privacy",
}
SWITCHES = ("skip", "xfail")


def rows_of(text: str) -> dict[str, list[str]]:
    """Requirement, how and test of each row by its id."""
    rows = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == 4 and re.fullmatch(r"[A-Z]\d+", cells[0]):
            assert cells[0] not in rows, f"{cells[0]} is there twice"
            rows[cells[0]] = cells[1:]
    return rows


ROWS = rows_of(TABLE.read_text())


@cache
def functions_of(path: Path) -> dict[str, ast.FunctionDef]:
    """The test functions of a file by their names."""
    tree = ast.parse(path.read_text())
    return {
        node.name: node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def is_switched_off(function: ast.FunctionDef) -> bool:
    """Whether it is marked to be skipped or to fail in any case; a condition is no switch."""
    for decorator in function.decorator_list:
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        if ast.unparse(called).rpartition(".")[2] in SWITCHES:
            return True
    return all(isinstance(node, ast.Pass) or _is_text(node) for node in function.body)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


@pytest.mark.parametrize("row", ROWS)
def test_no_requirement_lacks_a_test(row):
    requirement, how, tests = ROWS[row]
    assert requirement
    files, names = (re.findall("`(.+?)`", cell) for cell in (how, tests))
    assert files, f"{row} does not say how"
    assert names, f"{row} has no test"
    assert [name for name in files if not (ROOT / name).exists()] == []
    assert all(re.fullmatch(r"tests/[\w/]+\.py::test_\w+", name) for name in names)


@pytest.mark.parametrize("row", ROWS)
def test_every_test_exists(row):
    for test in re.findall("`(.+?)`", ROWS[row][2]):
        path, _, name = test.partition("::")
        assert (ROOT / path).is_file(), f"there is no {path}"
        functions = functions_of(ROOT / path)
        assert name in functions, f"{path} has no {name}"
        assert not is_switched_off(functions[name]), f"{test} is off"


def test_the_table_has_all_its_parts():
    """A row that cannot be read is a row that nobody checks."""
    text = TABLE.read_text()
    assert set(re.findall(r"^## (.+)$", text, re.MULTILINE)) == GROUPS
    lines = [line for line in text.splitlines() if line.startswith("|")]
    headings = [line for line in lines if line.startswith(("| | ", "| ---"))]
    assert len(ROWS) == len(lines) - len(headings)


@pytest.mark.parametrize("name", ["traceability.md", "clinical.md", "clients.md"])
def test_links_lead_somewhere(name):
    text = (ROOT / "docs" / name).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []


def test_tests_named_in_clients_md_exist():
    text = (ROOT / "docs" / "clients.md").read_text()
    named = set(re.findall(r"`(tests/[^`]+\.py)`", text))
    assert len(named) > 5
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_what_is_off_is_seen():
    source = """
@pytest.mark.skip(reason="later")
def test_a(): assert 1

@pytest.mark.xfail
def test_b(): assert 1

def test_c():
    "says what it would do"

@pytest.mark.skipif(condition, reason="no GPU")
def test_d(): assert 1
"""
    nodes = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    assert [is_switched_off(node) for node in nodes] == [True, True, True, False]


def test_a_row_without_a_test_is_seen():
    rows = rows_of("| Q1 | something | `README.md` | |\n| not a row |\n")
    assert rows == {"Q1": ["something", "`README.md`", ""]}


def test_the_options_of_clients_are_those_of_the_config():
    config = json.loads((ROOT / "bundle" / "configs" / "inference.json").read_text())
    text = (ROOT / "docs" / "clients.md").read_text()
    missing = [name for name in config["displayable_configs"] if f"| `{name}` |" not in text]
    assert missing == []
