"""One prepared case on disk: its facts, its arrays, and the same case of raw files that were moved.

Stored on disk: the keys of ``SIDECAR_SCHEMA``, in the JSON of each case.
"""

import logging
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dynunet_bundle.dataset.cases import Case, content_of, name_in
from dynunet_bundle.dataset.previous_stage import PREVIOUS
from dynunet_bundle.errors import ConfigError
from dynunet_bundle.files import read_json, write_json
from dynunet_bundle.planning.plan import SIZES
from dynunet_bundle.shapes import COUNT, SHA256, TEXT, by_name, list_of, object_with

SOURCE = object_with({"size": COUNT, "mtime_ns": {"type": "integer"}}, ("size", "mtime_ns"))
"""Schema of a raw file, see ``file_identity``."""

SIDECAR_SCHEMA = object_with(
    {
        "name": TEXT,
        "identity": object_with(
            {"recipe": TEXT, "sources": by_name(SOURCE)}, ("recipe", "sources")
        ),
        "content": by_name(SHA256),
        "shape": {**SIZES, "minItems": 3},
        "present": list_of(COUNT),
        "sparse": {"type": "boolean"},
        "volumes_ml": list_of({"type": "number"}),
        "components": list_of(COUNT),
        "bytes": object_with(
            {name: COUNT for name in ("image", "label", "positions", PREVIOUS)},
            ("image", "label", "positions"),
            additionalProperties=False,
        ),
    },
    ("name", "identity", "shape", "present", "bytes"),
)
"""Shape of the JSON of a prepared case."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedCase:
    """Paths and facts of one prepared case.

    Attributes:
        name: case name, for messages.
        image: path of ``[C, D, H, W]``.
        label: path of ``[1, D, H, W]``.
        positions: path of ``[foreground classes, K, 3]``; one more row if the case is ``sparse``.
        shape: ``(D, H, W)``.
        present: foreground classes that occur in the case.
        sparse: whether its label ignores some voxels, but not all; the last row of positions has labelled voxels.
        volumes_ml: volume of each foreground class; empty in older stores.
        components: number of connected components of each foreground class; empty in older stores.
        previous: path of ``[1, D, H, W]``, the mask of the previous stage; empty without a cascade.
    """

    name: str
    image: str
    label: str
    positions: str
    shape: tuple[int, int, int]
    present: tuple[int, ...]
    sparse: bool = False
    volumes_ml: tuple[float, ...] = ()
    components: tuple[int, ...] = ()
    previous: str = ""

    @classmethod
    def of(cls, stem: Path, facts: Mapping[str, Any]) -> "PreparedCase":
        """The case of a sidecar.

        Args:
            stem: path of its files without suffix.
            facts: content of the sidecar.
        """
        depth, height, width = facts["shape"]
        return cls(
            facts["name"],
            **{array: str(array_path(stem, array)) for array in facts["bytes"]},
            shape=(depth, height, width),
            present=tuple(facts["present"]),
            sparse=facts.get("sparse", False),
            volumes_ml=tuple(facts.get("volumes_ml", ())),
            components=tuple(facts.get("components", ())),
        )


def sidecar_path(stem: Path) -> Path:
    """Path of the JSON of a prepared case."""
    return stem.with_name(f"{stem.name}.json")


def array_path(stem: Path, array: str) -> Path:
    """Path of an array of a prepared case."""
    return stem.with_name(f"{stem.name}.{array}.npy")


def read_facts(stem: Path) -> dict[str, Any] | None:
    """The sidecar of a prepared case; None if it is missing, or not a file of this store."""
    try:
        facts: dict[str, Any] = read_json(sidecar_path(stem), ConfigError, SIDECAR_SCHEMA)
    except ConfigError:
        return None
    return facts


def find_damage(stem: Path, facts: Mapping[str, Any]) -> str | None:
    """Name of the first array that is missing or damaged; None if all are whole."""
    for array, size in facts["bytes"].items():
        path = array_path(stem, array)
        if not _is_whole(path, size):
            return path.name
    return None


def _is_whole(path: Path, size: int) -> bool:
    """Whether a file has the expected size and an array header; after a power cut it may be all zeros."""
    try:
        np.load(path, mmap_mode="r", allow_pickle=False)
        return path.stat().st_size == size
    except (OSError, ValueError, EOFError):
        return False


def stems_by_name(store_dir: Path) -> Mapping[str, list[Path]]:
    """Paths without suffix of all prepared cases of a store, by ``name_in``."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(store_dir.glob("*.json")):
        stem = path.with_suffix("")
        found[name_in(stem.name)].append(stem)
    return found


def adopt_moved(
    case: Case, stem: Path, identity: Mapping[str, Any], others: Sequence[Path]
) -> bool:
    """Take over a prepared case whose raw files were moved or copied, by links to its arrays.

    The other case has the same name, preprocessing and sizes of files, and its raw files had the same content. Its
    arrays are linked, not shared by name: if it is prepared again, the links keep the old content.

    Args:
        case: the raw case.
        stem: path of its prepared files without suffix.
        identity: recipe and raw files, as in the sidecar.
        others: paths without suffix of the other prepared cases of the same name.

    Returns:
        Whether there was such a case, and the disk has hard links.
    """
    content: dict[str, str] | None = None
    for other in others:
        facts = read_facts(other)
        if facts is None or "content" not in facts or _sizes(facts["identity"]) != _sizes(identity):
            continue
        content = content or content_of(case)
        if facts["content"] != content or find_damage(other, facts):
            continue
        try:
            _link_arrays(other, stem, facts["bytes"])
        except OSError as error:
            logger.info("%s cannot be linked: %s", other.name, error.strerror)
            return False
        write_json(sidecar_path(stem), {**facts, "identity": dict(identity)})
        return True
    return False


def _sizes(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an identity that a move does not change."""
    sources = {role: source["size"] for role, source in identity["sources"].items()}
    return {"recipe": identity["recipe"], "sources": sources}


def _link_arrays(source: Path, target: Path, arrays: Mapping[str, int]) -> None:
    # a case is valid only with its JSON, so that is deleted first
    with suppress(FileNotFoundError):
        sidecar_path(target).unlink()
    for array in arrays:
        path = array_path(target, array)
        path.unlink(missing_ok=True)
        os.link(array_path(source, array), path)
