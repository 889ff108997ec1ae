"""Tables as text, for a terminal and for logs."""

from collections.abc import Collection, Sequence

GAP = "  "


def text_table(
    rows: Sequence[Sequence[str]], left: Collection[int] = (0,), max_width: int | None = None
) -> list[str]:
    """Rows as lines with aligned columns, two blanks apart, without blanks at the end.

    Args:
        rows: the cells of each row, equally many; a head is a row like any other.
        left: columns with text on the left, the first by default; all others have it on the right.
        max_width: widest column in characters, or None. A longer cell moves the rest of its own row.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if max_width is not None:
        widths = [min(width, max_width) for width in widths]
    return [
        GAP.join(
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def number_cell(value: float | None, form: str = ".4f", missing: str = "-") -> str:
    """A number as text.

    Args:
        value: the number, or None where it is undefined.
        form: its format, see ``format``.
        missing: text in place of None.
    """
    return missing if value is None else format(value, form)
