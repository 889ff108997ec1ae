"""What is left after a fault: how a process ended, and whether the files of a training are as they should be."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

LAST = "checkpoint_last.pt"
PREVIOUS = "checkpoint_last.previous.pt"


@dataclass(frozen=True)
class Done:
    """How a process ended."""

    code: int
    output: str
    errors: str

    @property
    def text(self) -> str:
        return self.output + self.errors


def load(path: Path) -> Any:
    """A checkpoint or weights, without running any code of theirs."""
    return torch.load(path, map_location="cpu", weights_only=True)


def differences(ours: Any, theirs: Any, where: str = "") -> list[str]:
    """Where two checkpoints differ, in any bit of a tensor or in any number."""
    if type(ours) is type(theirs) and isinstance(ours, (dict, list, tuple)):
        ours, theirs = (parts(content) for content in (ours, theirs))
        if ours.keys() != theirs.keys():
            return [f"{where}: only one has {sorted(map(str, ours.keys() ^ theirs.keys()))}"]
        return [d for key in ours for d in differences(ours[key], theirs[key], f"{where}/{key}")]
    if isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
        ours, theirs = (
            (content.dtype, content.shape, content.numpy().tobytes()) for content in (ours, theirs)
        )
        return [] if ours == theirs else [where]
    return [] if ours == theirs else [f"{where}: {ours} against {theirs}"]


def parts(content: Any) -> dict[Any, Any]:
    """What a container holds, by key or by index."""
    return content if isinstance(content, dict) else dict(enumerate(content))


def assert_same_end(ours: Path, theirs: Path) -> None:
    """The last state and the model of two folders are equal to the bit, and nothing else lies about."""
    for name in (LAST, "model.pt"):
        found = differences(load(ours / name), load(theirs / name), name)
        assert not found, found[:20]
    assert names(ours) == {LAST, PREVIOUS, "model.pt", "model.json"}, names(ours)


def assert_error(done: Done, code: int, *words: str) -> str:
    """One line that says what is wrong, no traceback, and the exit code; the line."""
    lines = [line for line in done.errors.splitlines() if line.startswith("error: ")]
    assert done.code == code, (done.code, done.text[-4000:])
    assert len(lines) == 1, done.errors[-4000:]
    assert done.errors.strip().splitlines()[-1] == lines[0]
    for word in words:
        assert word in lines[0], (word, lines[0])
    assert "Traceback" not in done.errors, done.errors[-4000:]
    assert "Exception" not in done.errors, done.errors[-4000:]
    return lines[0]


def names(folder: Path) -> set[str]:
    """Names of all files and folders in a folder, hidden ones included, except for the lock of a killed process."""
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}
