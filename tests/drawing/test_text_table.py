"""Text tables: aligned columns, names on the left, numbers on the right."""

from dynunet_bundle.drawing.text_table import number_cell, text_table


def test_columns_are_as_wide_as_their_longest_cell():
    rows = [["case", "liver", ""], ["a", number_cell(0.5), "best"], ["long_name", "-", ""]]
    assert text_table(rows, left=(0, 2)) == [
        "case        liver",
        "a          0.5000  best",
        "long_name       -",
    ]


def test_a_cell_beyond_the_widest_column_moves_its_own_row_only():
    rows = [["a", "x" * 6, "1"], ["b", "y", "2"]]
    assert text_table(rows, left=range(3), max_width=4) == ["a  xxxxxx  1", "b  y     2"]


def test_no_rows_are_no_lines():
    assert text_table([]) == []


def test_a_number_has_its_format_or_a_dash():
    assert number_cell(0.25, ".1%") == "25.0%"
    assert number_cell(None) == "-"
    assert number_cell(None, "d", "none") == "none"
