"""The rooms of the package stand in one order, and each imports only rooms below it."""

import ast
from pathlib import Path

import pytest
from conftest import BUNDLE

PACKAGE = BUNDLE / "dynunet_bundle"
LOOSE = {"__init__", "__main__", "errors", "files", "shapes", "terminal"}
"""What every room needs; nothing else is loose at the root of the package."""

ROOMS = (
    "machine",
    "dicom_input",
    "images",
    "drawing",
    "labels",
    "dataset",
    "survey",
    "planning",
    "configs",
    "networks",
    "preprocessing",
    "feed",
    "training",
    "inference",
    "report",
    "evaluation",
    "dicom_output",
    "cross_validation",
    "best_configuration",
    "delivery",
    "nnunet",
    "federation",
    "api",
    "cluster",
    "commands",
)
"""From the lowest to the highest. CONTRIBUTING.md says what belongs where."""

TRAINING = ("process", "watching", "handlers")
"""The rooms inside of training, from the lowest to the highest; its loose files stand below them."""

FILES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Dotted names below the package that a file imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    found = {name.removeprefix("dynunet_bundle.") for name in names if name.startswith("dynunet_")}
    return found - {"dynunet_bundle", "__version__"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_rooms_below_it(path: Path) -> None:
    room, *inner = path.relative_to(PACKAGE).with_suffix("").parts
    if room == "__main__":
        room = ROOMS[-1]
    allowed = {*LOOSE, *(ROOMS[: ROOMS.index(room) + 1] if room in ROOMS else ())}
    wrong = {name for name in imported(path) if name.split(".")[0] not in allowed}
    assert not wrong, f"{path.relative_to(PACKAGE)} imports from above: {sorted(wrong)}"
    if room == "training":
        floor = TRAINING.index(inner[0]) if inner[0] in TRAINING else -1
        above = {f"training.{name}" for name in TRAINING[floor + 1 :]}
        wrong = {name for name in imported(path) if ".".join(name.split(".")[:2]) in above}
        assert not wrong, f"{path.relative_to(PACKAGE)} imports from above: {sorted(wrong)}"


def test_every_folder_is_a_room_and_nothing_else_is_loose() -> None:
    folders = {file.parent.name for file in PACKAGE.glob("*/__init__.py")}
    assert folders == set(ROOMS)
    assert {file.stem for file in PACKAGE.glob("*.py")} == LOOSE


def test_the_package_imports_nothing_that_stays_behind() -> None:
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        froms = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not {name.split(".")[0] for name in froms} & {"benchmarks", "scripts", "tests"}, path
