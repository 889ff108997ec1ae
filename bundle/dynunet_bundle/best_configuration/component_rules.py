"""Decide from out-of-fold masks which classes to reduce to their largest component, as nnU-Net does.

First all foreground together: only its largest component is kept if that improves the mean Dice and worsens no class.
Then each class in turn, or each region in the plan's order, on masks with the accepted rules applied: the rule is
accepted if the class's own Dice improves. A plan with one class needs only the first step. This is
``determine_postprocessing`` of nnunetv2 2.8.1.

The Dice is that of ``dice_by_target``: a class in neither mask does not count, a class in only one mask counts as 0.
nnU-Net averages over cases in the same way. One difference: if a class has no value in any case, nnU-Net's mean over
classes is undefined and its first rule is never accepted; here the other classes decide.
"""

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dynunet_bundle.drawing.text_table import number_cell, text_table
from dynunet_bundle.errors import counted
from dynunet_bundle.evaluation.dice import dice_by_target
from dynunet_bundle.evaluation.scores import mean_of, summarize
from dynunet_bundle.images.boxes import bounding_box
from dynunet_bundle.labels.largest_component import keep_largest
from dynunet_bundle.labels.scheme import IGNORE_CLASS, LabelScheme
from dynunet_bundle.terminal import progress

ALL_FOREGROUND = "all foreground"

DiceRow = list[float | None]
"""Dice by class or region of one case."""


