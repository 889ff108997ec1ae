"""Values that MONAI's config parser gives back as they are.

MONAI evaluates a text that begins with ``$``, resolves one that begins with ``@`` or ``%``, and writes ``::`` for each
``#`` in any text. So a file name such as ``$(date).nii.gz`` or ``scan #2`` is code, or another file. What comes from a
file or an argument goes through ``literal`` before the parser sees it.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

SPECIAL = re.compile(r"[$@%#]")
"""Characters that MONAI's parser gives a meaning; ``ReferenceResolver`` and ``ConfigExpression`` of MONAI 1.6.1."""

PLAIN_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]*")
"""Keys of objects that MONAI finds again by its ids, and gives no meaning."""


def literal(value: Any) -> Any:
    """The value in a form that MONAI's parser turns into that very value.

    Args:
        value: JSON data, tuples and paths included; other objects are given back unchanged.

    Returns:
        The value itself where the parser leaves it alone; else an expression that is one Python literal, with special
        characters as escape sequences, so that it holds no reference.
    """
    if isinstance(value, PurePath):
        value = str(value)
    if isinstance(value, str):
        return _expression(value) if SPECIAL.search(value) else value
    if isinstance(value, Mapping):
        if not all(PLAIN_KEY.fullmatch(str(key)) for key in value):
            return _expression(_plain(value))
        return {key: literal(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [literal(item) for item in value]
    return value


def _expression(value: Any) -> str:
    # in the text of a literal these characters stand inside of quotes only
    return "$" + SPECIAL.sub(lambda found: f"\\x{ord(found.group()):02x}", ascii(value))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, PurePath) else value


def find_altered_text(value: Any) -> str | None:
    """The first plain text of a value that MONAI would alter, because it writes ``::`` for ``#``; None if none has one.

    Args:
        value: content of a config. Expressions and references are not plain text: their ``#`` separates ids.
    """
    if isinstance(value, str):
        return value if "#" in value and value[0] not in "$@%" else None
    items: Iterable[Any] = ()
    if isinstance(value, (Mapping, list, tuple)):
        items = value.values() if isinstance(value, Mapping) else value
    return next(filter(None, map(find_altered_text, items)), None)
