"""Colours of classes in curves, previews, reports and DICOM objects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from PIL import ImageColor

BASE_COLOURS = ("#56b4e9", "#e69f00", "#cc79a7", "#f0e442", "#009e73", "#d55e00", "#0072b2")
"""Colour-blind-safe palette of Okabe and Ito (Color Universal Design, 2008), light colours first and without black, for
grey pictures."""

PALE, DEEP = 0.55, 0.45
"""Shares of white and of black in the second and third set of colours, used if there are more classes."""

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
"""All colours, as ``#rrggbb``. With more classes than colours, they repeat."""

RGB_COLOURS = tuple(ImageColor.getrgb(colour)[:3] for colour in COLOURS)
"""The same colours as levels from 0 to 255."""


def class_colour(number: int) -> str:
    """Colour of a class by its number (background 0, then in the order of ``label_names``), as ``#rrggbb``."""
    return COLOURS[(number - 1) % len(COLOURS)]


@dataclass(frozen=True)
class ClassColours:
    """Colour and name of each class, the same in all pictures of a page.

    Attributes:
        names: names by label value without the background, in the order of colours.
    """

    names: Mapping[int, str] = field(default_factory=dict)

    def colour(self, value: int) -> str:
        """Colour of a label value, as ``#rrggbb``; a value without a name selects a colour after the named ones."""
        known = list(self.names)
        place = known.index(value) if value in self.names else len(known) + value - 1
        return class_colour(place + 1)

    def legend(self, values: Sequence[int]) -> list[tuple[str, str]]:
        """Names and colours of label values: those with names in their order, then the others."""
        known = [value for value in self.names if value in values]
        others = sorted(set(values) - set(known))
        return [(self.names.get(value, str(value)), self.colour(value)) for value in known + others]
