"""Open the bundle in the current folder and write its faults to a JSON; ``bundle_folder.py`` runs this with ``-c``.

    python -c SOURCE ANSWER.json DATASET OUTPUT

It imports nothing from this package, so that only the bundle's own copy is imported.
"""

import ast
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ComponentLocator, ConfigParser, ConfigWorkflow
from monai.utils import optional_import

CONFIGS = (
    "train.json",
    "evaluate.json",
    "inference.json",
    "multi_gpu_train.json",
    "multi_gpu_evaluate.json",
)
PREFIXES = ("module.", "_orig_mod.")
MAX_SHOWN = 3


def strings_in(value: Any) -> Iterator[str]:
    """All strings of a config."""
    if isinstance(value, dict):
        for item in value.values():
            yield from strings_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings_in(item)
    elif isinstance(value, str):
        yield value


def targets_in(value: Any) -> Iterator[str]:
    """All ``_target_`` of a config."""
    if isinstance(value, dict):
        own = value.get("_target_")
        if isinstance(own, str):
            yield own
        for item in value.values():
            yield from targets_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from targets_in(item)


def _import_of(statement: str) -> None:
    """Run only the imports of a statement."""
    for node in ast.parse(statement).body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module:
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")


def unimportable(config: dict[str, Any]) -> list[str]:
    """Imports and targets of a config that cannot be imported; MONAI silently replaces a failing import by a stub."""
    problems, locator = [], ComponentLocator()
    for text in strings_in(config):
        if text.startswith(("$import ", "$from ")):
            try:
                _import_of(text[1:])
            except ImportError as error:
                problems.append(f'"{text}" fails: {error}')
    for target in sorted(set(targets_in(config))):
        module, _, name = target.rpartition(".")
        # MONAI resolves names without a dot itself
        found = (
            optional_import(module, name=name)[1]
            if module
            else locator.get_component_module_name(name)
        )
        if not found:
            problems.append(f'_target_ "{target}" cannot be imported')
    return problems


def missing_properties(kind: str, config: str, **settings: Any) -> list[str]:
    """Properties that ``check_properties`` does not find in a workflow; it builds every part of the workflow."""
    workflow = ConfigWorkflow(
        config_file=f"configs/{config}",
        meta_file="configs/metadata.json",
        logging_file=False,
        workflow_type=kind,
        dataset_dir=sys.argv[2],
        output_dir=sys.argv[3],
        device="cpu",
        **settings,
    )
    workflow.initialize()
    return [f"property {name} is missing or has another id" for name in workflow.check_properties()]


def refused_logging() -> list[str]:
    """Apply logging.conf as a run does; MONAI refuses a file that could run code."""
    ConfigWorkflow(
        config_file="configs/inference.json",
        meta_file="configs/metadata.json",
        logging_file="configs/logging.conf",
        workflow_type="infer",
    )
    return []


def wrong_weights() -> list[str]:
    """Differences between ``models/model.pt`` and the network of inference.json."""
    state = torch.load("models/model.pt", map_location="cpu", weights_only=True)
    parser = ConfigParser()
    parser.read_config("configs/inference.json")
    expected = parser.get_parsed_content("network_def").state_dict()
    problems = [
        f"keys start with {prefix}"
        for prefix in PREFIXES
        if any(key.startswith(prefix) for key in state)
    ]
    for what, keys in (
        ("lacks", expected.keys() - state.keys()),
        ("has keys that the network lacks:", state.keys() - expected.keys()),
    ):
        if keys:
            problems.append(f"model.pt {what} {', '.join(sorted(keys)[:MAX_SHOWN])} ({len(keys)})")
    shapes = [k for k in expected.keys() & state.keys() if expected[k].shape != state[k].shape]
    if shapes:
        problems.append(
            f"the shape of {', '.join(sorted(shapes)[:MAX_SHOWN])} is not the network's"
        )
    return problems


def attempt(check: Callable[[], list[str]]) -> list[str]:
    """Faults found by a check, or the error that stopped it."""
    try:
        return check()
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        return [f"{type(cause).__name__}: {cause}".splitlines()[0]]


def main() -> None:
    """Run all checks; an error in one does not stop the others."""
    sys.path.insert(0, str(Path.cwd()))
    configs = {
        name: json.loads(Path("configs", name).read_text(encoding="utf-8"))
        for name in CONFIGS
        if Path("configs", name).is_file()
    }
    answer = {
        "imports": [
            f"configs/{name}: {problem}"
            for name, config in configs.items()
            for problem in attempt(partial(unimportable, config))
        ],
        "logging": attempt(refused_logging),
        "inference": attempt(lambda: missing_properties("infer", "inference.json")),
        "train": attempt(
            lambda: missing_properties(
                "train", "train.json", ckpt_dir=f"{sys.argv[3]}/models", num_folds=2
            )
        ),
        "weights": attempt(wrong_weights) if Path("models/model.pt").is_file() else [],
    }
    Path(sys.argv[1]).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
