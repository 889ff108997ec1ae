"""Find the best configuration, or pair of configurations, for a data set, by nnU-Net's rule.

Each run of the command ``train``, and each pair of runs with averaged probabilities, is scored out of fold. The highest
mean foreground Dice wins; of equal candidates the first wins, and single runs come before pairs, so that the simpler
one wins (``find_best_configuration.py`` of nnunetv2 2.8.1). Then ``component_rules`` decides the postprocessing of the
winner's masks.

Stored on disk: ``best.json``, ``best_overlay.json``, ``best_member_RUN.json`` and the folder ``best_scores``.
"""

import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynunet_bundle.best_configuration.candidates import (
    Candidate,
    ReferenceLabels,
    candidates_of,
    score_candidate,
)
from dynunet_bundle.best_configuration.component_rules import decide_rules, format_rules
from dynunet_bundle.best_configuration.run_results import RunResults, read_runs
from dynunet_bundle.dataset.cases import name_of
from dynunet_bundle.dataset.select import load_dataset
from dynunet_bundle.drawing.text_table import number_cell, text_table
from dynunet_bundle.errors import ConfigError, counted, some_of
from dynunet_bundle.evaluation.scores import summarize
from dynunet_bundle.files import ensure_writable, write_json
from dynunet_bundle.labels.scheme import LabelScheme
from dynunet_bundle.planning.plan import plan_from
from dynunet_bundle.terminal import printable, progress

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BestRequest:
    """Runs to compare.

    Attributes:
        runs: run folders, the simpler ones first.
        dataset_dir: the data set with the labels.
        out: the JSON to write; overlays and the scores of each candidate are written to the same folder.
        pairs: whether to try pairs.
    """

    runs: tuple[Path, ...]
    dataset_dir: Path
    out: Path
    pairs: bool = True


def find_best(request: BestRequest) -> dict[str, Any]:
    """Compare the candidates, decide, and write ``best.json``, its overlay and one overlay per run of the winner.

    Returns:
        The content of ``best.json``.

    Raises:
        BundleError: if the runs cannot be compared, or were trained on another data set.
    """
    runs = read_runs(request.runs)
    labels = _labels(request.dataset_dir, runs[0])
    ensure_writable(request.out.parent)
    candidates, left_out = candidates_of(runs, labels, request.pairs)
    cache_dir = request.out.with_name(f"{request.out.stem}_scores")
    names = labels.scheme.target_names
    summaries = [
        summarize(score_candidate(candidate, labels, cache_dir), names) for candidate in candidates
    ]
    best = choose_best([summary["mean_dice"] for summary in summaries])
    winner = candidates[best]
    rules = _decide_rules(winner, labels)
    content = {
        "metric": "Dice",
        "task_name": runs[0].plan.get("task_name"),
        "num_cases": len(runs[0].scores),
        "best": winner.name,
        "members": [_member(member) for member in winner.members],
        "keep_largest": rules["keep_largest"],
        "mean_dice": summaries[best]["mean_dice"],
        "mean_dice_with_rules": rules["after"]["mean_dice"],
        "candidates": [
            {
                "name": candidate.name,
                "mean_dice": summary["mean_dice"],
                "mean": summary["mean"],
                "num_cases": summary["num_cases"],
            }
            for candidate, summary in zip(candidates, summaries, strict=True)
        ],
        "left_out_of_pairs": left_out,
        "component_rules": rules,
    }
    write_json(request.out, content)
    write_json(overlay_path(request.out), {"keep_largest": rules["keep_largest"]})
    for member in winner.members:
        write_json(member_path(request.out, member.name), _member_overlay(member))
    return content


def choose_best(means: Sequence[float | None]) -> int:
    """Index of the highest mean Dice; the first of equal ones.

    Raises:
        ConfigError: if all are None.
    """
    known = [mean for mean in means if mean is not None]
    if not known:
        raise ConfigError(
            "no candidate has a Dice: all masks and labels are empty. Check the labels."
        )
    return list(means).index(max(known))


