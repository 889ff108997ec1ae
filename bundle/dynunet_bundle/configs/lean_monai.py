"""MONAI without the parts that a prediction does not need: the first import takes half of the processor time.

``import monai`` imports every module of MONAI and executes each a second time. Modules are imported on demand here, and
some large libraries behind optional features are left out while MONAI and Ignite are imported.
"""

import pkgutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

OPTIONAL = ("matplotlib.pyplot", "rfc3987_syntax", "scipy.signal")
"""Libraries that MONAI and jsonschema import if they can: pictures in a notebook, the check of IRIs, and filters of
one-dimensional signals."""

SHARDED = "torch.distributed.optim"
"""Optimizers of sharded trainings. Ignite's ``Checkpoint`` asks if an optimizer is one of them."""


def _stand_ins() -> dict[str, Any]:
    """What stands for a library while MONAI is imported; None makes it look as if it were not installed."""
    sharded = ModuleType(SHARDED)
    vars(sharded)["ZeroRedundancyOptimizer"] = type("ZeroRedundancyOptimizer", (), {})
    return {SHARDED: sharded, **dict.fromkeys(OPTIONAL)}


@contextmanager
def _without_libraries() -> Iterator[None]:
    """Keep MONAI and Ignite from importing libraries that are not imported yet."""
    hidden = {name: part for name, part in _stand_ins().items() if name not in sys.modules}
    sys.modules.update(hidden)
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)


@contextmanager
def _no_walk() -> Iterator[None]:
    """Keep MONAI from importing all its modules; its ``__init__`` finds them by ``pkgutil.walk_packages``."""
    walk = pkgutil.walk_packages

    def walk_others(path: Any = None, prefix: str = "", onerror: Any = None) -> Iterator[Any]:
        return iter(()) if prefix == "monai." else walk(path, prefix, onerror)

    pkgutil.walk_packages = walk_others
    try:
        yield
    finally:
        pkgutil.walk_packages = walk


def import_monai() -> None:
    """Import what a prediction needs of MONAI. Nothing changes if MONAI has been imported before.

    For processes that only predict: the hidden libraries stay unknown to the modules that were imported without them.
    """
    if "monai" in sys.modules:
        return
    with _without_libraries(), _no_walk():
        import monai.apps
        import monai.bundle
        import monai.engines
        import monai.handlers
        import monai.inferers
        import monai.networks.nets
        import monai.transforms  # noqa: F401
