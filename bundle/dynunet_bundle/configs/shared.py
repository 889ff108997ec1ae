"""Handlers that others refer to."""

from typing import Any


def shared(handler: Any) -> Any:
    """A ``train#handlers`` of train.json, ``validate#handlers`` of evaluate.json, ``handlers`` of inference.json.

    Clients insert into that list and read a ``_target_`` in each item, so that neither a reference by index nor a bare
    reference would do.

    Args:
        handler: a reference to a handler that is declared outside the list.
    """
    return handler
