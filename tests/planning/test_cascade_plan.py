"""The plan of a cascade: nnU-Net's full resolution, where there is a low one before it."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import run_script

from dynunet_bundle.errors import ConfigError, PlanError
from dynunet_bundle.planning.command import PlanRequest, plan_dataset
from dynunet_bundle.planning.plan import PLAN_IDS, Plan, plan_differences, plan_from

ORACLE = json.loads((Path(__file__).parent / "planner_oracle.json").read_text())


def saved(name: str, folder: Path) -> str:
    path = folder / f"{name}.json"
    path.write_text(json.dumps({k: v for k, v in ORACLE[name].items() if k != "expected"}))
    return str(path)


def planned(name: str, configuration: str, folder: Path, **changes: Any) -> tuple[dict, str]:
    out = folder / f"{configuration}.json"
    request = PlanRequest(
        folder, None, saved(name, folder), configuration=configuration, out=out, **changes
    )
    text = plan_dataset(request)
    return json.loads(out.read_text()), text


@pytest.mark.parametrize("planner", ["plain", "resenc_l"])
def test_it_is_the_full_resolution_with_masks(planner: str, tmp_path: Path) -> None:
    full, _ = planned("liver", "3d_fullres", tmp_path, planner=planner)
    cascade, text = planned("liver", "3d_cascade_fullres", tmp_path, planner=planner)
    assert tuple(cascade) == PLAN_IDS
    assert (full.pop("cascade"), cascade.pop("cascade")) == (False, True)
    assert cascade == full
    # as its configuration inherits it in nnU-Net's plans
    assert full["batch_dice"] is True
    assert f"decided for 3d_cascade_fullres by nnU-Net's rules, planner {planner}" in text
    assert "2d, 3d_fullres, 3d_lowres, and 3d_cascade_fullres after 3d_lowres" in text
    assert "--previous_dir" in text
    names = ", ".join(cascade["label_names"][1:])
    assert any(
        line.split()[:2] == ["more", "channels"] and names in line for line in text.splitlines()
    )


def test_other_configurations_are_not_cascades(tmp_path: Path) -> None:
    for configuration in ("2d", "3d_fullres", "3d_lowres"):
        plan, text = planned("liver", configuration, tmp_path)
        assert plan["cascade"] is False and "more channels" not in text


def test_a_small_set_has_no_cascade(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"no 3d_cascade_fullres .* these fit: 2d, 3d_fullres\. "):
        planned("hippo", "3d_cascade_fullres", tmp_path)
    with pytest.raises(PlanError, match=r"no 3d_lowers .* 3d_lowres, 3d_cascade_fullres\. "):
        planned("liver", "3d_lowers", tmp_path)


def test_the_seed_has_no_cascade(tmp_path: Path) -> None:
    request = PlanRequest(tmp_path, "x", preset="seed", configuration="3d_cascade_fullres")
    with pytest.raises(ConfigError, match="2d and 3d_fullres for the plain network only"):
        plan_dataset(request)


def test_an_overlay_of_an_earlier_version_is_not_a_cascade(tmp_path: Path) -> None:
    plan, _ = planned("liver", "3d_fullres", tmp_path)
    old = {name: value for name, value in plan.items() if name != "cascade"}
    assert plan_from(old) == plan_from(plan) == Plan(**plan)
    assert plan_differences(old, plan) == []
    assert plan_differences(old, {**plan, "cascade": True}) == ["cascade: False against True"]


def test_the_command_line(tmp_path: Path) -> None:
    done = run_script(
        "plan",
        *("--fingerprint", saved("liver", tmp_path), "--output", tmp_path / "overlay.json"),
        *("--configuration", "3d_cascade_fullres"),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "overlay.json").read_text())["cascade"] is True


def test_the_names_of_both_stages_overlays(phantom: Path, tmp_path: Path) -> None:
    """With this little memory, even small cases have a low-resolution configuration."""
    for configuration in ("3d_lowres", "3d_cascade_fullres"):
        request = PlanRequest(
            tmp_path, str(phantom), configuration=configuration, gpu_memory_gb=0.01, num_workers=1
        )
        plan_dataset(request)
    lowres, cascade = (
        json.loads((tmp_path / f"Task99_Phantom_{name}.json").read_text())
        for name in ("3d_lowres", "3d_cascade_fullres")
    )
    assert (lowres["cascade"], cascade["cascade"]) == (False, True)
    assert all(low > full for low, full in zip(lowres["spacing"], cascade["spacing"], strict=True))
    splits = json.loads((tmp_path / "splits" / "Task99_Phantom.json").read_text())
    assert len(splits) == 5
