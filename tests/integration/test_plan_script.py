"""scripts/plan.py: from data, from saved facts, from the seed's tables."""

import json
import re
from pathlib import Path

import pytest
from conftest import run_script

from dynunet_bundle.planning.plan import PLAN_IDS

ORACLE = json.loads((Path(__file__).parents[1] / "planning" / "planner_oracle.json").read_text())


@pytest.mark.parametrize(
    ("name", "configuration", "planner"),
    [
        ("hippo", "3d_fullres", "plain"),
        ("liver", "3d_lowres", "resenc_xl"),
        ("acdc", "2d", "resenc_m"),
        ("brats", "3d_fullres", "resenc_l"),
        ("2dimg", "2d", "plain"),
    ],
)
def test_saved_facts_alone_give_nnunets_plan(name, configuration, planner, tmp_path):
    facts = tmp_path / f"{name}.json"
    facts.write_text(json.dumps({k: v for k, v in ORACLE[name].items() if k != "expected"}))
    overlay = tmp_path / "overlay.json"
    done = run_script(
        "plan",
        *("--fingerprint", facts, "--planner", planner),
        *("--configuration", configuration, "--output", overlay),
    )
    assert done.returncode == 0, done.stderr
    plan = json.loads(overlay.read_text())
    expected = ORACLE[name]["expected"][planner]["configurations"][configuration]
    assert set(plan) == set(PLAN_IDS)
    for ours, theirs in (
        ("patch_size", "patch_size"),
        ("batch_size", "batch_size"),
        ("strides", "strides"),
        ("kernel_sizes", "kernel_sizes"),
        ("filters", "features"),
        ("batch_dice", "batch_dice"),
    ):
        assert plan[ours] == expected[theirs], ours
    assert plan["spacing"] == pytest.approx(expected["spacing"], abs=1e-5)
    assert plan["architecture"].endswith("DynUNet" if planner == "plain" else "ResidualEncoderUNet")
    schemes = {
        "ZScoreNormalization": "zscore",
        "CTNormalization": "ct",
        "RGBTo01Normalization": "rgb_to_0_1",
    }
    for ours, theirs, masked in zip(
        plan["normalization"], expected["normalization"], expected["use_mask_for_norm"], strict=True
    ):
        assert ours == schemes[theirs] + ("_nonzero" if masked else "")


def test_a_plan_from_data_can_be_made_again_from_its_saved_facts(phantom, tmp_path):
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    done = run_script("plan", "--dataset_dir", phantom, "--output", first)
    assert done.returncode == 0, done.stderr
    assert re.search(r"cases +6\b", done.stdout)
    facts = tmp_path / "fingerprints" / "Task99_Phantom.json"
    done = run_script("plan", "--fingerprint", facts, "--output", second)
    assert done.returncode == 0, done.stderr
    one, other = (json.loads(path.read_text()) for path in (first, second))
    # facts alone have no cases, and so no folds
    assert Path(one.pop("splits_file")).is_file()
    assert one == other


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--fingerprint", "{facts}"), "needs --out"),
        (("--fingerprint", "nowhere.json", "--out", "{out}"), "does not exist"),
        (("--fingerprint", "{facts}", "--out", "{out}", "--gpu_memory_gb", "0"), "positive"),
        (
            ("--fingerprint", "{facts}", "--out", "{out}", "--configuration", "3d_lowres"),
            "these fit",
        ),
        (("--dataset_dir", "{phantom}", "--preset", "seed", "--out", "{out}"), "no table"),
    ],
)
def test_what_cannot_be_planned_is_refused(arguments, message, phantom, tmp_path):
    facts = tmp_path / "facts.json"
    facts.write_text(json.dumps(ORACLE["hippo"]))
    names = {"facts": facts, "out": tmp_path / "overlay.json", "phantom": phantom}
    done = run_script("plan", *(text.format(**names) for text in arguments))
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ") and message in last
    assert not (tmp_path / "overlay.json").exists()
