"""The best of runs and pairs by their out-of-fold Dice, on synthetic cross-validations."""

import json
import os
import runpy
import sys

import numpy as np
import pytest
from conftest import BUNDLE, ROOT
from helpers.made_runs import (
    CASES,
    HELD_OUT,
    PLAN,
    REGION_PLAN,
    as_regions,
    change_mask,
    make_dataset,
    make_run,
    noisy_probabilities,
    save_probabilities,
    truth_of,
)

from dynunet_bundle.best_configuration import candidates as candidates_module
from dynunet_bundle.best_configuration.decide import (
    BestRequest,
    choose_best,
    find_best,
    format_best,
)
from dynunet_bundle.best_configuration.run_results import read_run
from dynunet_bundle.configs.overrides import check_overrides, known_ids
from dynunet_bundle.errors import CaseError, ConfigError
from dynunet_bundle.evaluation.dice import dice_by_target

ONE, TWO = noisy_probabilities(1, 0.12), noisy_probabilities(2, 0.12)


@pytest.fixture
def request_of(tmp_path):
    """``request_of(run, run)``; the data set is created on the first call."""

    def make(*runs, plan=PLAN, **changes):
        dataset = tmp_path / "Task77_Made"
        if not dataset.exists():
            make_dataset(dataset, plan)
        out = tmp_path / "out" / "best.json"
        return BestRequest(**{"runs": runs, "dataset_dir": dataset, "out": out} | changes)

    return make


def mean_dice(probabilities, targets=((1,), (2,))) -> float:
    """Expected values of the table: by case and class, then by class."""
    rows = [
        dice_by_target(probabilities(case).argmax(0).astype(np.uint8), truth_of(case), targets)
        for case in CASES
    ]
    return float(np.mean(rows))


def dice_of(content) -> dict[str, float]:
    return {candidate["name"]: candidate["mean_dice"] for candidate in content["candidates"]}


def test_a_pair_that_errs_elsewhere_beats_both(tmp_path, request_of):
    runs = [make_run(tmp_path / "2d", ONE), make_run(tmp_path / "3d", TWO)]
    request = request_of(*runs)
    content = find_best(request)
    assert dice_of(content) == pytest.approx(
        {
            "2d": mean_dice(ONE),
            "3d": mean_dice(TWO),
            "2d + 3d": mean_dice(lambda case: ONE(case) + TWO(case)),
        }
    )
    assert content["best"] == "2d + 3d" and content["num_cases"] == 6
    assert content["mean_dice"] > max(mean_dice(ONE), mean_dice(TWO)) + 0.05
    assert content == json.loads(request.out.read_text())
    assert content["left_out_of_pairs"] == {}


def test_the_rules_are_those_of_the_winner_and_inference_takes_them(tmp_path, request_of):
    request = request_of(make_run(tmp_path / "2d", ONE), make_run(tmp_path / "3d", TWO))
    content = find_best(request)
    # speckles in the background that both members agree on are few, and none touches the organ in all cases
    assert content["keep_largest"] and content["mean_dice_with_rules"] > content["mean_dice"]
    overlay = request.out.parent / "best_overlay.json"
    assert json.loads(overlay.read_text()) == {"keep_largest": content["keep_largest"]}
    members = [request.out.parent / f"best_member_{name}.json" for name in ("2d", "3d")]
    for name, file in zip(("2d", "3d"), members, strict=True):
        written = json.loads(file.read_text())
        models = [str(tmp_path / name / f"fold_{fold}/models/model.pt") for fold in range(3)]
        assert written == {**PLAN, "weights_file": models}
        known = known_ids(BUNDLE / "configs") | {"keep_largest"}
        check_overrides(["--config_file", str(file)], known)
    assert [member["name"] for member in content["members"]] == ["2d", "3d"]


def test_equal_ones_go_to_the_simpler(tmp_path, request_of):
    runs = [make_run(tmp_path / name, ONE) for name in ("b", "a")]
    content = find_best(request_of(*runs))
    assert len(set(dice_of(content).values())) == 1
    assert content["best"] == "b"
    assert choose_best([0.5, 0.7, None, 0.7]) == 1
    with pytest.raises(ConfigError, match="no candidate has a Dice"):
        choose_best([None])


