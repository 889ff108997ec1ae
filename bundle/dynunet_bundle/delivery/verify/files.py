"""Checks of the files themselves: presence, size, JSON, model card, checksums."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from dynunet_bundle.delivery.package.archive import (
    CODE_SUMS_NAME,
    MAX_FILE_BYTES,
    SUMS_NAME,
    files_of,
    summed_files,
)
from dynunet_bundle.delivery.verify.bundle_folder import BundleFolder, BundleProblem, SkippedCheck
from dynunet_bundle.errors import ConfigError, first_line
from dynunet_bundle.files import sha256_of
from dynunet_bundle.shapes import FILE_PATH, TEXT, list_of, object_with, require_shape, unique_keys

REQUIRED = (
    "LICENSE",
    "configs/metadata.json",
    "configs/inference.json",
    "configs/train.json",
    "configs/multi_gpu_train.json",
    "configs/evaluate.json",
    "configs/multi_gpu_evaluate.json",
    "configs/logging.conf",
    "docs/README.md",
    "docs/data_license.txt",
)
WEIGHTS = "models/model.pt"
LARGE_FILES = ("large_files.yml", "large_files.yaml", "large_files.json")
LARGE_FILES_SCHEMA = object_with(
    {"large_files": list_of(object_with({"path": FILE_PATH, "hash_type": TEXT}))},
    description="Correct the file; see MONAI's bundle specification.",
)
HASHES = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}
"""Hash types that MONAI checks, and their length in hex digits."""

HEADINGS = (
    "Model Overview",
    "Data",
    "Training configuration",
    "Memory consumption",
    "Input",
    "Output",
    "Performance",
    "TensorRT speedup",
    "MONAI Bundle Commands",
    "References",
    "License",
)
"""Sections of a model card, as in the Model Zoo's bundles of 2024 and 2025."""

COMMANDS = (
    "run training",
    "multi_gpu_train.json",
    "run evaluating",
    "multi_gpu_evaluate.json",
    "run inference",
    "ckpt_export",
)
PERSONAL = re.compile(r"/(home|Users|root)/\w*")


def check_files(bundle: BundleFolder) -> list[BundleProblem]:
    """All files needed by the Model Zoo and by clients exist; the weights, or their address."""
    problems = [
        BundleProblem(f"{name} is missing.", "Package the model again, or add the file.")
        for name in REQUIRED
        if not (bundle.path / name).is_file()
    ]
    named = [entry.get("path") for entry in large_files(bundle)]
    if not (bundle.path / WEIGHTS).is_file() and WEIGHTS not in named:
        problems.append(
            BundleProblem(
                f"{WEIGHTS} is missing.", "Add it, or name it in large_files.yml with its URL."
            )
        )
    return problems


def large_files(bundle: BundleFolder) -> list[dict[str, Any]]:
    """Entries of ``large_files.yml``; empty if there is no such file."""
    path = next(
        (bundle.path / name for name in LARGE_FILES if (bundle.path / name).is_file()), None
    )
    if path is None:
        return []
    try:
        content = ConfigParser.load_config_file(str(path))
    except Exception as error:  # yaml and json raise different types
        raise ConfigError(
            f"{path.name} cannot be read: {first_line(error)}. Correct the file."
        ) from error
    require_shape(content, LARGE_FILES_SCHEMA, path.name, ConfigError)
    return list(content.get("large_files", []))


def check_sizes(bundle: BundleFolder) -> list[BundleProblem]:
    """No file is above 25 MB; each entry of large_files can be downloaded and is inside the bundle."""
    problems = [
        BundleProblem(
            f"{name} has {(bundle.path / name).stat().st_size / 1e6:.0f} MB; the Model Zoo accepts 25 MB.",
            "Package with --weights_url, or list the file in large_files.yml and remove it.",
        )
        for name in files_of(bundle.path)
        if (bundle.path / name).stat().st_size > MAX_FILE_BYTES
    ]
    for entry in large_files(bundle):
        fault = _entry_fault(bundle.path, entry)
        if fault:
            problems.append(BundleProblem(f"large_files: {fault}.", "Correct the entry."))
    return problems


