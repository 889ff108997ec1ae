"""Which ids a run uses: those that its run list refers to, directly or through other ids.

MONAI takes an override of any id, also of one that the run never reads.
"""

import difflib
import inspect
import pydoc
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from monai.bundle import ConfigParser, ReferenceResolver

from dynunet_bundle.configs.settings import SETTINGS
from dynunet_bundle.configs.values import find_part
from dynunet_bundle.errors import ConfigError

ALWAYS_USED = ("bundle_root", "imports", "initialize", "finalize")
"""Ids that each run reads, beside its run list."""

OWN = "dynunet_bundle."
"""Start of the names of this package's components; only those are looked up."""

SECTIONS = ("train", "validate")
"""Ids that hold components by name."""

INSTEAD = {
    "amp": ("precision",),
    "amp_dtype": ("precision",),
    "backend": ("pretrained",),
    "backend_file": ("pretrained",),
    "ckpt_dir": ("weights_file",),
    "displayable_configs": ("overlap", "mirror_axes"),
    "input": ("dataset_dir",),
    "mirror_axes": ("validate#inferer#mirror_axes",),
    "overlap": ("validate#inferer#overlap",),
    "precision": ("amp", "amp_dtype"),
    "pretrained": ("weights_file",),
    "resume": ("restart",),
    "sw_batch_size": ("validate#inferer#sw_batch_size",),
    "weights_file": ("pretrained",),
}
"""For an id that a run does not use: ids that do the same or the nearest there."""


class Usage:
    """The ids that a run uses.

    Args:
        files: the configs, in MONAI's order.
        run: id of the run list, e.g. ``training``.
        others: further lists that the command runs.
    """

    def __init__(self, files: Sequence[str], run: str, *others: str) -> None:
        self.run = run
        self.config: dict[str, Any] = ConfigParser.load_config_files(list(files))
        parser = ConfigParser(self.config)
        parser.resolve_macro_and_relative_ids()
        self._ids = _used_ids(parser.get(), [run, *others, *ALWAYS_USED])

    def uses(self, name: str) -> bool:
        """Whether the run reads an id, a part of it, or the section that it is a part of."""
        return any(_contains(used, name) or _contains(name, used) for used in self._ids)

    def require_used(self, name: str) -> None:
        """Refuse an override that would change nothing: of an id that the configs lack, or where another id is meant.

        Ids of the configs that this run does not need are accepted: those of a training may be given to its evaluation.

        Args:
            name: an id, with ``#`` between parts.

        Raises:
            ConfigError: naming what to set instead.
        """
        self._require_part(name)
        if self.uses(name):
            return
        owner = name.split("#", maxsplit=1)[0]
        others = [f"--{other}" for other in INSTEAD.get(owner, ()) if self.uses(other)]
        if others or owner not in self.config:
            advice = f"Pass {' or '.join(others)} instead." if others else f"Leave out --{name}."
            raise ConfigError(f"{self.run} does not use {name}. {advice}")

    def _require_part(self, name: str) -> None:
        """Refuse a part that a section lacks; components and lists of settings may get further ones."""
        owner, _, rest = name.partition("#")
        section = self.config.get(owner)
        part = rest.split("#")[0]
        is_closed = (
            owner in SECTIONS or SETTINGS.get(owner, {}).get("additionalProperties") is False
        )
        if part and is_closed and isinstance(section, Mapping) and part not in section:
            parts = sorted({key.split("#")[0] for key in section})
            close = difflib.get_close_matches(part, parts, n=1)
            hint = f'did you mean "{owner}#{close[0]}"?' if close else f"it has {', '.join(parts)}."
            raise ConfigError(f"the command line sets {name}, which no config has; {hint}")
        holder, _, argument = name.rpartition("#")
        if not holder or owner not in self.config:
            return
        whole = find_part(self.config, holder)
        if not isinstance(whole, (Mapping, list)):
            raise ConfigError(
                f"the command line sets {name}, but {holder} has no parts in the configs. "
                f"Pass the whole value of {holder}."
            )
        target = whole.get("_target_") if isinstance(whole, Mapping) else None
        if target is not None and (known := _lacking(str(target), argument)):
            raise ConfigError(
                f"the command line sets {name}, but {target} does not take {argument}; it takes {', '.join(known)}."
            )


def _lacking(target: str, argument: str) -> list[str]:
    """The arguments of a component that does not take one; empty if it takes it, or if nothing can be said."""
    component = pydoc.locate(target) if target.startswith(OWN) else None
    if component is None or argument.startswith("_"):
        return []
    parameters = inspect.signature(component).parameters  # type: ignore[arg-type]
    takes_any = any(part.kind is part.VAR_KEYWORD for part in parameters.values())
    return [] if takes_any or argument in parameters else list(parameters)


def _used_ids(content: Mapping[str, Any], starts: Sequence[str]) -> set[str]:
    found: set[str] = set()
    waiting = list(starts)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            for text in _texts(find_part(content, name)):
                references = ReferenceResolver.match_refs_pattern(text)
                waiting += [reference.replace("::", "#") for reference in references]
    return found


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value


def _contains(owner: str, name: str) -> bool:
    return name == owner or name.startswith(f"{owner}#")
