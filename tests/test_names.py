"""A name means one thing, and a function fits on a screen."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import BUNDLE, ROOT

PACKAGE = BUNDLE / "dynunet_bundle"
MAX_LINES = 60

FILES = sorted(
    path
    for folder in (PACKAGE, ROOT / "scripts", ROOT / "benchmarks")
    for path in folder.rglob("*.py")
)


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions of a file, also those within others."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_function_is_longer_than_a_screen(path: Path) -> None:
    lengths = {
        node.name: (node.end_lineno or 0) - min(node.lineno, *_lines(node)) + 1
        for node in functions(path)
    }
    assert not {name: lines for name, lines in lengths.items() if lines > MAX_LINES}


def _lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[int]:
    """The line itself, and those of the decorators."""
    return [node.lineno, *(decorator.lineno for decorator in node.decorator_list)]


def test_no_two_public_classes_or_functions_have_one_name() -> None:
    places = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for name in _public_names(ast.parse(path.read_text(encoding="utf-8"))):
            places[name].append(str(path.relative_to(PACKAGE)))
    # each command has these two
    interface = {name: places.pop(name) for name in ("add_arguments", "run")}
    assert not {name: files for name, files in places.items() if len(files) > 1}
    assert all(file.startswith("commands/") for files in interface.values() for file in files)


def _public_names(module: ast.Module) -> Iterator[str]:
    """Classes, functions, and aliases of types at the top of a module; constants are not among them."""
    for node in module.body:
        names = []
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names = [node.name]
        elif isinstance(node, ast.Assign):
            targets = (target for target in node.targets if isinstance(target, ast.Name))
            names = [target.id for target in targets if target.id[0].isupper()]
        yield from (name for name in names if name[0] != "_" and not name.isupper())
