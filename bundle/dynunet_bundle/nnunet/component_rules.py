"""nnU-Net's postprocessing as the bundle's rules for largest components, and back."""

import io
import pickle  # noqa: S403 - the only names that it may look up are those of ALLOWED
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from dynunet_bundle.errors import WeightsError
from dynunet_bundle.files import atomic_write, read_json, write_json
from dynunet_bundle.networks.tensor_file import names_in_pickle, require_bounded
from dynunet_bundle.nnunet.numbers import STAND_INS
from dynunet_bundle.shapes import (
    MAX_VALUE,
    OBJECT,
    TEXT,
    excerpt,
    list_of,
    object_with,
)

FUNCTION = "remove_all_but_largest_component_from_segmentation"
"""nnU-Net's only postprocessing step."""

MODULE = "nnunetv2.postprocessing.remove_connected_components"
ALLOWED: dict[str, Any] = {f"{MODULE}.{FUNCTION}": FUNCTION, **STAND_INS}
"""All names of a postprocessing.pkl, and what they become."""

MAX_BYTES = 1 << 16
"""Largest postprocessing.pkl; one with a step per label takes 60 bytes a label."""

MAX_LABELS = 1000
"""Most labels in all steps."""

POSTPROCESSING_SCHEMA = object_with(
    {"postprocessing_fns": list_of(TEXT), "postprocessing_kwargs": list_of(OBJECT)},
    ("postprocessing_fns", "postprocessing_kwargs"),
)
NAMES = ("postprocessing.json", "postprocessing.pkl")


class _RefusedError(Exception):
    """A name that is not in ``ALLOWED``."""


class _NamesOnly(pickle._Unpickler):
    """Python's own unpickler: that in C takes gigabytes of memory for a place in its memo that a file names."""

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in ALLOWED:
            return ALLOWED[full]
        raise _RefusedError(full)

    stack: list[Any]

    def drop_state(self) -> None:
        """Instead of setting attributes: of a stand-in nothing but its arguments is used."""
        self.stack.pop()

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **pickle._Unpickler.dispatch,
        pickle.BUILD[0]: drop_state,
    }


def component_rules(folder: Path) -> list[list[int]] | None:
    """Rules of a folder with ``postprocessing.json`` or ``.pkl``, or None if there is neither.

    Args:
        folder: a results folder, its ``crossval_results_folds_...``, or an ensemble's folder.

    Raises:
        WeightsError: if the file is damaged, holds code, or names a step that the bundle does not have.
    """
    for name in NAMES:
        path = folder / name
        if path.is_file():
            return _rules(path, *(_of_json(path) if name.endswith("json") else _of_pickle(path)))
    return None


def _of_json(path: Path) -> tuple[Sequence[Any], Sequence[Any]]:
    content = read_json(path, WeightsError, POSTPROCESSING_SCHEMA)
    return content["postprocessing_fns"], content["postprocessing_kwargs"]


def _of_pickle(path: Path) -> tuple[Sequence[Any], Sequence[Any]]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"it is larger than {MAX_BYTES} bytes")
        for _ in names_in_pickle(data):
            pass  # find_class says which are allowed
        functions, arguments = _NamesOnly(io.BytesIO(data)).load()
        require_bounded((functions, arguments), len(data))
        return list(functions), list(arguments)
    except _RefusedError as error:
        raise WeightsError(
            f"{path} holds {error}, which may run code; it was not loaded. Delete the file to import without it."
        ) from error
    except Exception as error:
        raise WeightsError(f"{path} is damaged. Delete the file to import without it.") from error


def _rules(path: Path, functions: Sequence[Any], arguments: Sequence[Any]) -> list[list[int]]:
    fault = None if len(functions) == len(arguments) else "not one list of labels for each step"
    rules: list[list[int]] = []
    for function, options in zip(functions, arguments, strict=False):
        labels = options.get("labels_or_regions") if isinstance(options, dict) else None
        if function != FUNCTION or labels is None or options.get("background_label", 0) != 0:
            shown = excerpt(function, MAX_VALUE) if isinstance(function, str) else "something else"
            fault = fault or f"the step {shown}, which the bundle does not have"
            break
        found = _label_values(labels)
        if not found or not all(type(value) is int and 0 < value < 2**31 for value in found):
            fault = fault or "labels that are not positive whole numbers"
            break
        rules.append(sorted(set(found)))
        if sum(map(len, rules)) > MAX_LABELS:
            fault = fault or f"more than {MAX_LABELS} labels"
            break
    if fault:
        raise WeightsError(f"{path} has {fault}. Delete the file to import without it.")
    return rules


def _label_values(labels: Any) -> list[Any] | None:
    """The label values of a number, of a region, or of a list of both; None if there are too many."""
    found: list[Any] = []
    for item in labels if isinstance(labels, (list, tuple)) else [labels]:
        found += item if isinstance(item, (list, tuple)) else [item]
        if len(found) > MAX_LABELS:
            return None
    return found


def write_component_rules(folder: Path, rules: Sequence[Sequence[int]]) -> None:
    """Write ``postprocessing.json``, and ``.pkl`` for ``nnUNetv2_apply_postprocessing``.

    Args:
        folder: a results folder.
        rules: steps in order, each a list of label values.
    """
    arguments = [{"labels_or_regions": list(values)} for values in rules]
    content = {"postprocessing_fns": [FUNCTION] * len(rules), "postprocessing_kwargs": arguments}
    write_json(folder / "postprocessing.json", content)
    # by opcode, since a pickler would import nnU-Net to name its function: a list of references, and a plain list
    functions = b"(" + f"c{MODULE}\n{FUNCTION}\n".encode() * len(rules) + b"l"
    plain = pickle.dumps(arguments, protocol=2).removeprefix(b"\x80\x02").removesuffix(b".")
    with atomic_write(folder / "postprocessing.pkl") as file:
        file.write(b"\x80\x02" + functions + plain + b"\x86.")
