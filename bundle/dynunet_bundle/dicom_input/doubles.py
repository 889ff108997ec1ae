"""Several images at one position: duplicates, or a series of several stacks (echoes, times, b-values)."""

import logging
from collections.abc import Callable, Mapping, Sequence

from dynunet_bundle.dicom_input.frames import STACK_TAGS, Frame, as_text
from dynunet_bundle.dicom_input.geometry import by_position
from dynunet_bundle.errors import CaseError, some_of

SAME_POSITION_MM = 0.01  # distance along the normal below which two images have the same position

logger = logging.getLogger(__name__)


def selected(case: str, frames: Sequence[Frame], select: Mapping[str, str]) -> list[Frame]:
    """Frames whose tags have the values of ``select``.

    Raises:
        CaseError: if there are none; it lists the values that occur.
    """
    left = list(frames)
    for tag, value in select.items():
        values = _values(left, tag)
        left = [frame for frame in left if frame.tags.get(tag) == as_text(value)]
        if not left:
            raise CaseError(
                case,
                f"no image has {tag}={as_text(value)}; its values are {some_of(values) or 'missing'}",
                f"Select one of these, or another tag of {', '.join(STACK_TAGS)}.",
            )
    return left


def drop_doubles(
    case: str, frames: Sequence[Frame], digests: Callable[[Sequence[Frame]], Sequence[str]]
) -> list[Frame]:
    """Keep one image at each position, if all images at the position are identical.

    Args:
        case: name for errors.
        frames: frames of equal size, spacing and orientation.
        digests: returns a digest of the pixels of each frame; only called for positions with several images.

    Returns:
        Frames in order of position.

    Raises:
        CaseError: if images at one position differ; it names the tags that split them into stacks.
    """
    groups = _by_place(frames)
    crowded = [frame for group in groups if len(group) > 1 for frame in group]
    if not crowded:
        return [group[0] for group in groups]
    shown = dict(zip(map(id, crowded), digests(crowded), strict=True))
    for number, group in enumerate(groups):
        if len({shown.get(id(frame)) for frame in group}) > 1:
            raise _differing(case, groups, number)
    logger.warning("%s: dropped %d duplicate images of the series", case, len(frames) - len(groups))
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
            f"it has several stacks, {where}, which differ in {choices}",
            f'Choose one with the rule "select", e.g. {{"{first}": "{_values(frames, first)[0]}"}}.',
        )
    sizes = {len(group) for group in groups}
    if min(sizes) > 1:
        complete = "" if len(sizes) == 1 else ", not all of them complete"
        return CaseError(
            case,
            f"it has {where}: {max(sizes)} time points{complete}, or other repetitions, and no tag splits them into "
            "stacks",
            "Export one time point as a series of its own. Or convert the series with dcm2niix and pass one volume of "
            "the result as NIfTI.",
        )
    return CaseError(
        case,
        f"it has {where}: those at position {number + 1} differ, and no tag splits them into stacks",
        "Remove the wrong images.",
    )


def _parts(tag: str, groups: Sequence[Sequence[Frame]]) -> bool:
    """Whether the values of a tag split the images into stacks with exactly one image at each position."""
    stacks = [sorted(frame.tags.get(tag, "") for frame in group) for group in groups]
    return all(stack == stacks[0] for stack in stacks) and len(set(stacks[0])) == len(stacks[0])


def selection_hint(frames: Sequence[Frame]) -> str:
    """A tag that may split an irregular series into stacks, as a sentence; empty if no tag has few enough values."""
    for tag in STACK_TAGS:
        values = _values(frames, tag)
        if 1 < len(values) <= len(frames) // 2:
            return f' Or choose one stack with the rule "select": {tag} ({some_of(values)}).'
    return ""


def _values(frames: Sequence[Frame], tag: str) -> list[str]:
    return sorted({frame.tags[tag] for frame in frames if tag in frame.tags}, key=_as_number)


def _as_number(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return float("inf"), text
