"""The grammar of expressions in configs, checked on the syntax tree without running anything.

MONAI hands every text that begins with ``$`` to ``eval`` (GHSA-873f-pvrv-4x83: by design). The grammar allows what the
bundle's configs need: arithmetic, choices, indices and lists of literals and ids, a few builtins, a few names of torch
and MONAI, and a few attributes of components. Everything else is refused, so no list of dangerous names is needed:
``torch.os.system``, ``().__class__``, ``"{0.real}".format`` and the call of a reference are all outside the grammar.
"""

import ast
import builtins
from collections.abc import Collection, Mapping
from typing import Any

from monai.bundle.reference_resolver import ReferenceResolver

REFERENCES = "__local_refs"
"""What MONAI's ReferenceResolver calls the contents of ids in the text that it gives to ``eval``."""

IMPORTS = ("$import torch", "$import monai")
SEARCH_PATH = (
    "$__import__('sys').path.extend({str(frame.f_locals['self'].config_root_path.parent) "
    "for frame, _ in __import__('traceback').walk_stack(None) "
    "if isinstance(frame.f_locals.get('self'), monai.bundle.ConfigWorkflow)})"
)
"""The one expression outside the grammar, allowed as this text only: it adds the folder of the bundle to ``sys.path``.

MONAI adds it in ``ConfigWorkflow.run``, too late for ``load`` and ``create_workflow``. A config knows neither its path
nor its workflow, so the expression finds the workflow among its callers.
"""

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
        *("source", "training", "type", "validation"),
    )
)
"""Attributes of components that the configs declare, and ``type`` of a device. The first line has those of
``LabelScheme``."""

METHODS = frozenset(("parameters", "remaining", "run", "to"))
"""Methods of components that an expression may call: of networks, the run record and engines."""

NODES = (
    *(ast.Expression, ast.Constant, ast.Load, ast.Store, ast.keyword, ast.BoolOp, ast.And, ast.Or),
    *(ast.UnaryOp, ast.Not, ast.USub, ast.UAdd, ast.IfExp, ast.Subscript, ast.Slice),
    *(ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod),
    *(ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE),
    *(ast.Is, ast.IsNot, ast.In, ast.NotIn),
    *(ast.List, ast.Tuple, ast.Dict, ast.ListComp, ast.comprehension),
)
"""Nodes other than names, attributes and calls. ``**`` is excluded, because ``9**9**9`` takes all memory."""


def expression_faults(text: str, ids: Mapping[str, Any]) -> list[str]:
    """Faults of one expression.

    Args:
        text: the expression with its ``$``.
        ids: the content of the config; an expression may refer to its top-level ids.
    """
    if text in (*IMPORTS, SEARCH_PATH):
        return []
    try:
        tree = ast.parse(_as_evaluated(text)[1:].strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return ["it cannot be parsed as an expression"]
    return _Reader(tree, ids).faults


def evaluation_fault(text: str, names: Collection[str]) -> str | None:
    """Why Python cannot evaluate an expression, such as a path ``$HOME/x``; None if it can, or is an import.

    Args:
        text: the expression with its ``$``.
        names: names that the imports of the configs define.
    """
    if text.startswith(("$import ", "$from ")):
        return None
    try:
        tree = ast.parse(_as_evaluated(text)[1:].strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return "it cannot be parsed as an expression"
    found = [node for node in ast.walk(tree) if isinstance(node, (ast.Name, ast.arg))]
    stored = {
        node.arg if isinstance(node, ast.arg) else node.id
        for node in found
        if isinstance(node, ast.arg) or isinstance(node.ctx, ast.Store)
    }
    known = {*dir(builtins), *MODULES, *names, *stored, REFERENCES}
    loose = [node.id for node in found if isinstance(node, ast.Name) and node.id not in known]
    return f"the name {loose[0]} is not defined" if loose else None


def reference_faults(reference: str, ids: Mapping[str, Any]) -> list[str]:
    """Faults of a reference ``id`` or ``id::part``: its first part must be a top-level id."""
    name = ReferenceResolver.normalize_id(reference).split(ReferenceResolver.sep)[0]
    return [] if name in ids else [f"it refers to @{name}, which is not an id of the configs"]


def _as_evaluated(text: str) -> str:
    """The text that MONAI evaluates: it replaces each reference as text, also in strings and behind ``#``."""
    found = ReferenceResolver.match_refs_pattern(text)
    return str(ReferenceResolver.update_refs_pattern(text, dict.fromkeys(found)))


class _Reader(ast.NodeVisitor):
    """Collects the faults of a tree."""

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
        """All nodes without a method of their own."""
        if not isinstance(node, NODES):
            self.faults.append(f"{type(node).__name__} is not part of the grammar")
            return
        super().generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:  # noqa: N802 - name of ast
        """A name by itself."""
        if node.id not in self._known:
            self.faults.append(f"the name {node.id} is not allowed")

    def visit_Subscript(self, node: ast.Subscript) -> None:  # noqa: N802 - name of ast
        """A reference, or an index."""
        reference = _reference(node)
        if reference is None:
            self.generic_visit(node)
        else:
            self.faults += reference_faults(reference, self._ids)

    def visit_Attribute(self, node: ast.Attribute) -> None:  # noqa: N802 - name of ast
        """A name of torch or MONAI, or an attribute of a component."""
        name = _dotted(node)
        if name is not None and name.split(".")[0] in MODULES:
            if name not in MODULE_NAMES:
                self.faults.append(f"{name} is not allowed")
            return
        if node.attr not in ATTRIBUTES:
            self.faults.append(f"the attribute {node.attr} is not allowed")
        self.visit(node.value)

    def visit_Call(self, node: ast.Call) -> None:  # noqa: N802 - name of ast
        """A call of a builtin, of a name of torch or MONAI, or of a method; a reference itself is never called."""
        match node.func:
            case ast.Name(id=name) if name in BUILTINS:
                # key= of min, max and sorted would call what it is given
                self.faults += [f"{name} takes no {keyword.arg}=" for keyword in node.keywords]
            case ast.Attribute(value=ast.Subscript() as value, attr=name) if name in METHODS:
                self.visit(value)
            case ast.Attribute() as function if _dotted(function) in MODULE_NAMES:
                pass
            case function:
                called = ast.unparse(function).replace(REFERENCES, "@")
                self.faults.append(f"the call of {called} is not allowed")
        for part in (*node.args, *(keyword.value for keyword in node.keywords)):
            self.visit(part)


def _reference(node: ast.Subscript) -> str | None:
    """The id if a node is a reference, else None."""
    match node:
        case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=str(reference))):
            return reference if name == REFERENCES else None
    return None


def _dotted(node: ast.expr) -> str | None:
    """``a.b.c`` if a node is a dotted name, else None."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        start = _dotted(node.value)
        return None if start is None else f"{start}.{node.attr}"
    return None