def test_of_three_runs_all_pairs_are_tried(tmp_path, request_of):
    runs = [make_run(tmp_path / n, noisy_probabilities(i, 0.1)) for i, n in enumerate("abc")]
    content = find_best(request_of(*runs))
    assert list(dice_of(content)) == ["a", "b", "c", "a + b", "a + c", "b + c"]
    assert list(dice_of(find_best(request_of(*runs, pairs=False)))) == ["a", "b", "c"]


def test_regions(tmp_path, request_of):
    runs = [
        make_run(tmp_path / name, lambda case, p=found: as_regions(p(case)), REGION_PLAN)
        for name, found in (("2d", ONE), ("3d", TWO))
    ]
    content = find_best(request_of(*runs, plan=REGION_PLAN))
    assert list(content["candidates"][0]["mean"]) == ["whole", "lesion"]
    rows = []
    for case in CASES:
        mean = (as_regions(ONE(case)) + as_regions(TWO(case))) / 2
        mask = np.where(mean[1] > 0.5, 2, mean[0] > 0.5)
        rows.append(dice_by_target(mask, truth_of(case), [[1, 2], [2]]))
    assert dice_of(content)["2d + 3d"] == pytest.approx(np.mean(rows))
    steps = [step["values"] for step in content["component_rules"]["steps"]]
    assert steps == [[1, 5], [1, 5], [5]]


def test_runs_without_probabilities_are_in_no_pair_and_it_says_so(tmp_path, request_of):
    runs = [make_run(tmp_path / "2d", ONE, save=False), make_run(tmp_path / "3d", TWO)]
    request = request_of(*runs)
    content = find_best(request)
    assert list(dice_of(content)) == ["2d", "3d"]
    assert "does not exist" in content["left_out_of_pairs"]["2d"]
    assert "not in pairs: 2d: " in format_best(content, request.out)
    for case in CASES[:-1]:
        save_probabilities(runs[0], case, ONE(case))
    assert "has no probabilities of case_5" in find_best(request)["left_out_of_pairs"]["2d"]


def test_probabilities_of_another_model_are_noticed(tmp_path, request_of):
    runs = [make_run(tmp_path / "2d", ONE), make_run(tmp_path / "3d", TWO)]
    save_probabilities(runs[0], CASES[2], noisy_probabilities(9, 0.2)(CASES[2]))
    content = find_best(request_of(*runs))
    assert list(dice_of(content)) == ["2d", "3d"]
    assert "case_2 belong to another mask" in content["left_out_of_pairs"]["2d"]


def test_going_on_scores_only_what_has_changed(tmp_path, request_of, monkeypatch):
    request = request_of(make_run(tmp_path / "2d", ONE), make_run(tmp_path / "3d", TWO))
    scored = []
    real = candidates_module.dice_by_target

    def counted(*arguments):
        scored.append(1)
        return real(*arguments)

    monkeypatch.setattr(candidates_module, "dice_by_target", counted)
    first = find_best(request)
    assert len(scored) == 18
    scored.clear()
    assert find_best(request) == first and not scored
    path = tmp_path / "3d" / "cross_validation" / "probabilities" / f"{CASES[1]}.npy"
    os.utime(path, ns=(1, 1))
    find_best(request)
    assert len(scored) == 1
    (request.out.parent / "best_scores" / "2d.json").write_text("{")
    scored.clear()
    assert find_best(request)["candidates"] == first["candidates"] and len(scored) == 6


