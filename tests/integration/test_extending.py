"""The examples of docs/extending.md, as they stand there, train."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BUNDLE, ROOT, TINY, run_script
from monai.bundle import ConfigWorkflow

from dynunet_bundle.configs.workflow import load_workflow
from dynunet_bundle.errors import ConfigError

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
ADAM, TVERSKY = re.findall(r"```json\n(.*?)```", PAGE, re.S)
(CODE,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of the page, on the path of modules."""
    for name, text in {"adam.json": ADAM, "tversky.json": TVERSKY, "tversky.py": CODE}.items():
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_listed_component_needs_no_switch(example: Path) -> None:
    workflow = load_workflow(BUNDLE, "train.json", ["adam.json"], {**TINY, "device": "cpu"})
    assert type(workflow.parser.get_parsed_content("optimizer")) is torch.optim.Adam


def test_own_code_needs_trust(example: Path) -> None:
    with pytest.raises(ConfigError, match=r"tversky\.json would run code.*--trust"):
        load_workflow(BUNDLE, "train.json", ["tversky.json"])


def test_own_code_trains(
    example: Path, train_workflow: Callable[..., ConfigWorkflow], phantom: Path
) -> None:
    workflow = train_workflow("tversky.json", epochs=1)
    workflow.run()
    loss: Any = workflow.parser.get_parsed_content("loss")
    assert type(loss).__name__ == "FinestTversky"
    logits = torch.zeros(1, 3, 4, 4, 4)
    label = torch.zeros(1, 1, 4, 4, 4)
    assert 0 < loss([logits, logits], label) < 1


def test_the_command_of_the_page_trains(example: Path, phantom: Path) -> None:
    command = re.search(r"dynunet-bundle train (.*?)\n\n", PAGE, re.S)
    assert command is not None
    words = command.group(1).replace("\\\n", " ").split()
    places = {"DATA/Task04_Hippocampus": str(phantom), "RUNS/tversky": "run"}
    arguments = [places.get(word, word) for word in words]
    settings = {**TINY, "epochs": 1, "device": "cpu"}
    del settings["num_folds"]
    arguments += [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    environment = {**os.environ, "PYTHONPATH": "."}
    result = run_script("train", *arguments, "--folds", "0", cwd=example, env=environment)
    assert result.returncode == 0, result.stderr[-2000:]
    assert (example / "run" / "fold_0" / "models" / "model.pt").is_file()
