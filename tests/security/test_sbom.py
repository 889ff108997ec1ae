"""The bill of materials is whole, true and the same each time."""

import hashlib
import importlib.metadata
import json
import re
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT, run_script

from dynunet_bundle.delivery.sbom import differences, make_sbom
from dynunet_bundle.errors import ConfigError


@pytest.fixture(scope="module")
def document():
    return make_sbom()


def test_what_is_needed_is_listed_with_version_licence_and_scope(document):
    listed = {one["name"]: one for one in document["components"]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in project["dependencies"]:
        name = re.split(r"[<>=!~\[ ;]", text)[0].lower().replace("_", "-")
        assert listed[name]["version"] == importlib.metadata.version(name)
        assert listed[name]["scope"] == "required"
        assert listed[name]["purl"] == f"pkg:pypi/{name}@{listed[name]['version']}"
        assert listed[name]["licenses"]
    # sympy comes with torch; pytest is for developers, onnx and pydicom are for extras
    scopes = {"sympy": "required", "pytest": "excluded", "onnx": "optional", "pydicom": "optional"}
    assert {name: listed[name]["scope"] for name in scopes if name in listed} == scopes
    assert "dynunet-bundle" not in listed
    assert document["metadata"]["component"]["name"] == "dynunet-bundle"


def test_it_is_cyclonedx_whose_references_meet(document):
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.5")
    root = document["metadata"]["component"]["bom-ref"]
    references = [one["bom-ref"] for one in document["components"]]
    assert len(set(references)) == len(references)
    nodes = {node["ref"]: node["dependsOn"] for node in document["dependencies"]}
    assert set(nodes) == {root, *references}
    assert {one for needs in nodes.values() for one in needs} == set(references)
    assert all(ref not in needs for ref, needs in nodes.items())


def test_the_same_packages_give_the_same_document(document):
    again = make_sbom()
    assert json.dumps(again) == json.dumps(document)
    number = document["serialNumber"]
    assert re.fullmatch(
        r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", number
    )
    # nothing of this machine or of this day
    assert not re.search(r"/home|/root|20\d\d-\d\d-\d\d", json.dumps(document))


def test_weights_are_a_component(tmp_path, document):
    (tmp_path / "model.pt").write_bytes(b"weights")
    found = make_sbom([tmp_path / "model.pt"])
    (model,) = (one for one in found["components"] if one["type"] == "machine-learning-model")
    assert model["name"] == "model.pt"
    digest = hashlib.sha256(b"weights").hexdigest()
    assert model["hashes"] == [{"alg": "SHA-256", "content": digest}]
    assert found["serialNumber"] != document["serialNumber"]
    with pytest.raises(ConfigError, match="no file of weights"):
        make_sbom([tmp_path / "absent.pt"])


def test_what_is_not_pinned_is_told(tmp_path, document):
    listed = {one["name"]: one["version"] for one in document["components"]}
    pins = {**listed, "torch": "1.0"}
    pins["torch"] = "1.0"
    del pins["numpy"]
    path = tmp_path / "constraints.txt"
    path.write_text("# set\n" + "".join(f"{name}=={version}\n" for name, version in pins.items()))
    assert differences(document, path) == [
        f"numpy: {listed['numpy']}, pinned is nothing",
        f"torch: {listed['torch']}, pinned is 1.0",
    ]


def test_a_project_that_is_not_installed():
    with pytest.raises(ConfigError, match="make install"):
        make_sbom(project="no-such-project")


def test_the_script_writes_it(tmp_path: Path, document):
    out = tmp_path / "dist" / "sbom.json"
    done = run_script("sbom", "--out", out)
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text()) == document
