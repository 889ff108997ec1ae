"""The files, links and Python names in the documents exist; CITATION.cff has the version of the package."""

import re
from functools import cache
from pathlib import Path
from pydoc import locate

import pytest
import yaml
from conftest import BUNDLE, ROOT
from test_layers import ROOMS

from dynunet_bundle import __version__

PAGES = [
    *(ROOT / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((BUNDLE / "docs").glob("*.md")),
]
HISTORY = ROOT / "docs" / "journal.md"
"""The journal: its dated entries keep the file names of their day."""

FOLDERS = (ROOT, BUNDLE, BUNDLE / "dynunet_bundle", BUNDLE / "dynunet_bundle" / "training")
"""Folders that a path in a page may be relative to."""

FILE_NAME = re.compile(r"(?<![\w/.~$<>-])(?:[\w-]+/)*[\w-]+\.(?:py|sh|ya?ml|toml|jinja)\b")
TREE_NAME = re.compile(r"(?<![\w/.-])(?:tests|scripts|\.ci)/[\w./-]*\w/?")
NOT_OURS = {
    *("main.py", "preprocess.py"),  # of NVIDIA's example
    "large_files.yml",  # of the Model Zoo
    # written by the reader of docs/extending.md
    *(
        f"{name}.py"
        for name in ("tversky", "lion", "memory", "ranks", "volumes", "ghosts", "arrays")
    ),
    *("brain.sh", "predict.sh"),  # written by the examples of docs/cluster.md
}


@cache
def base_names() -> set[str]:
    folders = ("bundle", "scripts", "tests", "benchmarks")
    return {path.name for folder in folders for path in (ROOT / folder).rglob("*.*")}


def is_there(name: str) -> bool:
    if any((folder / name).exists() for folder in FOLDERS):
        return True
    return "/" not in name and name in base_names()


def missing_files(text: str) -> list[str]:
    """File names in a text that do not exist; a bare name may belong to a file in any folder."""
    names = {*FILE_NAME.findall(text), *TREE_NAME.findall(text)}
    return sorted(name for name in names - NOT_OURS if not is_there(name))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    if page != HISTORY:
        assert missing_files(page.read_text()) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", page.read_text())
    paths = [link for link in links if "://" not in link]
    assert [path for path in paths if not (page.parent / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_names_of_a_page_exist(page: Path) -> None:
    text = page.read_text()
    names = set(re.findall(r"\bdynunet_bundle(?:\.\w+)+", text))
    for module, imported in re.findall(r"^from (dynunet_bundle[\w.]+) import (.+)$", text, re.M):
        names |= {f"{module}.{name.strip()}" for name in imported.split(",")}
    assert [name for name in sorted(names) if locate(name) is None] == []


def test_a_file_that_does_not_exist_is_found() -> None:
    text = "`feed/no_such.py`, no_such.py and tests/feed/test_none.py, but `feed/graph.py` and graph.py"
    assert missing_files(text) == ["feed/no_such.py", "no_such.py", "tests/feed/test_none.py"]


def test_the_citation_has_the_version_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == __version__
    assert citation["license"] == "Apache-2.0"
    for work in (citation, *citation["references"]):
        assert work["title"] and work["authors"]


def test_pages_list_the_rooms_in_their_order() -> None:
    tree = re.findall(r"^ {12}(\w+)/", (ROOT / "README.md").read_text(), re.M)
    sections = re.findall(r"^## (\w+)$", (ROOT / "docs" / "how_it_works.md").read_text(), re.M)
    assert tuple(tree) == ROOMS
    assert tuple(sections) == ROOMS


def test_messages_of_the_troubleshooting_page_are_said() -> None:
    """Parts of messages that the page quotes stand in the package, joined over the lines of the source."""
    sources = "\n".join(path.read_text() for path in (BUNDLE / "dynunet_bundle").rglob("*.py"))
    joined = re.sub(r'"\s*\n\s*f?"', "", sources)
    quoted = re.findall(
        r"^\| `([^`]+)` \|", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE
    )
    assert len(quoted) > 15
    assert [message for message in quoted if message not in joined] == []
