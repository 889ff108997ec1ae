"""One ``run.json`` of several predictions, each of a part of the cases, that work in one folder at the same time.

Stored on disk: ``parts``, in ``run.json``: the number of parts, and the status and exit code of each that has begun.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from dynunet_bundle.dataset.case_parts import Part
from dynunet_bundle.inference.run_json import read_run_json

ORDER = ("running", "failed", "stopped")
"""States of a part that are those of the whole, the first that occurs."""

INCOMPLETE = "incomplete"
"""State of the whole if some parts have not begun."""


def merged_run(
    path: Path, own: Mapping[str, Any], cases: Collection[str], part: Part
) -> dict[str, Any]:
    """The run of a part, with the cases and states of the others.

    Args:
        path: ``run.json``; the caller holds its lock.
        own: content for this part.
        cases: names of the cases of this part.
        part: number of this part, and the number of parts.

    Returns:
        The content for ``run.json``. Cases that were made by other weights or settings are left out.

    Raises:
        ConfigError: if ``run.json`` is malformed.
    """
    number, num_parts = part
    before = read_run_json(path)
    same = before.get("made_by") == own["made_by"]
    others = before.get("cases", {}) if same else {}
    told = before.get("parts", {}) if same else {}
    states = dict(told.get("states", {})) if told.get("number") == num_parts else {}
    states[str(number)] = {name: own[name] for name in ("status", "exit_code", "error")}
    status = _status([state["status"] for state in states.values()], num_parts)
    kept = {name: case for name, case in others.items() if name not in cases}
    codes = [state["exit_code"] or 0 for state in states.values()]
    errors = [state["error"] for state in states.values() if state["error"]]
    return {
        **own,
        "status": status,
        "exit_code": None if status in ("running", INCOMPLETE) else max(codes),
        "error": errors[0] if errors else None,
        "parts": {"number": num_parts, "states": dict(sorted(states.items()))},
        "cases": dict(sorted({**kept, **own["cases"]}.items())),
    }


def _status(states: Collection[str], num_parts: int) -> str:
    found = next((state for state in ORDER if state in states), None)
    return found or (INCOMPLETE if len(states) < num_parts else "finished")
