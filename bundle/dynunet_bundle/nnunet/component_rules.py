"""nnU-Net's postprocessing as the bundle's rules for largest components, and back."""

import io
import pickle  # noqa: S403 - the only globals that it may name are those of ALLOWED
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dynunet_bundle.errors import WeightsError
from dynunet_bundle.files import atomic_write, read_json, write_json
from dynunet_bundle.nnunet.checkpoint import SCALAR
from dynunet_bundle.shapes import OBJECT, TEXT, list_of, object_with

FUNCTION = "remove_all_but_largest_component_from_segmentation"
"""nnU-Net's only postprocessing step."""

MODULE = "nnunetv2.postprocessing.remove_connected_components"
ALLOWED: dict[tuple[str, str], Any] = {
    (MODULE, FUNCTION): FUNCTION,
    ("numpy", "dtype"): np.dtype,
    ("numpy._core.multiarray", "scalar"): SCALAR,
    ("numpy.core.multiarray", "scalar"): SCALAR,
}
"""All globals of a postprocessing.pkl, and what they become."""

POSTPROCESSING_SCHEMA = object_with(
    {"postprocessing_fns": list_of(TEXT), "postprocessing_kwargs": list_of(OBJECT)},
    ("postprocessing_fns", "postprocessing_kwargs"),
)
NAMES = ("postprocessing.json", "postprocessing.pkl")


class _RefusedError(Exception):
    """A name that is not in ``ALLOWED``."""


class _NamesOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in ALLOWED:
            return ALLOWED[module, name]
        raise _RefusedError(f"{module}.{name}")


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
        functions, arguments = _NamesOnly(io.BytesIO(path.read_bytes())).load()
    except _RefusedError as error:
        raise WeightsError(
            f"{path} holds {error}, which may run code; it was not loaded. Delete the file to import without it."
        ) from error
    except Exception as error:
        raise WeightsError(f"{path} is damaged. Delete the file to import without it.") from error
    return list(functions), list(arguments)


def _rules(path: Path, functions: Sequence[Any], arguments: Sequence[Any]) -> list[list[int]]:
    rules = []
    for function, options in zip(functions, arguments, strict=True):
        labels = options.get("labels_or_regions") if isinstance(options, dict) else None
        if function != FUNCTION or labels is None or options.get("background_label", 0) != 0:
            raise WeightsError(
                f"{path} has the step {function!s:.60}, which the bundle does not have. "
                "Delete the file to import without it."
            )
        rules.append(sorted(set(_whole_numbers(labels, path))))
    return rules


def _whole_numbers(labels: Any, path: Path) -> Iterable[int]:
    """The label values of a number, of a region, or of a list of both."""
    if isinstance(labels, int | np.integer):
        yield int(labels)
    elif isinstance(labels, list | tuple):
        for item in labels:
            yield from _whole_numbers(item, path)
    else:
        raise WeightsError(f"{path} has labels that are not whole numbers: {labels!s:.40}.")


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