def test_a_call_that_was_stopped_keeps_the_cases_it_had(tmp_path, request_of, monkeypatch):
    request = request_of(make_run(tmp_path / "2d", ONE))
    calls = []
    real = candidates_module.dice_by_target

    def stopped(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(candidates_module, "dice_by_target", stopped)
    with pytest.raises(KeyboardInterrupt):
        find_best(request)
    find_best(request)
    assert len(calls) == 4 + 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"plan": {**PLAN, "task_name": "Task78_Other"}},
            "not of the same data: task_name is Task77_Made against Task78_Other",
        ),
        (
            {"plan": {**PLAN, "label_names": ["background", "lesion", "organ"]}},
            "not of the same data: label_names is",
        ),
        ({"held_out": [CASES[:3], CASES[3:]]}, "different splits: 3 folds against 2"),
        (
            {"held_out": [HELD_OUT[0], HELD_OUT[2], HELD_OUT[1]]},
            "different splits: fold 1 holds out case_2, case_3, case_4, case_5 in one",
        ),
        ({"folds": [0, 2]}, r"other lacks folds: 1"),
        ({"folds": []}, "holds no cross-validation"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(tmp_path, request_of, changes, message):
    runs = [make_run(tmp_path / "2d", ONE), make_run(tmp_path / "other", TWO, **changes)]
    with pytest.raises(ConfigError, match=message):
        find_best(request_of(*runs))


def test_two_runs_of_one_name_are_refused(tmp_path, request_of):
    runs = [make_run(tmp_path / parent / "3d", ONE) for parent in ("x", "y")]
    with pytest.raises(ConfigError, match='two runs are called "3d"'):
        find_best(request_of(*runs))


def test_masks_that_have_changed_since_are_refused(tmp_path, request_of):
    made = make_run(tmp_path / "2d", ONE)
    change_mask(made, CASES[3], value=2)
    with pytest.raises(ConfigError, match=r"recorded a Dice of .* for case_3"):
        find_best(request_of(made))
    change_mask(made, CASES[3], value=9)
    with pytest.raises(CaseError, match="case_3: .* has the value 9"):
        find_best(request_of(made))
    (made / "cross_validation" / "predictions" / f"{CASES[3]}.nii.gz").unlink()
    with pytest.raises(ConfigError, match="has no mask of case_3"):
        find_best(request_of(made))


def test_another_data_set_is_refused(tmp_path, request_of):
    made = make_run(tmp_path / "2d", ONE)
    request = request_of(made)
    (request.dataset_dir / "dataset.json").write_text(
        json.dumps(
            {
                "modality": {"0": "CT"},
                "labels": {"0": "background", "1": "organ", "2": "lesion"},
                "training": [
                    {"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"}
                    for case in CASES[1:]
                ],
                "test": [],
            }
        )
    )
    with pytest.raises(ConfigError, match="has no label of case_0"):
        find_best(request)


def test_ignored_voxels_and_other_values(tmp_path, request_of):
    plan = {**PLAN, "label_values": [0, 100, 200], "ignore_value": 255}
    make_dataset(tmp_path / "Task77_Made", plan, ignored=255)
    made = make_run(tmp_path / "2d", ONE, plan)
    # the run scored with those voxels left out
    for fold in range(3):
        path = made / "cross_validation" / f"fold_{fold}.json"
        record = json.loads(path.read_text())
        for case in record["cases"]:
            truth = truth_of(case)
            truth[:, 2] = 255
            mask = ONE(case).argmax(0).astype(np.uint8)
            row = dice_by_target(mask, truth, [[1], [2]])
            record["cases"][case] = dict(zip(record["cases"][case], row, strict=True))
        path.write_text(json.dumps(record))
    content = find_best(request_of(made))
    assert content["component_rules"]["before"]["mean_dice"] == pytest.approx(content["mean_dice"])
    assert all(set(step) <= {100, 200} for step in content["keep_largest"])


def test_what_a_run_lacks_for_its_models(tmp_path, request_of, caplog):
    made = make_run(tmp_path / "2d", ONE)
    assert len(read_run(made).weights) == 3
    for fold in range(3):
        (made / f"fold_{fold}" / "models" / "model.pt").unlink()
    request = request_of(made)
    find_best(request)
    assert "no model left" in caplog.text
    assert "weights_file" not in json.loads(
        (request.out.parent / "best_member_2d.json").read_text()
    )


def test_the_script(tmp_path, request_of, monkeypatch, capsys):
    runs = [make_run(tmp_path / "2d", ONE), make_run(tmp_path / "3d", TWO)]
    request = request_of(*runs)
    command = ["--runs", *runs, "--dataset_dir", request.dataset_dir, "--out", request.out]
    # in this process, since starting another one would dominate the time of the test
    monkeypatch.setattr(sys, "argv", ["find_best.py", *map(str, command)])
    runpy.run_path(str(ROOT / "scripts" / "find_best.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Dice in native space, out of fold, 6 cases"
    assert lines[1].split() == ["organ", "lesion", "mean"]
    assert lines[4].startswith("2d + 3d ") and lines[4].endswith("  best")
    assert not lines[2].endswith("best")
    assert any("dynunet-bundle ensemble --members OUT/2d/probabilities" in line for line in lines)
