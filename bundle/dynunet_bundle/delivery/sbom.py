"""A bill of materials: what this project is made of, as CycloneDX 1.5 in JSON.

Versions, licences and dependencies are those of the installed packages; the same set gives the same bytes, since
neither a time nor a random number is in it. Weights are a component of their own, with their SHA-256.
"""

import json
import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from dynunet_bundle.errors import ConfigError
from dynunet_bundle.files import sha256_of

PROJECT = "dynunet-bundle"
DEVELOPMENT = "dev"
SCOPES = ("required", "optional", "excluded")
"""CycloneDX: needed by all, by an extra, by developers only; the first that holds."""

MAX_LICENCE = 100
"""Longer texts are licences in full, not names of them."""


@dataclass
class _Package:
    name: str
    version: str
    licences: list[dict[str, Any]]
    scope: str
    needs: set[str] = field(default_factory=set)

    @property
    def purl(self) -> str:
        """Package URL of the type pypi: lower case, with dashes."""
        return f"pkg:pypi/{self.name}@{self.version}"


def make_sbom(weights: Iterable[Path] = (), project: str = PROJECT) -> dict[str, Any]:
    """Collect what is installed.

    Args:
        weights: files of weights that go with it.
        project: the distribution at the root.

    Returns:
        A CycloneDX document.

    Raises:
        ConfigError: if the project is not installed, or a file of weights is missing.
    """
    try:
        metadata.version(project)
    except metadata.PackageNotFoundError as error:
        raise ConfigError(f"{project} is not installed. Run make install.") from error
    packages = _packages(project)
    root = _component(packages[project]) | {"type": "application"}
    models = [_model(path) for path in sorted(weights)]
    listed = [one for name, one in sorted(packages.items()) if name != project]
    document: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": root},
        "components": [*map(_component, listed), *models],
        "dependencies": [
            {
                "ref": one.purl,
                "dependsOn": sorted(packages[name].purl for name in one.needs),
            }
            for _, one in sorted(packages.items())
        ],
    }
    # a number that is the content's own
    digest = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(document, sort_keys=True))
    return {**document, "serialNumber": f"urn:uuid:{digest}"}


def _packages(project: str) -> dict[str, _Package]:
    """All that a project needs, with all its extras, by name."""
    extras = set(metadata.metadata(project).get_all("Provides-Extra") or ())
    found: dict[str, _Package] = {}
    for scope, wanted in zip(SCOPES, (set(), extras - {DEVELOPMENT}, extras), strict=True):
        todo, seen = [(project, frozenset(wanted))], set()
        while todo:
            name, asked = todo.pop()
            if (name, asked) in seen:
                continue
            seen.add((name, asked))
            package = found.setdefault(name, _package(name, scope))
            for requirement in _requirements(name, asked):
                needed = _normal(requirement.name)
                if _is_installed(needed):
                    package.needs |= {needed} - {name}
                    todo.append((needed, frozenset(requirement.extras)))
    return found


def _requirements(name: str, extras: Iterable[str]) -> list[Requirement]:
    parsed = [Requirement(text) for text in metadata.requires(name) or ()]
    return [
        one
        for one in parsed
        if one.marker is None
        or any(one.marker.evaluate({"extra": extra}) for extra in ("", *extras))
    ]


def _package(name: str, scope: str) -> _Package:
    facts: Any = metadata.metadata(name)
    expression, licence = facts.get("License-Expression"), _licence(facts)
    licences: list[dict[str, Any]] = [{"license": {"name": licence}}] if licence else []
    if expression:
        licences = [{"expression": expression}]
    return _Package(name, metadata.version(name), licences, scope)


def _licence(facts: Any) -> str | None:
    """Name of the licence: its classifier, or what the field says where that is short."""
    classified = [
        line.rpartition(" :: ")[2]
        for line in facts.get_all("Classifier") or ()
        if line.startswith("License :: ") and not line.endswith("OSI Approved")
    ]
    free = (facts.get("License") or "").strip()
    is_name = 0 < len(free) <= MAX_LICENCE and "\n" not in free and free != "UNKNOWN"
    return " AND ".join(sorted(classified)) or (free if is_name else None)


def _component(package: _Package) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "type": "library",
        "bom-ref": package.purl,
        "name": package.name,
        "version": package.version,
        "scope": package.scope,
        "purl": package.purl,
    }
    if package.licences:
        facts["licenses"] = package.licences
    return facts


def _model(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"{path} is no file of weights.")
    digest = sha256_of(path)
    return {
        "type": "machine-learning-model",
        "bom-ref": f"weights:{digest}",
        "name": path.name,
        "hashes": [{"alg": "SHA-256", "content": digest}],
    }


def differences(document: Mapping[str, Any], constraints: Path) -> list[str]:
    """Where what is installed is not what a file of constraints pins: ``"numpy: 2.4.6, pinned is 2.4.5"``.

    Args:
        document: of ``make_sbom``.
        constraints: lines of ``name==version``.
    """
    pins = {}
    for line in constraints.read_text(encoding="utf-8").splitlines():
        name, found, version = line.partition("==")
        if found and not line.startswith("#"):
            pins[_normal(name)] = version.split(";")[0].strip()
    return [
        f"{one['name']}: {one['version']}, pinned is {pins.get(one['name'], 'nothing')}"
        for one in document["components"]
        if one["type"] == "library" and pins.get(one["name"]) != one["version"].partition("+")[0]
    ]


def _normal(name: str) -> str:
    """PyPA's normalised name of a package."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
