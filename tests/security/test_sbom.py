"""The bill of materials is whole, true and the same each time."""

import hashlib
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from conftest import ROOT, run_script
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from dynunet_bundle import __version__


def write_sbom(out: Path, *arguments: Any) -> str:
    done = run_script("sbom", "--out", out, *arguments)
    assert done.returncode == 0, done.stderr
    return out.read_text()


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_sbom(tmp_path_factory.mktemp("sbom") / "dist" / "sbom.json")


@pytest.fixture(scope="module")
def document(text: str) -> dict[str, Any]:
    return json.loads(text)


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_what_is_needed_is_listed_with_version_and_licence(document):
    listed = {normal(one["name"]): one for one in document["components"]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in project["dependencies"]:
        name = normal(re.split(r"[<>=!~\[ ;]", text)[0])
        version = importlib.metadata.version(name)
        assert listed[name]["version"] == version
        assert unquote(listed[name]["purl"]) == f"pkg:pypi/{name}@{version}"
        assert listed[name]["licenses"]
    assert "sympy" in listed, "it comes with torch"
    assert "dynunet-bundle" not in listed
    root = document["metadata"]["component"]
    assert (root["name"], root["version"]) == ("dynunet-bundle", __version__)


def test_it_is_cyclonedx_whose_references_meet(text, document):
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    root = document["metadata"]["component"]["bom-ref"]
    references = [one["bom-ref"] for one in document["components"]]
    assert len(set(references)) == len(references)
    nodes = {node["ref"]: node.get("dependsOn", []) for node in document["dependencies"]}
    assert set(nodes) == {root, *references}
    assert {one for needs in nodes.values() for one in needs} <= set(references)
    assert all(ref not in needs for ref, needs in nodes.items())


def test_the_same_packages_give_the_same_document(text, tmp_path):
    assert write_sbom(tmp_path / "again.json") == text
    # nothing of this machine or of this day
    assert not any(word in text for word in ("file:///", str(ROOT), sys.prefix, "serialNumber"))
    assert "timestamp" not in json.loads(text)["metadata"]


def test_weights_are_a_component(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"weights")
    weights = ("--weights", tmp_path / "model.pt", "--weights_license", "CC-BY-SA-4.0")
    text = write_sbom(tmp_path / "sbom.json", *weights)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    found = json.loads(text)["components"]
    (model,) = (one for one in found if one["type"] == "machine-learning-model")
    assert model["name"] == "model.pt"
    digest = hashlib.sha256(b"weights").hexdigest()
    assert model["hashes"] == [{"alg": "SHA-256", "content": digest}]
    assert model["licenses"] == [{"expression": "CC-BY-SA-4.0"}]


def test_weights_that_are_missing_are_an_error(tmp_path):
    done = run_script("sbom", "--out", tmp_path / "s.json", "--weights", tmp_path / "absent.pt")
    assert done.returncode == 2 and "absent.pt is not a file of weights" in done.stderr
    assert not (tmp_path / "s.json").exists()


def test_without_the_tool_the_error_says_what_to_do(tmp_path):
    program = (
        "import runpy, sys\n"
        "sys.executable = '/bin/false'\n"
        f"sys.argv = ['sbom.py', '--out', {str(tmp_path / 's.json')!r}]\n"
        f"runpy.run_path({str(ROOT / 'scripts' / 'sbom.py')!r}, run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "cyclonedx-bom failed" in done.stderr, done.stderr
    assert "make install" in done.stderr and not list(tmp_path.iterdir())
