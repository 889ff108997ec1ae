"""Every text of every file that is read stays a text: it runs nothing, refers to nothing, and reaches no terminal raw.

The kinds of files are those of ``test_json_mutations.py``; a test holds that they have all schemas of the package.
"""

import ast
import importlib
import json
import logging
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from conftest import BUNDLE
from jsonschema import Draft7Validator
from test_json_mutations import KINDS, MAX_MESSAGE, Made, planned

from dynunet_bundle import files
from dynunet_bundle.configs.settings import SETTINGS
from dynunet_bundle.configs.workflow import load_workflow
from dynunet_bundle.errors import find_user_error
from dynunet_bundle.planning.command import PlanRequest, plan_dataset

PACKAGE = BUNDLE / "dynunet_bundle"
CODE = {"inference.json"}  # a config of the bundle itself is a program

ELSEWHERE = {
    "api.data_sets.OBJECT",  # an overlay that planning has just written
    "api.model_choice.CONFIG_SCHEMA",  # an overlay, which load_workflow reads again
    "cluster.journal.RECORD_SCHEMA",  # entries of run.json; a line of another shape is left out; tests/cluster
    "commands.predict_options.OBJECT",  # an argument: rules for series; test_paths.py
    "delivery.package.code.ANYTHING",  # files of the package
    "federation.site.SITE_SCHEMA",  # a site's own paths and settings; tests/federation
    "images.tiff_spacing.SPACING_SCHEMA",  # numbers; tests/images
    "planning.command.PLAN_SCHEMA",  # an overlay that a new plan is compared with; tests/planning
    "configs.values.ANYTHING",  # a value of a command line; test_paths.py
    "nnunet.component_rules.POSTPROCESSING_SCHEMA",  # names are compared, values are numbers; tests/nnunet
    "nnunet.results_folder.DATASET_SCHEMA",  # names are checked as those of a data set; tests/nnunet
    "nnunet.results_folder.PLANS_SCHEMA",  # names are compared; tests/nnunet
    "dicom_output.codes.TABLE_SCHEMA",  # a file of the package
    "delivery.package.facts.SOURCES_SCHEMA",  # a file of the package
    "delivery.package.make.schema",  # an argument: the schemas of three kinds
    "delivery.verify.bundle_folder.schema",  # an argument: configs of the bundle
    "delivery.verify.bundle_folder.ANSWER_SCHEMA",  # what a process of ours prints
    "survey.case_facts.FACTS_SCHEMA",  # numbers; test_mutated_facts_of_a_survey_are_looked_for_again
}
"""Schemas of files that no kind has, by module and name."""

HOSTILE = (
    "$__import__('os').system('touch CANARY')",
    "@network",
    "%x.json",
    "a#b",
    "a\x1b[31m\nb\u202e",
)


def planned_dataset(folder: Path) -> Made:
    """dataset.json, read by plan.py, and its names by the configs."""
    dataset, tasks = planned(folder)
    overlay = tasks / "Task77_Made_3d.json"

    def read() -> None:
        overlay.unlink(missing_ok=True)
        plan_dataset(PlanRequest(tasks, dataset_dir=str(dataset), configuration="3d_fullres"))
        settings = {"device": "cpu", "dataset_dir": str(dataset)}
        for path in tasks.glob("*.json"):
            parser = load_workflow(BUNDLE, "train.json", [str(path)], settings).parser
            for name in ("plan", "labels", "cases"):
                parser.get_parsed_content(name)

    return dataset / "dataset.json", read


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where texts stand: the path of each text, and of each key with the key itself as a set."""
    if isinstance(content, dict):
        for key, item in content.items():
            yield (*path, frozenset([key]))
            yield from places(item, (*path, key))
    elif isinstance(content, list):
        # items of a list are alike
        for index, item in enumerate(content[:2]):
            yield from places(item, (*path, index))
    elif isinstance(content, str):
        yield path


def with_text(content: Any, path: tuple[Any, ...], text: str) -> Any:
    """A copy with another text, or another key, at a place."""
    changed = deepcopy(content)
    part = changed
    for step in path[:-1]:
        part = part[step]
    if isinstance(path[-1], frozenset):
        (key,) = path[-1]
        items = [(text if name == key else name, item) for name, item in part.items()]
        part.clear()
        part.update(items)
    else:
        part[path[-1]] = text
    return changed


def raw(shown: str) -> set[str]:
    """Control characters and marks of direction, apart from those of the layout."""
    return {one for one in shown if unicodedata.category(one)[0] == "C" and one not in "\n\t\r"}


@pytest.mark.parametrize("kind", [*sorted(set(KINDS) - CODE), "dataset.json of plan.py"])
def test_a_text_of_a_file_stays_a_text(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    logging.disable(logging.DEBUG)
    make: Callable[[Path], Made] = KINDS[kind][0] if kind in KINDS else planned_dataset
    path, read = make(tmp_path)
    content = json.loads(path.read_bytes())
    found = list(places(content))
    for number in range(max(len(found), len(HOSTILE))):
        # a text for each place in turn, and all texts for each kind
        place, text = found[number % len(found)], HOSTILE[number % len(HOSTILE)]
        path.write_text(json.dumps(with_text(content, place, text)))
        try:
            read()
        except Exception as error:  # noqa: BLE001 - any kind but ours is the fault that is looked for
            message = str(find_user_error(error) or "")
            assert message.isprintable() and 0 < len(message) <= MAX_MESSAGE, (place, text, error)
        assert not (tmp_path / "CANARY").exists(), (place, text)
        shown = "".join(capfd.readouterr())
        assert not raw(shown), (place, raw(shown))


def schemas_that_are_read() -> set[tuple[str, str]]:
    """Module and name of each schema that the package gives to ``read_json`` or ``parse_json``."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        module = ".".join(path.relative_to(BUNDLE).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                if node.func.id in ("read_json", "parse_json") and path.name != "files.py":
                    last = node.args[-1]
                    found.add(
                        (module, last.id if isinstance(last, ast.Name) else ast.unparse(last))
                    )
    return found


def keywords_of(schema: Any) -> set[str]:
    """The keywords of a schema and of the schemas in it."""
    if not isinstance(schema, Mapping):
        return set()
    inner: list[Any] = [*schema.get("properties", {}).values(), *schema.get("anyOf", ())]
    for name in ("items", "additionalProperties", "propertyNames", "if", "then", "else"):
        part = schema.get(name)
        inner += part if isinstance(part, list) else [part]
    return set(schema).union(*map(keywords_of, inner))


def test_schemas_need_no_newer_jsonschema_than_that_of_monai_label() -> None:
    """Another keyword would be ignored without an error."""
    read = [
        getattr(importlib.import_module(module), name, None)
        for module, name in schemas_that_are_read()
    ]
    used = set().union(*map(keywords_of, [*read, *SETTINGS.values()]))
    assert "if" in used and "items" in used
    # the last are no checks
    assert used <= {*Draft7Validator.VALIDATORS, "then", "else", "description"}


def test_all_schemas_are_among_the_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    check = files.require_shape

    def note(content: Any, schema: Any, *rest: Any) -> None:
        seen.append(id(schema))
        check(content, schema, *rest)

    monkeypatch.setattr(files, "require_shape", note)
    for number, (make, _) in enumerate(KINDS.values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.chdir(folder)
        make(folder)[1]()
    missing = {
        f"{module}.{name}"
        for module, name in schemas_that_are_read()
        if id(getattr(importlib.import_module(module), name, None)) not in seen
    }
    assert {name.removeprefix("dynunet_bundle.") for name in missing} == ELSEWHERE
