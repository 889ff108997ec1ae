"""Mutations of JSON data, decided by a seed: what damage, other programs and attackers make of a file."""

import copy
import json
from collections.abc import Iterator
from random import Random
from typing import Any

RAW = "\x01raw\x01"
"""Placeholder of a text that ``json.dumps`` cannot write."""

OTHERS: tuple[Any, ...] = (
    *(None, True, False, 0, 1, 3, 1.5, -1, "", "text", "1", [], {}, [[]], [1, "a"], [None]),
    *({"a": 1}, {"": {}}, float("nan"), float("inf"), 10**9, 2**31, 2**63, 1e308, -1e308, 10**400),
)
"""Values of every type, and numbers that are too large for a count, an int64 or a float."""

TEXTS = (
    *("$__import__('os').system('touch marker')", "$1", "@network", "%train.json#network", "#"),
    *(
        "../../etc/passwd",
        "/etc/passwd",
        "C:\\x",
        "a\0b",
        "a\nb",
        "\x1b[31m",
        "\u202e",
        "\ud800",
        "\udcff",
    ),
    *("x" * 300, "x" * 5000, "é" * 200, ".hidden", "CON", "2026-13-45T99:99:99", "9" * 30),
)
"""Texts that are code for MONAI, paths, control characters, half a character, and too long."""

RAWS = ("[" * 10_000 + "]" * 10_000, "[" * 90 + "]" * 90, "9" * 10**6, "1e999", "-0", "1.0")

Place = tuple[Any, Any]
"""A container and the key or index in it."""


def mutations(data: Any, random: Random) -> Iterator[tuple[str, bytes]]:
    """Mutate JSON data without end.

    Args:
        data: the content of a valid file; it is not changed.
        random: decides what is mutated and how.

    Yields:
        The name of the mutation, and the bytes of the mutated file.
    """
    while True:
        if random.random() < 0.15:
            way = random.choice(_WHOLE)
            yield way.__name__.strip("_"), way(json.dumps(data).encode(), random)
            continue
        changed, names = {"": copy.deepcopy(data)}, []
        for _ in range(random.choice([1, 1, 1, 2, 3])):
            way = random.choice(_INSIDE)
            names.append(way.__name__.strip("_"))
            way(random.choice(_places(changed)), random)
        text = json.dumps(changed[""] if "" in changed else None)
        while f'"{_escaped(RAW)}"' in text:
            text = text.replace(f'"{_escaped(RAW)}"', random.choice(RAWS), 1)
        yield "+".join(names), text.encode()


def _escaped(text: str) -> str:
    return json.dumps(text)[1:-1]


def _places(root: dict[str, Any]) -> list[Place]:
    """All values, the whole content included; the first levels count as often as what lies deep."""
    found: list[Place] = [(root, "")] if "" in root else []
    level: list[Any] = [root]
    weighted: list[Place] = []
    while level:
        places = [
            (inner, key)
            for inner in level
            for key in (list(inner) if isinstance(inner, dict) else range(len(inner)))
        ]
        weighted += places * max(1, 60 // (len(places) or 1))
        level = [inner[key] for inner, key in places if isinstance(inner[key], (dict, list))]
    return weighted or found or [(root, "")]


# --- one value


def _delete(place: Place, random: Random) -> None:
    inner, key = place
    if isinstance(inner, dict):
        inner.pop(key, None)
    else:
        del inner[key]


def _other(place: Place, random: Random) -> None:
    inner, key = place
    inner[key] = copy.deepcopy(random.choice(OTHERS))


def _text(place: Place, random: Random) -> None:
    inner, key = place
    inner[key] = random.choice(TEXTS)


def _raw(place: Place, random: Random) -> None:
    inner, key = place
    inner[key] = RAW


def _number(place: Place, random: Random) -> None:
    """A number that is negative, zero, a little off or far off."""
    inner, key = place
    value = inner.get(key) if isinstance(inner, dict) else inner[key]
    if isinstance(value, (int, float)) and abs(value) < 2**63:
        wrong = [-value, 0, value + 1, value - 1, value * 1000, value / 7, float(value), -1]
        inner[key] = random.choice(wrong)
    else:
        _other(place, random)


def _swapped(place: Place, random: Random) -> None:
    """A list for an object, or an object for a list."""
    inner, key = place
    value = inner.get(key) if isinstance(inner, dict) else inner[key]
    if isinstance(value, dict):
        inner[key] = list(value.values())
    elif isinstance(value, list):
        inner[key] = {str(index): item for index, item in enumerate(value)}
    else:
        inner[key] = [value]


def _resized(place: Place, random: Random) -> None:
    """A list or an object with one item more or less, or none."""
    inner, key = place
    value = inner.get(key) if isinstance(inner, dict) else inner[key]
    if isinstance(value, list) and value:
        inner[key] = random.choice([value[:-1], [*value, value[-1]], value * 50, []])
    elif isinstance(value, dict) and value:
        first = next(iter(value))
        rest = {name: item for name, item in value.items() if name != first}
        inner[key] = random.choice([rest, {**value, "more": value[first]}, {}])
    else:
        _other(place, random)


def _renamed(place: Place, random: Random) -> None:
    inner, key = place
    if isinstance(inner, dict) and key:
        inner[random.choice([*TEXTS, f"{key} ", str(key).upper(), "0"])] = inner.pop(key, None)
    else:
        _other(place, random)


_INSIDE = (_delete, _other, _text, _raw, _number, _swapped, _resized, _renamed)


# --- the whole file


def _empty(content: bytes, random: Random) -> bytes:
    return random.choice([b"", b" ", b"\n", b"null", b"0", b'""', b"[]", b"{}", b"[[]]", b"\0"])


def _truncated(content: bytes, random: Random) -> bytes:
    return content[: random.randrange(len(content) + 1)]


def _marked(content: bytes, random: Random) -> bytes:
    """With byte order marks."""
    return b"\xef\xbb\xbf" * random.choice([1, 1, 2]) + content


def _utf_16(content: bytes, random: Random) -> bytes:
    return content.decode().encode(random.choice(["utf-16", "utf-16-le", "utf-32"]))


def _flipped(content: bytes, random: Random) -> bytes:
    data = bytearray(content)
    for _ in range(random.choice([1, 1, 4])):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(data)


def _doubled(content: bytes, random: Random) -> bytes:
    """Keys that occur twice, with another value the second time, or two values in one file."""
    text = content.decode()
    if not text.startswith("{") or len(text) == 2 or random.random() < 0.2:
        return content + content
    key = random.choice(list(json.loads(text)))
    return f"{text[:-1]}, {json.dumps(key)}: {json.dumps(random.choice(OTHERS))}}}".encode()


def _spliced(content: bytes, random: Random) -> bytes:
    """A part of the file taken out, or there twice."""
    first, last = sorted(random.randrange(len(content) + 1) for _ in range(2))
    part = content[first:last] if random.random() < 0.5 else b""
    return content[:last] + part + content[last:] if part else content[:first] + content[last:]


_WHOLE = (_empty, _truncated, _marked, _utf_16, _flipped, _doubled, _spliced)
