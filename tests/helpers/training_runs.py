"""Shared by tests of whole trainings; their fixtures are in tests/conftest.py."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigWorkflow

EPOCHS, ITERATIONS = 3, 2
"""Numbers of the fixture ``start``."""

Start = Callable[..., ConfigWorkflow]


def part(workflow: ConfigWorkflow, name: str) -> Any:
    return workflow.parser.get_parsed_content(name)


def load(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def assert_same(ours: Any, theirs: Any, where: str = "") -> None:
    """Assert bitwise equality of all tensors and numbers."""
    assert type(ours) is type(theirs), where
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), where
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key in ours:
            assert_same(ours[key], theirs[key], f"{where}/{key}")
    elif isinstance(ours, (list, tuple)):
        assert len(ours) == len(theirs), where
        for index, pair in enumerate(zip(ours, theirs, strict=True)):
            assert_same(*pair, f"{where}/{index}")
    else:
        assert ours == theirs, where
