"""Several images at one position: the same one twice, or a series of several stacks (echoes, times, b-values)."""

import logging
from collections.abc import Callable, Mapping, Sequence

from dynunet_bundle.dicom_input.frames import STACK_TAGS, Frame, as_text
from dynunet_bundle.dicom_input.geometry import by_position
from dynunet_bundle.errors import CaseError, some_of

SAME_POSITION_MM = 0.01

logger = logging.getLogger(__name__)


def selected(case: str, frames: Sequence[Frame], select: Mapping[str, str]) -> list[Frame]:
    """Frames whose tags have the wanted values.

    Raises:
        CaseError: if there are none, listing the values that there are.
    """
    left = list(frames)
    for tag, value in select.items():
        values = _values(left, tag)
        left = [frame for frame in left if frame.tags.get(tag) == as_text(value)]
        if not left:
            raise CaseError(
                case,
                f"no image has {tag}={as_text(value)}; there are {some_of(values) or 'no values of it'}",
                f"Select one of these, or another of {', '.join(STACK_TAGS)}.",
            )
    return left


def drop_doubles(
    case: str, frames: Sequence[Frame], digests: Callable[[Sequence[Frame]], Sequence[str]]
) -> list[Frame]:
    """Keep one image at each position, where all that lie there show the same.

    Args:
        case: name for errors.
        frames: uniform ones.
        digests: gives for each frame what tells whether two show the same; called where it matters only.

    Returns:
        Frames in order of position.

    Raises:
        CaseError: if images at one position differ, naming the tag that parts them into stacks.
    """
    groups = _by_place(frames)
    crowded = [frame for group in groups if len(group) > 1 for frame in group]
    if not crowded:
        return [group[0] for group in groups]
    shown = dict(zip(map(id, crowded), digests(crowded), strict=True))
    for number, group in enumerate(groups):
        if len({shown.get(id(frame)) for frame in group}) > 1:
            raise _differing(case, groups, number)
    logger.warning(
        "%s: dropped %d images that are in the series twice", case, len(frames) - len(groups)
    )
    return [group[0] for group in groups]


def _by_place(frames: Sequence[Frame]) -> list[list[Frame]]:
    ordered = by_position(frames)
    normal = ordered[0].normal
    groups = [[ordered[0]]]
    for before, frame in zip(ordered, ordered[1:], strict=False):
        if float((frame.position - before.position) @ normal) < SAME_POSITION_MM:
            groups[-1].append(frame)
        else:
            groups.append([frame])
    return groups


def _differing(case: str, groups: Sequence[Sequence[Frame]], number: int) -> CaseError:
    frames = [frame for group in groups for frame in group]
    parting = [tag for tag in STACK_TAGS if _parts(tag, groups)]
    where = f"{len(frames)} images at {len(groups)} positions"
    if parting:
        choices = " or ".join(f"{tag} ({some_of(_values(frames, tag))})" for tag in parting[:3])
        first = parting[0]
        return CaseError(
            case,
            f"it holds several stacks, {where}, which differ in {choices}",
            f'Choose one by the rule "select", as {{"{first}": "{_values(frames, first)[0]}"}}.',
        )
    return CaseError(
        case,
        f"it holds {where}: those at position {number + 1} differ, and no tag parts them into stacks",
        "Take out the wrong ones.",
    )


def _parts(tag: str, groups: Sequence[Sequence[Frame]]) -> bool:
    """Whether the values of a tag part the images into stacks with one image at each position, on all positions."""
    stacks = [sorted(frame.tags.get(tag, "") for frame in group) for group in groups]
    return all(stack == stacks[0] for stack in stacks) and len(set(stacks[0])) == len(stacks[0])


def selection_hint(frames: Sequence[Frame]) -> str:
    """What a series that is no regular stack could be parted by; nothing where no tag has few values."""
    for tag in STACK_TAGS:
        values = _values(frames, tag)
        if 1 < len(values) <= len(frames) // 2:
            return f' Or choose a part of it by the rule "select": {tag} ({some_of(values)}).'
    return ""


def _values(frames: Sequence[Frame], tag: str) -> list[str]:
    return sorted({frame.tags[tag] for frame in frames if tag in frame.tags}, key=_as_number)


def _as_number(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return float("inf"), text
