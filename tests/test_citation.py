"""CITATION.cff is one that tools can read, and belongs to this version."""

import yaml
from conftest import ROOT

from dynunet_bundle import __version__


def test_the_citation_is_of_this_version() -> None:
    content = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert content["cff-version"] == "1.2.0" and content["type"] == "software"
    assert content["version"] == __version__
    assert content["license"] == "Apache-2.0"
    assert {"message", "title", "authors"} <= set(content)
    for entry in (content, *content["references"]):
        assert entry["title"] and entry["authors"]
        assert all(("name" in author) != ("family-names" in author) for author in entry["authors"])