def _entry_fault(root: Path, entry: dict[str, Any]) -> str:
    missing = {"path", "url", "hash_val", "hash_type"} - entry.keys()
    if missing:
        return f"{entry.get('path', 'an entry')} lacks {', '.join(sorted(missing))}"
    if not (root / entry["path"]).resolve().is_relative_to(root):
        return f"{entry['path']} is outside the bundle"
    if HASHES.get(entry["hash_type"]) != len(str(entry["hash_val"])):
        return f"{entry['path']} has no valid {entry['hash_type']}"
    return ""


def check_json(bundle: BundleFolder) -> list[BundleProblem]:
    """Each config is JSON with four spaces of indent and a final newline, without duplicate keys or personal paths."""
    problems = []
    for path in sorted((bundle.path / "configs").glob("*.json")):
        for fault in _json_faults(path.read_bytes()):
            problems.append(BundleProblem(f"configs/{path.name} {fault}.", "Correct it."))
    return problems


def _json_faults(content: bytes) -> Iterator[str]:
    try:
        text = content.decode("utf-8")
        json.loads(text, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        yield f"cannot be read: {first_line(error)}"
        return
    if not text.endswith("}\n"):
        yield "does not end with one newline"
    indents = {len(line) - len(line.lstrip()) for line in text.splitlines()}
    if "\t" in text or any(indent % 4 for indent in indents):
        yield "is not indented by four spaces"
    found = PERSONAL.search(text)
    if found:
        yield f"contains a personal path, {found.group()}"


def check_readme(bundle: BundleFolder) -> list[BundleProblem]:
    """The model card has the Model Zoo's sections and commands, and its pictures exist and have alt text."""
    path = bundle.require("docs/README.md")
    text = path.read_text(encoding="utf-8")
    titles = re.findall(r"^#+ (.+?)\s*$", text, re.MULTILINE)
    problems = [
        BundleProblem(f'docs/README.md has no section "{title}".', "Add it.")
        for title in HEADINGS
        if title not in titles
    ]
    problems += [
        BundleProblem(f"docs/README.md shows no command with {command}.", "Add it.")
        for command in COMMANDS
        if command not in text
    ]
    for alt, link in re.findall(r"(?:!\[(.*?)\])\((.+?)\)", text):
        if not alt:
            problems.append(
                BundleProblem(f"the picture {link} has no description.", "Add alt text.")
            )
        if "://" not in link and not (path.parent / link).is_file():
            problems.append(BundleProblem(f"docs/{link} does not exist.", "Add the picture."))
    return problems


def check_sums(bundle: BundleFolder) -> list[BundleProblem]:
    """The lists of checksums name every file, with its current checksum."""
    lists = {
        sums: names
        for sums, names in summed_files(bundle.path).items()
        if (bundle.path / sums).is_file()
    }
    if not lists:
        raise SkippedCheck(f"there is no {SUMS_NAME}; dynunet-bundle package writes one")
    return [
        problem for sums, names in lists.items() for problem in _changed_files(bundle, sums, names)
    ]


def _changed_files(bundle: BundleFolder, sums: str, names: list[Path]) -> list[BundleProblem]:
    try:
        text = (bundle.path / sums).read_text(encoding="utf-8")
        listed = {
            name: value for value, name in (line.split("  ", 1) for line in text.splitlines())
        }
    except ValueError as error:
        raise ConfigError(
            f'{sums} has lines that are not "HASH  NAME". Package the model again.'
        ) from error
    found = {name.as_posix() for name in names}
    changed = {
        name for name in found & listed.keys() if sha256_of(bundle.path / name) != listed[name]
    }
    faults = [
        *((name, "is not the file that was packaged") for name in sorted(changed)),
        *((name, "was packaged and is missing") for name in sorted(listed.keys() - found)),
        *((name, "was not packaged") for name in sorted(found - listed.keys())),
    ]
    remedy = "Package the model again."
    if sums == CODE_SUMS_NAME:
        remedy = f"Package the model again; if a formatter changed the code, remove {sums}."
    return [BundleProblem(f"{name} {what}.", remedy) for name, what in faults]
