"""Results of the expressions that settings hold, so that a run checks them as it checks values."""

import copy
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from monai.bundle import ConfigComponent, ConfigParser, ReferenceResolver

from dynunet_bundle.configs.settings import SETTINGS
from dynunet_bundle.configs.values import find_part, without_dollar

JSON_TYPES = (bool, int, float, str, list, tuple, dict)
"""Types of results that can be compared with the table of settings; a ``torch.device`` cannot."""


def expression_results(content: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluate the expressions of settings, before the run builds anything.

    Args:
        content: the content of all configs and overrides together. It is run as code, so check it first
            (``code_check.py``).

    Returns:
        Results by id. Left out are expressions that need a component, such as the number of processes, that give
        something else than JSON data, and those that fail: MONAI names their fault when it comes to them.
    """
    parts = {name: find_part(content, name) for name in SETTINGS}
    names = [name for name, part in parts.items() if _is_expression(part)]
    parser = ConfigParser(copy.deepcopy(dict(content)))
    results = {}
    with suppress(Exception):
        parser.parse()
        for name in filter(lambda name: _needs_no_component(parser, name), names):
            with suppress(Exception):
                result = parser.get_parsed_content(name)
                if isinstance(result, JSON_TYPES):
                    results[name] = list(result) if isinstance(result, tuple) else result
    return results


def _is_expression(part: Any) -> bool:
    return isinstance(part, str) and part.startswith("$") and without_dollar(part) == part


def _needs_no_component(parser: ConfigParser, name: str) -> bool:
    """Whether an expression leads to values and expressions only."""
    resolver, seen, todo = parser.ref_resolver, set[str](), [name]
    while todo:
        item = resolver.get_item(todo.pop())
        if item is None or isinstance(item, ConfigComponent):
            return False
        found = ReferenceResolver.find_refs_in_config(item.get_config(), item.get_id())
        todo += set(found) - seen
        seen |= set(found)
    return True