def overlay_path(out: Path) -> Path:
    """Path of the overlay with the rules: ``best_overlay.json`` in the folder of ``best.json``."""
    return out.with_name(f"{out.stem}_overlay.json")


def member_path(out: Path, name: str) -> Path:
    """Path of the overlay with plan and weights of one run of the winner."""
    return out.with_name(f"{out.stem}_member_{name}.json")


def _labels(dataset_dir: Path, first: RunResults) -> ReferenceLabels:
    cases = {name_of(case): case for case in load_dataset(dataset_dir).training}
    lacking = sorted(set(first.scores) - set(cases))
    if lacking:
        raise ConfigError(
            f"{dataset_dir} has no label of {some_of(lacking)}, on which {first.path} was scored. "
            "Pass the --dataset_dir that the runs were trained on."
        )
    files = {case: Path(cases[case]["label"]) for case in first.scores}
    return ReferenceLabels(files, LabelScheme.from_plan(first.plan))


def _decide_rules(winner: Candidate, labels: ReferenceLabels) -> dict[str, Any]:
    cases = list(winner.members[0].scores)
    pairs = (
        (case, *winner.compare(case, labels))
        for case in progress(cases, f"read {winner.name}", total=len(cases))
    )
    return decide_rules(pairs, labels.scheme)


def _member(member: RunResults) -> dict[str, Any]:
    weights = list(map(str, member.weights))
    return {"name": member.name, "run": str(member.path), "weights_file": weights}


def _member_overlay(member: RunResults) -> dict[str, Any]:
    """The plan and the weights of all folds, as an overlay for inference."""
    weights = list(map(str, member.weights))
    plan = plan_from(member.plan).overlay()
    if not weights:
        logger.warning("%s has no model left. Pass its weights when you predict.", member.path)
        return plan
    return {**plan, "weights_file": weights}


def format_best(content: Mapping[str, Any], out: Path) -> str:
    """A table of all candidates, the rules, and the commands to predict with the winner, for a terminal.

    Args:
        content: of ``best.json``.
        out: its path.
    """
    candidates = content["candidates"]
    names = [*candidates[0]["mean"], "mean"]
    rows = [["", *names, ""]]
    for candidate in candidates:
        values = [*candidate["mean"].values(), candidate["mean_dice"]]
        mark = "best" if candidate["name"] == content["best"] else ""
        rows.append([candidate["name"], *map(number_cell, values), mark])
    lines = [f"Dice in native space, out of fold, {counted(content['num_cases'], 'case')}"]
    lines += text_table(rows)
    lines += [
        printable(f"not in pairs: {name}: {reason}")
        for name, reason in content["left_out_of_pairs"].items()
    ]
    lines += ["", format_rules(content["component_rules"]), "", "predict with it:"]
    return "\n".join([*lines, *_commands(content, out)])


def _commands(content: Mapping[str, Any], out: Path) -> list[str]:
    rules = _quoted(overlay_path(out))
    overlays = {member["name"]: member_path(out, member["name"]) for member in content["members"]}
    predict = "    dynunet-bundle predict --input IMAGES"
    if len(overlays) == 1:
        (overlay,) = overlays.values()
        return [f"{predict} --output_dir MASKS --config_file {_quoted(overlay)} {rules}"]
    folders = {name: Path("OUT") / name for name in overlays}
    commands = [
        f"{predict} --output_dir {_quoted(folder)} --config_file {_quoted(overlays[name])} "
        f"--probabilities_dir {_quoted(folder / 'probabilities')}"
        for name, folder in folders.items()
    ]
    members = " ".join(_quoted(folder / "probabilities") for folder in folders.values())
    commands.append(
        f"    dynunet-bundle ensemble --members {members} --input IMAGES --output_dir MASKS "
        f"--config_file {rules}"
    )
    return commands


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
