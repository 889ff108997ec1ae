"""Which components a config may name as ``_target_``.

MONAI imports whatever stands there and calls it. A name is allowed where it leads to a class or function that is
*defined* in one of the packages below: ``monai.data.utils.os.system`` begins as an allowed name does and is none.
"""

import inspect
from functools import cache
from pydoc import locate
from typing import Any

PACKAGES = (
    *("monai.data", "monai.engines", "monai.handlers", "monai.inferers", "monai.losses"),
    *("monai.metrics", "monai.networks", "monai.optimizers", "monai.transforms"),
    *("torch.nn", "torch.optim", "torch.utils.data", "torch.utils.tensorboard"),
    "dynunet_bundle",
)
"""Of torch and MONAI those without commands, downloads and loaders of code (``monai.utils.run_cmd``, ``torch.hub``)."""

OWN_COMMANDS = (
    *("configs.overlays", "configs.workflow", "cross_validation", "best_configuration"),
    *("dataset.download", "delivery", "files"),
)
"""Modules of this package that start processes, or write files of any name: nothing for a config."""


def target_fault(target: str) -> str | None:
    """Why a ``_target_`` is not allowed, or None.

    Args:
        target: a dotted name, or a short one that MONAI looks up in its own modules.
    """
    full = target
    if "." not in target:
        module = _short_names().get_component_module_name(target)
        if not isinstance(module, str):
            return f"MONAI has no one component {target}"
        full = f"{module}.{target}"
    if not _within(full, PACKAGES):
        return f"{target} is in no package that a config may use"
    try:
        found = locate(full)
    except Exception:  # an import may raise anything
        found = None
    if not (inspect.isclass(found) or inspect.isfunction(found)):
        return f"{target} is no class or function"
    home = f"{found.__module__}.{found.__qualname__}"
    if not _within(home, PACKAGES):
        return f"{target} is {home}, which is in no package that a config may use"
    if _within(home, tuple(f"dynunet_bundle.{name}" for name in OWN_COMMANDS)):
        return f"{target} is a command, not a component"
    return None


def _within(name: str, packages: tuple[str, ...]) -> bool:
    return name.startswith(tuple(f"{package}." for package in packages))


@cache
def _short_names() -> Any:
    from monai.bundle import ComponentLocator

    return ComponentLocator()
