"""Tables as text, for terminals and logs."""

from collections.abc import Collection, Sequence

from dynunet_bundle.terminal import printable

GAP = "  "


def text_table(
    rows: Sequence[Sequence[str]], left: Collection[int] = (0,), max_width: int | None = None
) -> list[str]:
    """Rows as lines with aligned columns, two spaces apart, without trailing spaces; cells are made printable.

    Args:
        rows: rows with the same number of cells; a header is an ordinary row.
        left: indices of left-aligned columns, the first by default; the others are right-aligned.
        max_width: largest column width in characters, or None. A longer cell shifts the rest of its row.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
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
        value: the number, or None if undefined.
        form: format specification, see ``format``.
        missing: text for None.
    """
    return missing if value is None else format(value, form)
