"""Colours of classes: the same in curves, previews, reports and DICOM objects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from PIL import ImageColor

BASE_COLOURS = ("#56b4e9", "#e69f00", "#cc79a7", "#f0e442", "#009e73", "#d55e00", "#0072b2")
"""Those of Okabe and Ito (Color Universal Design, 2008), which people with any colour vision can tell apart; on grey
pictures the light ones come first, and black is left out."""

PALE, DEEP = 0.55, 0.45
"""Shares of white and of black in the second and third round of them, where there are more classes."""

WHITE, BLACK = (255, 255, 255), (0, 0, 0)
HEX_DIGITS = "#{:02x}{:02x}{:02x}"


def _mixed(colour: str, other: tuple[int, int, int], share: float) -> str:
    levels = zip(ImageColor.getrgb(colour), other, strict=False)
    return HEX_DIGITS.format(*(round(own * (1 - share) + new * share) for own, new in levels))


COLOURS = (
    *BASE_COLOURS,
    *(_mixed(colour, WHITE, PALE) for colour in BASE_COLOURS),
    *(_mixed(colour, BLACK, DEEP) for colour in BASE_COLOURS),
)
"""Distinct for this many classes; then they begin anew."""

RGB_COLOURS = tuple(ImageColor.getrgb(colour)[:3] for colour in COLOURS)
"""The same as levels of 0 to 255."""


@dataclass(frozen=True)
class ClassColours:
    """Which colour and name each class has, the same in all pictures of a page.

    Attributes:
        names: name of each label value but the background's, in the order in which they get their colours.
    """

    names: Mapping[int, str] = field(default_factory=dict)

    def colour(self, value: int) -> str:
        """Colour of a label value, as ``#rrggbb``; of values without a name by their size."""
        known = list(self.names)
        place = known.index(value) if value in self.names else len(known) + value - 1
        return COLOURS[place % len(COLOURS)]

    def legend(self, values: Sequence[int]) -> list[tuple[str, str]]:
        """Name and colour of some values, those with names first in their order."""
        known = [value for value in self.names if value in values]
        others = sorted(set(values) - set(known))
        return [(self.names.get(value, str(value)), self.colour(value)) for value in known + others]
