"""What the code of this project may not do, read from its syntax trees, and the versions that it may not run with."""

import ast
import importlib.metadata
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.version import Version

FLOORS = {
    "monai": "1.6.1",  # GHSA-wvpx-5qmp-46g3 and others
    "torch": "2.10",  # CVE-2026-24747: weights_only; CVE-2025-32434
    "pydicom": "3.0.2",  # CVE-2026-32711: DICOMDIR
}
FILES = [*sorted((ROOT / "bundle").rglob("*.py")), *sorted((ROOT / "scripts").rglob("*.py"))]

NETWORK = ("http", "urllib.request", "urllib.error", "urllib.response", "urllib3", "requests")
NETWORK_TOO = ("socket", "ftplib", "smtplib", "ssl", "xmlrpc", "aiohttp", "httpx", "boto3")
UNPICKLERS = ("pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve")
DOWNLOADS = ("bundle/dynunet_bundle/dataset/download.py",)
"""The only file that opens a connection, for scripts/download.py."""

ALLOWED = {
    # for the name of its exception
    ("bundle/dynunet_bundle/networks/weights.py", "imports pickle"),
    ("bundle/dynunet_bundle/networks/tensor_file.py", "imports pickle"),
    # where a file is checked first; a bundle's own weights, in a process that imports that bundle
    *(
        (file, "calls torch.load: use tensor_file.load_tensors")
        for file in (
            "bundle/dynunet_bundle/networks/tensor_file.py",
            "bundle/dynunet_bundle/delivery/verify/probe.py",
        )
    ),
    # its Unpickler, with a list of the names that it may find
    ("bundle/dynunet_bundle/nnunet/component_rules.py", "imports pickle"),
    # for the timeout of its connections
    ("bundle/dynunet_bundle/dataset/download.py", "imports socket"),
    # where the schema is checked; keys that are there twice; what JSON we have written ourselves; another program's
    *(
        (file, "parses JSON without a schema: use files.read_json")
        for file in (
            "bundle/dynunet_bundle/files.py",
            "bundle/dynunet_bundle/delivery/verify/files.py",
            "bundle/dynunet_bundle/delivery/verify/probe.py",
            "scripts/sbom.py",
        )
    ),
    # MONAI's, which refuses names that lead out; an archive whose MD5 is known
    ("bundle/dynunet_bundle/dataset/download.py", "calls extractall"),
    ("bundle/dynunet_bundle/dataset/download.py", "calls monai.apps.utils.extractall"),
}


def faults_of(source: str) -> Iterator[str]:
    """What a file does that it may not."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (fault for alias in node.names for fault in module_faults(alias.name))
        elif isinstance(node, ast.ImportFrom):
            yield from module_faults(node.module or "")
            for alias in node.names:
                yield from module_faults(f"{node.module}.{alias.name}")
                yield from call_faults(f"{node.module}.{alias.name}", None)
        elif isinstance(node, ast.Call):
            yield from call_faults(ast.unparse(node.func), node)


def module_faults(name: str) -> Iterator[str]:
    for module in (*NETWORK, *NETWORK_TOO, *UNPICKLERS):
        if name == module or name.startswith(f"{module}."):
            yield f"imports {module}"


def call_faults(name: str, node: ast.Call | None) -> Iterator[str]:
    given = {} if node is None else {one.arg: ast.unparse(one.value) for one in node.keywords}
    if name in ("eval", "exec", "compile", "__import__", "breakpoint", "tempfile.mktemp"):
        yield f"calls {name}"
    if name in ("os.system", "os.popen", "pty.spawn", "yaml.load", "shutil.unpack_archive"):
        yield f"calls {name}"
    if name.endswith((".extractall", ".algo_from_pickle")) or name in ("extractall",):
        yield f"calls {name}"
    if given.get("shell", "False") != "False":
        yield "starts a shell"
    if (
        node is not None
        and name in ("torch.load", "load_file")
        and given.get("weights_only") != "True"
    ):
        yield "calls torch.load without weights_only=True"
    if node is not None and name == "torch.load":
        yield "calls torch.load: use tensor_file.load_tensors"
    if (
        node is not None
        and name in ("np.load", "numpy.load")
        and given.get("allow_pickle") != "False"
    ):
        yield "calls np.load without allow_pickle=False"
    if name in ("json.load", "json.loads"):
        yield "parses JSON without a schema: use files.read_json"
    if name in ("nib.load", "nibabel.load"):
        yield "calls nibabel.load, which believes headers: use nifti.load_nifti"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_file_runs_what_it_reads(file: Path):
    where = str(file.relative_to(ROOT))
    faults = {fault for fault in faults_of(file.read_text(encoding="utf-8"))}
    if where in DOWNLOADS:
        faults -= {f"imports {module}" for module in NETWORK}
    assert not {fault for fault in faults if (where, fault) not in ALLOWED}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import os\nos.system('x')",
        "from os import system",
        "eval('1')",
        "exec('1')",
        "subprocess.run('x', shell=True)",
        "import yaml\nyaml.load(f)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=True)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "tempfile.mktemp()",
        "archive.extractall()",
        "from urllib.request import urlopen",
        "import urllib.request",
        "from urllib import request",
        "import socket",
        "from http import client",
        "nib.load(path)",
        "json.load(file)",
        "json.loads(text)",
    ],
)
def test_the_rules_find_what_they_are_for(source: str):
    assert list(faults_of(source))


def test_the_rules_leave_the_rest_alone():
    fine = "from urllib.parse import urlsplit\nnetwork.eval()\nre.compile('x')\n"
    assert not list(faults_of(fine + "np.load(path, allow_pickle=False, mmap_mode='r')"))


def test_what_is_allowed_is_still_needed():
    found = {
        (str(file.relative_to(ROOT)), fault)
        for file in FILES
        for fault in faults_of(file.read_text(encoding="utf-8"))
    }
    assert found >= ALLOWED


# --- versions


def requirements() -> Iterator[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for group in (project["dependencies"], *project["optional-dependencies"].values()):
        yield from map(Requirement, group)


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = (re.fullmatch(r"([A-Za-z0-9._-]+)==([^;\s]+).*", line) for line in lines)
    return {pin[1].lower().replace("_", "-"): pin[2] for pin in pins if pin}


@pytest.mark.parametrize("name", FLOORS)
def test_versions_with_known_holes_are_excluded(name: str):
    floor = Version(FLOORS[name])
    specifiers = [one.specifier for one in requirements() if one.name == name]
    assert specifiers, f"{name} is no requirement"
    below = (
        f"{floor.major}.{floor.minor - 1}.99"
        if not floor.micro
        else f"{floor.major}.{floor.minor}.{floor.micro - 1}"
    )
    for specifier in specifiers:
        assert floor in specifier and below not in specifier
    assert Version(pinned()[name]) >= floor
    assert Version(importlib.metadata.version(name)) >= floor


def test_every_direct_requirement_is_pinned_within_its_bounds():
    for requirement in requirements():
        name = requirement.name.lower().replace("_", "-")
        if name != "dynunet-bundle":
            assert name in pinned(), f"{name} is not in constraints.txt"
            assert pinned()[name] in requirement.specifier, name
