"""What an expression of a config may say, read from its syntax tree without running it.

MONAI hands every text that begins with ``$`` to ``eval`` (GHSA-873f-pvrv-4x83: by design). The grammar here is what the
bundle's configs need: arithmetic, choices, indices and lists of literals and ids, a few builtins, a few names of torch
and MONAI, and a few attributes of components. All else is refused, so that nobody has to list what is dangerous:
``torch.os.system``, ``().__class__`` and ``"{0.real}".format`` are out of reach alike.
"""

import ast
from collections.abc import Mapping
from typing import Any

from monai.bundle.reference_resolver import ReferenceResolver

REFERENCES = "__local_refs"
"""What MONAI's ReferenceResolver calls the contents of ids in the text that it gives to ``eval``."""

IMPORTS = ("$import torch", "$import monai")
MODULES = ("torch", "monai")
MODULE_NAMES = frozenset(
    (
        *("torch.device", "torch.cuda.is_available", "torch.cuda.device_count"),
        *("torch.channels_last", "torch.channels_last_3d", "torch.contiguous_format"),
        "monai.utils.set_determinism",
    )
)
BUILTINS = frozenset(
    ("bool", "float", "int", "len", "list", "max", "min", "range", "round", "sorted", "str", "sum")
)
ATTRIBUTES = frozenset(
    (
        *("num_outputs", "sigmoid", "target_names"),
        *("remaining", "run", "to", "training", "type", "validation"),
    )
)
"""Attributes of anything else: of components that the configs declare, and ``type`` of a device. The first line is
that of ``LabelScheme``."""

NODES = (
    *(ast.Expression, ast.Constant, ast.Load, ast.Store, ast.keyword, ast.BoolOp, ast.And, ast.Or),
    *(ast.UnaryOp, ast.Not, ast.USub, ast.UAdd, ast.IfExp, ast.Subscript, ast.Slice),
    *(ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod),
    *(ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE),
    *(ast.Is, ast.IsNot, ast.In, ast.NotIn),
    *(ast.List, ast.Tuple, ast.Dict, ast.ListComp, ast.comprehension),
)
"""Beside names, attributes and calls; ``**`` is not among them, since ``9**9**9`` takes all memory."""


def expression_faults(text: str, ids: Mapping[str, Any]) -> list[str]:
    """What is not allowed in one expression.

    Args:
        text: with its ``$``.
        ids: the content of the config; an expression may refer to its top-level ids.
    """
    if text in IMPORTS:
        return []
    try:
        tree = ast.parse(_as_evaluated(text)[1:].strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return ["it is no expression that can be read"]
    return _Reader(tree, ids).faults


def reference_faults(reference: str, ids: Mapping[str, Any]) -> list[str]:
    """What is not allowed in a reference, ``id`` or ``id::part``: a first part that is no id."""
    name = ReferenceResolver.normalize_id(reference).split(ReferenceResolver.sep)[0]
    return [] if name in ids else [f"it refers to @{name}, which is no id"]


def _as_evaluated(text: str) -> str:
    """The text that MONAI evaluates: each reference, in strings and behind ``#``, too, is replaced as text."""
    found = ReferenceResolver.match_refs_pattern(text)
    return str(ReferenceResolver.update_refs_pattern(text, dict.fromkeys(found)))


class _Reader(ast.NodeVisitor):
    """Collects what is not allowed in a tree."""

    def __init__(self, tree: ast.Expression, ids: Mapping[str, Any]) -> None:
        self.faults: list[str] = []
        self._ids = ids
        named = (node for node in ast.walk(tree) if isinstance(node, ast.Name))
        loops = {node.id for node in named if isinstance(node.ctx, ast.Store)}
        self._known = {*BUILTINS, *loops}
        if loops & {*BUILTINS, *MODULES, REFERENCES}:
            self.faults.append("it gives a known name another meaning")
        self.visit(tree)

    def generic_visit(self, node: ast.AST) -> None:
        """Any node that no other method takes."""
        if not isinstance(node, NODES):
            self.faults.append(f"it holds {type(node).__name__}, which no config needs")
            return
        super().generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:  # noqa: N802 - ast calls it so
        """A name by itself."""
        if node.id not in self._known:
            self.faults.append(f"the name {node.id} is not allowed")

    def visit_Subscript(self, node: ast.Subscript) -> None:  # noqa: N802 - likewise
        """A reference, or an index."""
        reference = _reference(node)
        if reference is None:
            self.generic_visit(node)
        else:
            self.faults += reference_faults(reference, self._ids)

    def visit_Attribute(self, node: ast.Attribute) -> None:  # noqa: N802 - likewise
        """A name of torch or MONAI, or an attribute of a component."""
        name = _dotted(node)
        if name is not None and name.split(".")[0] in MODULES:
            if name not in MODULE_NAMES:
                self.faults.append(f"{name} is not allowed")
            return
        if node.attr not in ATTRIBUTES:
            self.faults.append(f"the attribute {node.attr} is not allowed")
        self.visit(node.value)

    def visit_Call(self, node: ast.Call) -> None:  # noqa: N802 - likewise
        """A call: what is called and what it is given."""
        for part in (node.func, *node.args, *(keyword.value for keyword in node.keywords)):
            self.visit(part)


def _reference(node: ast.Subscript) -> str | None:
    """The id where a node is a reference, else None."""
    match node:
        case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=str(reference))):
            return reference if name == REFERENCES else None
    return None


def _dotted(node: ast.expr) -> str | None:
    """``a.b.c`` where a node is that and no more, else None."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        start = _dotted(node.value)
        return None if start is None else f"{start}.{node.attr}"
    return None
