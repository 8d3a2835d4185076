"""Rows of delimited text, as programs and spreadsheets save it: commas, semicolons or tabs, with or without a BOM."""

import csv
from collections.abc import Collection, Iterator, Sequence
from typing import TextIO

from dogscats.base.errors import UserError, first_line

SEPARATORS = ",;\t"

ENCODING = "utf-8-sig"
"""UTF-8, with or without the mark that Excel puts in front."""


def text_rows(lines: TextIO, name: str, known: Collection[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the rows of a table, header first, without empty ones: where a row is, such as `line 3`, and its cells.

    Args:
        lines: the text, seekable, in `ENCODING` and opened with `newline=""`.
        name: name of the table in messages.
        known: usual names of columns, by which the separator is found.

    Raises:
        UserError: if it is not such text.
    """
    try:
        first = next((line for line in lines if line.strip()), "")
        if not (excels := first.lower().startswith("sep=")):  # Excel's line for the separator
            lines.seek(0)
        separator = first[4:5] if excels else max(SEPARATORS, key=lambda each: _columns_known(first, each, known))
        reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield f"line {reader.line_num}", cells
    except UnicodeError as error:
        raise UserError(f"{name}: it is not text in UTF-8 ({first_line(error)}). Save it as CSV in UTF-8.") from error
    except csv.Error as error:
        raise UserError(f"{name}: line {reader.line_num}: it is not CSV ({error}). Save the table again.") from error


def _columns_known(line: str, separator: str, known: Collection[str]) -> tuple[int, int]:
    """Count the columns with usual names, and all columns, that a header has with a separator."""
    cells = [cell.strip(' "\r\n').lower() for cell in line.split(separator)]
    return sum(cell in known for cell in cells), len(cells)


def check_width(name: str, where: str, cells: Sequence[str], header: Sequence[str]) -> None:
    """Refuse a row with fewer or more columns than the header.

    Raises:
        UserError: with the table and the row.
    """
    if len(cells) < len(header) or any(cells[len(header) :]):
        raise UserError(
            f"{name}: {where}: it has {len(cells)} columns, but the header has {len(header)}. Quote text with the "
            "separator in it."
        )
