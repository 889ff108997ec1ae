"""Two sets of scores, paired by case, with known differences."""

import json

import numpy as np
import pytest
from conftest import run_script

from dynunet_bundle.errors import ConfigError
from dynunet_bundle.evaluation.comparison import (
    compare_files,
    format_comparison,
    paired_difference,
)
from dynunet_bundle.evaluation.scores import summarize_measures
from dynunet_bundle.evaluation.statistics import MEASURES
from dynunet_bundle.files import write_json

NAMES = ["background", "liver", "tumour"]


def row(dice, hd95_mm=None, reference_ml=2.0):
    known = {"dice": dice, "hd95_mm": hd95_mm, "reference_volume_ml": reference_ml}
    return {**dict.fromkeys(MEASURES), **known}


def save(path, cases, tolerance_mm=1.0, names=NAMES):
    path.parent.mkdir(exist_ok=True)
    write_json(path, summarize_measures(cases, names, tolerance_mm))
    return path


@pytest.fixture
def files(tmp_path):
    """Five cases in both; only A finds the tumour of the third."""
    a = {f"c{i}": [row(0.5, 4.0), row(0.3, 9.0)] for i in range(5)}
    b = {f"c{i}": [row(0.5 + i / 10, 4.0 - i), row(0.3, 9.0)] for i in range(5)}
    b["c2"][1] = row(0.0)
    # another order must not matter
    b = dict(reversed(b.items()))
    return save(tmp_path / "a" / "scores.json", a), save(tmp_path / "b" / "scores.json", b)


def test_differences_are_b_minus_a_by_case(files):
    comparison = compare_files(*files)
    assert comparison["num_cases"] == 5
    dice = comparison["differences"]["liver"]["dice"]
    assert dice["mean"] == pytest.approx(0.2)
    assert dice["num_pairs"] == 5
    assert [(case["case"], case["difference"]) for case in dice["changed_most"]] == [
        ("c4", 0.4),
        ("c3", 0.3),
        ("c2", 0.2),
        ("c1", 0.1),
    ]
    assert (dice["changed_most"][0]["a"], dice["changed_most"][0]["b"]) == (0.5, 0.9)
    assert comparison["differences"]["liver"]["hd95_mm"]["mean"] == pytest.approx(-2)
    assert comparison["other_references"] == []
    # the references are those of the labels, not of a model
    assert "reference_volume_ml" not in comparison["differences"]["liver"]


def test_a_pair_needs_both(files):
    tumour = compare_files(*files)["differences"]["tumour"]
    assert (tumour["dice"]["num_pairs"], tumour["dice"]["num_left_out"]) == (5, 0)
    assert (tumour["hd95_mm"]["num_pairs"], tumour["hd95_mm"]["num_left_out"]) == (4, 1)
    assert (tumour["nsd"]["num_pairs"], tumour["nsd"]["num_left_out"]) == (0, 0)
    assert tumour["nsd"]["mean"] is tumour["nsd"]["p_value"] is tumour["nsd"]["ci95"] is None


def pairs(differences):
    return {f"c{i}": (0.5, 0.5 + value) for i, value in enumerate(differences)}


def test_the_signed_rank_test_is_exact_for_few_pairs():
    # all of six in one direction: two of 2^6 signs
    assert paired_difference(pairs([0.1, 0.2, 0.3, 0.15, 0.25, 0.05]))["p_value"] == 2 / 64
    # the smallest of five the other way: signs with a rank sum of at most 1 are 2 of 32, at either side
    assert paired_difference(pairs([0.2, 0.3, 0.4, 0.5, -0.1]))["p_value"] == 4 / 32


@pytest.mark.parametrize("count", [1, 5, 60])
def test_equal_pairs_are_no_difference(count):
    same = paired_difference(pairs([0.0] * count))
    assert (same["mean"], same["p_value"], same["changed_most"]) == (0, 1, [])


def test_the_interval_is_that_of_pairs():
    rng = np.random.default_rng(0)
    level = rng.random(200)
    gain = 0.02 + rng.normal(0, 0.01, 200)
    found = paired_difference({str(i): (level[i], level[i] + gain[i]) for i in range(200)})
    half = 1.96 * gain.std() / np.sqrt(200)
    # the spread of cases, ten times as large, does not matter
    assert found["ci95"] == pytest.approx([gain.mean() - half, gain.mean() + half], abs=0.2 * half)
    assert found["p_value"] < 1e-6


def test_what_got_worse_changed_too():
    found = paired_difference(pairs([0.1, -0.3, 0.2, -0.2]))["changed_most"]
    assert [case["case"] for case in found] == ["c1", "c2", "c3", "c0"]


def test_rounding_is_no_difference():
    # 0.1 + 0.2 is not 0.3, and 0.3 - 0.2 not 0.1
    found = paired_difference({"a": (0.3, 0.1 + 0.2), "b": (0.1, 0.3 - 0.2)})
    assert found["p_value"] == 1 and found["changed_most"] == []


def test_cases_of_one_file_only_are_named(files, tmp_path):
    more = {f"c{i}": [row(0.5), row(0.3)] for i in (1, 3, 7)}
    comparison = compare_files(files[0], save(tmp_path / "c.json", more))
    assert comparison["num_cases"] == 2
    assert (comparison["only_in_a"], comparison["only_in_b"]) == (["c0", "c2", "c4"], ["c7"])
    text = format_comparison(comparison)
    assert "only in A, left out: c0, c2, c4" in text and "only in B, left out: c7" in text