class PackedPair:
    """Prediction and reference of a case, cropped to the foreground of either and compressed.

    Each rule needs all cases. In this form a large data set fits into memory, and the cropped background does not
    affect any Dice.

    Args:
        prediction: class numbers ``[X, Y, Z]`` uint8.
        reference: class numbers ``[X, Y, Z]`` uint8, with ``IGNORE_CLASS`` at ignored voxels.
    """

    def __init__(self, prediction: np.ndarray, reference: np.ndarray) -> None:
        foreground = (reference > 0) & (reference != IGNORE_CLASS)
        box = bounding_box((prediction > 0) | foreground) or (slice(0, 1),) * prediction.ndim
        self._shape = prediction[box].shape
        self._reference = _packed(reference[box])
        self._prediction = _packed(prediction[box])

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Cropped prediction (a writable copy) and reference (read-only)."""
        return (
            self._unpacked(self._prediction).copy(),
            self._unpacked(self._reference),
        )

    def replace(self, prediction: np.ndarray) -> None:
        """Replace the prediction by another of the same shape."""
        self._prediction = _packed(prediction)

    def _unpacked(self, content: bytes) -> np.ndarray:
        return np.frombuffer(zlib.decompress(content), np.uint8).reshape(self._shape)


def _packed(array: np.ndarray) -> bytes:
    return zlib.compress(array.astype(np.uint8).tobytes(), level=1)


def decide_rules(
    cases: Iterable[tuple[str, np.ndarray, np.ndarray]],
    labels: LabelScheme,
) -> dict[str, Any]:
    """Decide which rules improve out-of-fold masks.

    Args:
        cases: name, prediction and reference of each case: class numbers ``[X, Y, Z]`` uint8, the prediction by a model
            that was not trained on the case, the reference with ``IGNORE_CLASS`` at ignored voxels.
        labels: the plan's labels.

    Returns:
        JSON data: ``keep_largest``, the accepted rules in label values as ``KeepLargestd`` takes them; ``steps``, every
        rule tried, with its target, the Dice before and after, the number of changed cases and whether it was ``kept``;
        ``before`` and ``after`` all accepted rules, each with ``mean`` by class and ``mean_dice``; ``num_cases``.
    """
    pairs = {name: PackedPair(prediction, reference) for name, prediction, reference in cases}
    before = _score(pairs, labels)
    steps = [_try_all(pairs, labels, before)]
    if len(labels.target_classes) > 1:
        # classes do not overlap, so a rule for one cannot change another's Dice: one pass over the cases is enough
        numbers = range(len(labels.target_classes))
        groups = [[number] for number in numbers] if labels.sigmoid else [list(numbers)]
        for group in groups:
            steps += _try_targets(pairs, labels, group)
    return {
        "keep_largest": [step["values"] for step in steps if step["kept"]],
        "num_cases": len(pairs),
        "before": _means(before),
        "after": _means(_score(pairs, labels)),
        "steps": steps,
    }


def format_rules(decision: Mapping[str, Any]) -> str:
    """The decision as text for a terminal: one line per rule tried, and one for the result."""
    lines = [
        f"keep only the largest component, by Dice of {counted(decision['num_cases'], 'case')}?"
    ]
    rows = []
    for step in decision["steps"]:
        old, new = (number_cell(step[part]["mean_dice"]) for part in ("before", "after"))
        verdict = "yes" if step["kept"] else "no"
        worse = f", worse: {', '.join(step['worse'])}" if step["worse"] else ""
        rows.append([step["target"], f"{old} -> {new}", f"{verdict}{worse}"])
    lines += text_table(rows, left=range(3))
    old, new = (number_cell(decision[part]["mean_dice"]) for part in ("before", "after"))
    lines.append(f"mean Dice {old} -> {new} with keep_largest {decision['keep_largest']}")
    return "\n".join(lines)


def _try_all(
    pairs: Mapping[str, PackedPair], labels: LabelScheme, before: Mapping[str, Any]
) -> dict[str, Any]:
    """Try the rule for all foreground together, by the means of all targets."""
    rows: dict[str, DiceRow] = {}
    num_changed, foreground = 0, range(1, len(labels.values))
    for name, pair in _each(pairs, ALL_FOREGROUND):
        prediction, reference = pair.arrays()
        num_changed += bool(keep_largest(prediction, foreground))
        rows[name] = dice_by_target(prediction, reference, labels.target_classes)
    after = summarize(rows, labels.target_names)
    worse = [name for name, mean in after["mean"].items() if _less(mean, before["mean"][name])]
    kept = _less(before["mean_dice"], after["mean_dice"]) and not worse
    if kept:
        _apply(pairs, foreground)
    return {
        "target": ALL_FOREGROUND,
        "values": list(labels.values[1:]),
        "kept": kept,
        "num_changed": num_changed,
        "before": _means(before),
        "after": _means(after),
        "worse": worse,
    }


def _try_targets(
    pairs: Mapping[str, PackedPair], labels: LabelScheme, group: Sequence[int]
) -> list[dict[str, Any]]:
    """Try the rule for each target of a group, by its own Dice."""
    names, targets = labels.target_names[1:], labels.target_classes
    scores: dict[int, list[tuple[float | None, float | None]]] = {number: [] for number in group}
    changed = dict.fromkeys(group, 0)
    for _, pair in _each(pairs, names[group[0]] if len(group) == 1 else "each class"):
        prediction, reference = pair.arrays()
        old = dice_by_target(prediction, reference, [targets[number] for number in group])
        for number, score in zip(group, old, strict=True):
            classes, candidate, new = targets[number], prediction.copy(), score
            if keep_largest(candidate, classes):
                changed[number] += 1
                new = dice_by_target(candidate, reference, [classes])[0]
            scores[number].append((score, new))
    steps = []
    for number in group:
        means = [mean_of(column) for column in zip(*scores[number], strict=True)]
        kept = _less(*means)
        if kept:
            _apply(pairs, targets[number])
        steps.append(
            {
                "target": names[number],
                "values": [labels.values[index] for index in targets[number]],
                "kept": kept,
                "num_changed": changed[number],
                "before": {"mean_dice": means[0]},
                "after": {"mean_dice": means[1]},
                "worse": [],
            }
        )
    return steps


def _each(pairs: Mapping[str, PackedPair], what: str) -> Iterator[tuple[str, PackedPair]]:
    return progress(pairs.items(), f"largest component of {what}", total=len(pairs))


def _apply(pairs: Mapping[str, PackedPair], classes: Sequence[int]) -> None:
    for pair in pairs.values():
        prediction, _ = pair.arrays()
        if keep_largest(prediction, classes):
            pair.replace(prediction)


def _score(pairs: Mapping[str, PackedPair], labels: LabelScheme) -> dict[str, Any]:
    targets = labels.target_classes
    rows = {name: dice_by_target(*pair.arrays(), targets) for name, pair in pairs.items()}
    return summarize(rows, labels.target_names)


def _means(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {key: summary[key] for key in ("mean_dice", "mean")}


def _less(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and one < other
