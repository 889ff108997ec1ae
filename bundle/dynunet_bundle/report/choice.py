"""The cases that a page shows with pictures: flagged ones first, then those with the lowest and the highest Dice."""

from collections.abc import Mapping, Sequence

from dynunet_bundle.errors import ConfigError, some_of
from dynunet_bundle.report.content import CASE_GRADES, Content, find_file

NUM_SHOWN = 6
BEST_SHARE = 3
"""Of the cases chosen by Dice, one in this many has a high Dice, the others a low one."""

MAX_RANKED_SHARE = 3
"""At most one case in this many is labelled worst, and one in this many best: of five cases, four are not all worst."""

MAX_WORST, MAX_BEST = 4, 2
ALL = "all"


def drawable_cases(content: Content) -> list[str]:
    """Cases that have a mask."""
    return [case for case in content.cases if find_file(content.masks, case) is not None]


def chosen_cases(content: Content, wanted: Sequence[str] = ()) -> dict[str, str]:
    """The cases to show, the worst grade first, each with its rank: worst, best or empty.

    Args:
        content: scores and run.
        wanted: names of cases; or one number of cases, or ``all``. Empty for six cases.

    Raises:
        ConfigError: if a name is not that of a case with a mask.
    """
    drawable = drawable_cases(content)
    dice = {case: mean for case in drawable if (mean := content.mean_dice(case)) is not None}
    ranks = ranks_of(dice)
    # without scores, more flags come first
    order = sorted(
        drawable,
        key=lambda case: (
            CASE_GRADES.index(_grade_of_flags(content, case)),
            dice.get(case, 2.0),
            -len(content.flags(case)),
        ),
    )
    if wanted and not _is_number(wanted, drawable):
        unknown = [case for case in wanted if case not in drawable]
        if unknown:
            raise ConfigError(
                f"--cases names {some_of(unknown)}, but the cases with a mask are {some_of(drawable)}. "
                "Pass names of cases, a number, or all."
            )
        return {case: ranks.get(case, "") for case in order if case in wanted}
    number = NUM_SHOWN if not wanted else len(order) if wanted[0] == ALL else int(wanted[0])
    flagged = [case for case in order if content.flags(case)][:number]
    others = [case for case in order if case not in flagged]
    left = number - len(flagged)
    if dice and left < len(others):
        num_best = left // BEST_SHARE
        others = others[: left - num_best] + others[len(others) - num_best :]
    return {case: ranks.get(case, "") for case in (flagged + others[:left])}


def _grade_of_flags(content: Content, case: str) -> str:
    """A failed case has a table of its own; a mask of it may be that of an earlier run."""
    flags = content.flags(case)
    return flags[0].grade if flags else ""


def _is_number(wanted: Sequence[str], cases: Sequence[str]) -> bool:
    first = wanted[0]
    return len(wanted) == 1 and first not in cases and (first == ALL or first.isdecimal())


def ranks_of(scores: Mapping[str, float]) -> dict[str, str]:
    """All cases by ascending score, each with its rank: worst, best or empty."""
    ranked = sorted(scores, key=lambda case: scores[case])
    differ = len(set(scores.values())) > 1
    most = len(ranked) // MAX_RANKED_SHARE if differ else 0
    worst, best = min(MAX_WORST, most), min(MAX_BEST, most)
    ranks = dict.fromkeys(ranked[:worst], "worst") | dict.fromkeys(
        ranked[len(ranked) - best :], "best"
    )
    return {case: ranks.get(case, "") for case in ranked}
