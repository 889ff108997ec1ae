"""Layout of the bundle's JSON configs: one line per value if it fits, and blank lines between groups of ids.

python tests/helpers/config_layout.py
"""

import json
import re
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / "bundle" / "configs"
CONFIGS = [path for path in sorted(FOLDER.glob("*.json")) if path.name != "metadata.json"]
"""Files that are left out: metadata.json has the Model Zoo's layout, and ``make template`` writes it."""

WIDTH = 120
"""Largest width of a line with several entries, in characters."""

MANY = 10

INDENT = "    "
GROUP = re.compile(r'\n\s*\n {4}("[^"]+"): ')
"""A top-level id after a blank line."""


def formatted(text: str) -> str:
    """The text of a config in this layout; blank lines between top-level ids are kept."""
    result = laid_out(json.loads(text)) + "\n"
    for name in GROUP.findall(text):
        result = result.replace(f"\n{INDENT}{name}: ", f"\n\n{INDENT}{name}: ", 1)
    return result


def laid_out(value: Any, indent: str = "", lead: int = 0) -> str:
    """JSON text of a value.

    A list or an object is written on one line if it fits; otherwise, and at the top level, on one line per entry.
    Lists of many ids that are only passed on share lines.

    Args:
        value: JSON data.
        indent: white space before the closing bracket.
        lead: characters before the value on its line.
    """
    text = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, (dict, list)) or not value:
        return text
    if lead and lead + len(text) < WIDTH:
        return text
    inner = indent + INDENT
    if isinstance(value, dict):
        entries = []
        for key, item in value.items():
            name = f"{json.dumps(key, ensure_ascii=False)}: "
            entries.append(name + laid_out(item, inner, len(inner) + len(name)))
        brackets = "{}"
    else:
        entries = [laid_out(item, inner, len(inner)) for item in value]
        brackets = "[]"
    passed_on = isinstance(value, dict) and all(
        str(item).startswith("@") for item in value.values()
    )
    if passed_on and len(value) > MANY:
        entries = _filled(entries, WIDTH - len(inner))
    lines = ",\n".join(inner + entry for entry in entries)
    return f"{brackets[0]}\n{lines}\n{indent}{brackets[1]}"


def _filled(entries: list[str], width: int) -> list[str]:
    """Entries joined into lines of at most ``width`` characters."""
    lines = [entries[0]]
    for entry in entries[1:]:
        joined = f"{lines[-1]}, {entry}"
        if len(joined) < width:
            lines[-1] = joined
        else:
            lines.append(entry)
    return lines


def main() -> None:
    """Rewrite the configs of the bundle."""
    for path in CONFIGS:
        path.write_text(formatted(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
