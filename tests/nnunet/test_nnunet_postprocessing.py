"""nnU-Net's postprocessing becomes rules; its pickle runs nothing."""

import json
import os
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "security"))

from attack_models import dictionary, name, pieces

from dynunet_bundle.errors import WeightsError
from dynunet_bundle.nnunet.component_rules import FUNCTION, MODULE, component_rules


@pytest.fixture
def function(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function with the name of nnU-Net's, so that pickle writes what nnU-Net writes."""
    module = types.ModuleType(MODULE)

    def step() -> None: ...

    step.__module__, step.__qualname__, step.__name__ = MODULE, FUNCTION, FUNCTION
    setattr(module, FUNCTION, step)
    for parent in ("nnunetv2", "nnunetv2.postprocessing"):
        monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
    monkeypatch.setitem(sys.modules, MODULE, module)
    return step


def test_a_pickle(tmp_path: Path, function: Any) -> None:
    options = [
        {"labels_or_regions": [1, (2, 3)], "background_label": 0},
        {"labels_or_regions": np.int64(1)},
    ]
    (tmp_path / "postprocessing.pkl").write_bytes(pickle.dumps(([function] * 2, options)))
    assert component_rules(tmp_path) == [[1, 2, 3], [1]]


def test_a_json_comes_first(tmp_path: Path) -> None:
    content = {
        "postprocessing_fns": [FUNCTION],
        "postprocessing_kwargs": [{"labels_or_regions": 2}],
    }
    (tmp_path / "postprocessing.json").write_text(json.dumps(content))
    (tmp_path / "postprocessing.pkl").write_bytes(b"damaged")
    assert component_rules(tmp_path) == [[2]]


def test_nothing_there(tmp_path: Path) -> None:
    assert component_rules(tmp_path) is None


class Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


def test_code_is_not_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "postprocessing.pkl").write_bytes(pickle.dumps(([Payload(canary)], [{}])))
    with pytest.raises(WeightsError, match="mkdir, which may run code"):
        component_rules(tmp_path)
    assert not canary.exists()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dilate", {"labels_or_regions": 1}),
        (FUNCTION, {}),
        (FUNCTION, {"labels_or_regions": 1, "background_label": 4}),
        (FUNCTION, {"labels_or_regions": "1"}),
    ],
)
def test_another_step_is_refused(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    content = {"postprocessing_fns": [name], "postprocessing_kwargs": [options]}
    (tmp_path / "postprocessing.json").write_text(json.dumps(content))
    with pytest.raises(WeightsError, match=r"postprocessing\.json"):
        component_rules(tmp_path)


def test_damage_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "postprocessing.pkl").write_bytes(b"\x80\x04damaged")
    with pytest.raises(WeightsError, match="damaged"):
        component_rules(tmp_path)


@pytest.mark.parametrize("kind", sorted(pieces(Path("marker")).keys() - {"numbers"}))
@pytest.mark.parametrize("place", ["labels", "steps", "all"])
def test_a_hostile_pickle_is_refused_at_once(tmp_path: Path, kind: str, place: str) -> None:
    piece, step = pieces(tmp_path / "marker")[kind], name(MODULE, FUNCTION)
    content = {
        "labels": b"]" + step + b"a]" + dictionary(labels_or_regions=piece) + b"a\x86",
        "steps": b"]" + piece + b"a]}a\x86",
        "all": piece,
    }[place]
    (tmp_path / "postprocessing.pkl").write_bytes(b"\x80\x02" + content + b".")
    with pytest.raises(WeightsError, match=r"postprocessing\.pkl"):
        component_rules(tmp_path)
    assert not (tmp_path / "marker").exists()