def test_other_labels_are_noticed(files, tmp_path):
    other = {"c1": [row(0.5), row(0.3)], "c2": [row(0.5), row(0.3, reference_ml=2.5)]}
    comparison = compare_files(files[0], save(tmp_path / "c.json", other))
    assert comparison["other_references"] == ["c2"]
    assert "scored on different reference labels: c2" in format_comparison(comparison)


def test_scores_without_measures_have_their_dice(files, tmp_path):
    old = json.loads(files[0].read_text())
    for key in ("measures", "statistics", "nsd_tolerance_mm"):
        del old[key]
    write_json(tmp_path / "old.json", old)
    liver = compare_files(tmp_path / "old.json", files[1])["differences"]["liver"]
    assert liver["dice"]["mean"] == pytest.approx(0.2)
    assert liver["hd95_mm"]["num_pairs"] == 0
    # as in the summary of a cross-validation
    cases = {case: {"fold": 0, "dice": dice} for case, dice in old["cases"].items()}
    write_json(tmp_path / "summary.json", {"cases": cases})
    liver = compare_files(tmp_path / "summary.json", files[1])["differences"]["liver"]
    assert liver["dice"]["mean"] == pytest.approx(0.2)


def test_the_table(files):
    lines = format_comparison(compare_files(*files)).splitlines()
    assert lines[:2] == [f"A: {files[0]}", f"B: {files[1]}"]
    assert lines[2] == "B - A, paired by case: 5 cases in both"
    assert lines[4].startswith("liver") and "p (Wilcoxon)" in lines[4]
    assert lines[5].split()[:2] == ["dice", "0.200"] and lines[5].split()[-1] == "5"
    assert "Dice of c4: 0.5000 -> 0.9000" in lines
    assert not any(line.startswith("nsd") for line in lines)


def verdict_of(differences, tmp_path):
    cases = [
        {f"c{i}": [row(0.5 + value)] for i, value in enumerate(values)} for values in differences
    ]
    files = [save(tmp_path / f"{i}.json", rows, names=NAMES[:2]) for i, rows in enumerate(cases)]
    comparison = compare_files(*files)
    verdict = comparison["verdict"]["liver"]
    assert f"liver: {verdict}" in format_comparison(comparison).splitlines()
    return verdict, comparison["differences"]["liver"]["dice"]["smallest_p_value"]


def test_the_verdict_says_what_the_test_can_show(tmp_path):
    steps = [i / 100 for i in range(1, 8)]
    better, smallest = verdict_of([[0] * 7, steps], tmp_path)
    assert better.startswith("B is better: B - A is 0.040 [") and smallest == 2 / 2**7
    worse, _ = verdict_of([steps, [0] * 7], tmp_path)
    assert worse.startswith("A is better: B - A is -0.040 [")
    mixed, _ = verdict_of([[0] * 7, [0.01, -0.02, 0.03, -0.04, 0.05, -0.06, 0.005]], tmp_path)
    assert mixed.startswith("no difference shown") and mixed.endswith(
        "This does not show that A and B are equal."
    )
    few, smallest = verdict_of([[0] * 5, steps[:5]], tmp_path)
    assert few.startswith("the test cannot show a difference") and smallest == 2 / 2**5
    assert "cannot fall below 0.062 here" in few
    # pairs that are equal do not count for the test
    same, smallest = verdict_of([[0] * 7, [0] * 4 + steps[:3]], tmp_path)
    assert same.startswith("the test cannot show a difference") and smallest == 2 / 2**3
    equal, smallest = verdict_of([[0] * 3, [0] * 3], tmp_path)
    assert (equal, smallest) == ("A and B are equal in 3 pairs.", 1)


# --- refusals


def test_other_cases_are_refused_by_name(files, tmp_path):
    other = save(tmp_path / "c.json", {f"d{i}": [row(0.5), row(0.3)] for i in range(7)})
    message = (
        r"the files share no case: .* has c0, c1, c2, c3, c4, .* has d0, d1, d2, d3, d4 and 2 more"
    )
    with pytest.raises(ConfigError, match=message):
        compare_files(files[0], other)


def test_other_classes_are_refused_by_name(files, tmp_path):
    other = save(tmp_path / "c.json", {"c0": [row(0.5)]}, names=["background", "spleen"])
    with pytest.raises(
        ConfigError, match="the files share no class: .* has liver, tumour, .* has spleen"
    ):
        compare_files(files[0], other)


def test_another_tolerance_is_refused(files, tmp_path):
    other = save(tmp_path / "c.json", {"c0": [row(0.5), row(0.3)]}, tolerance_mm=2.0)
    with pytest.raises(
        ConfigError, match=r"NSD tolerance is 1.0 mm in .* 2.0 mm in .*--nsd_tolerance_mm"
    ):
        compare_files(files[0], other)


@pytest.mark.parametrize("content", ["[]", "{}", '{"cases": [1]}', '{"cases": {"a": 1}}', "{"])
def test_what_is_no_scores_is_named(files, tmp_path, content):
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(ConfigError, match=r"bad\.json"):
        compare_files(files[0], tmp_path / "bad.json")


def test_the_script(files, tmp_path):
    out = tmp_path / "new" / "comparison.json"
    result = run_script("compare", files[0].parent, files[1], "--output", out)
    assert result.returncode == 0, result.stderr
    assert "B - A, paired by case: 5 cases in both" in result.stdout

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    saved = json.loads(out.read_text(), parse_constant=refuse)
    assert saved["differences"]["tumour"]["hd95_mm"]["num_pairs"] == 4
    result = run_script("compare", files[0], tmp_path / "none.json")
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and "none.json does not exist" in result.stderr
