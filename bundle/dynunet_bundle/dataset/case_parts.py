"""A part of the cases, for several predictions that share the work, as nnU-Net's ``-num_parts`` and ``-part_id``.

Stored on disk: the names of parts, in the names of lock files.
"""

from collections.abc import Sequence

from dynunet_bundle.dataset.cases import Case
from dynunet_bundle.errors import ConfigError, counted

Part = Sequence[int]
"""Number of a part, from 0, and the number of parts."""


def part_name(part: Part) -> str:
    """``[0, 2]`` as text.

    Raises:
        ConfigError: if there is no such part.
    """
    number, num_parts = part
    if not 0 <= number < num_parts:
        raise ConfigError(
            f"there is no part {number} of {num_parts}. Pass a --part_id from 0 to {num_parts - 1}."
        )
    return f"part_{number}_of_{num_parts}"


def cases_of_part(cases: Sequence[Case], part: Part | None) -> list[Case]:
    """Every ``num_parts``-th case, nnU-Net's ``cases[part_id::num_parts]``; all if there are no parts.

    Raises:
        ConfigError: if there is no such part, or it has no cases.
    """
    if part is None:
        return list(cases)
    name, (number, num_parts) = part_name(part), part
    if number >= len(cases):
        raise ConfigError(
            f"{name.replace('_', ' ')} has no cases: there are {counted(len(cases), 'case')}. Pass a --num_parts of at "
            f"most {len(cases)}."
        )
    return list(cases[number::num_parts])
