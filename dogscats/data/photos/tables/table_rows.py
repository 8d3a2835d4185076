"""Rows of tables: delimited text, as programs and spreadsheets save it, lists, and Parquet files."""

import csv
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TextIO

from dogscats.base.errors import UserError, as_user_error, first_line
from dogscats.base.text import listed, shown
from dogscats.data.photos.split import TRUTHS
from dogscats.data.photos.tables.columns import COLUMNS, LIKELY, PATHS, find_columns, plain
from dogscats.data.photos.tables.parquet_table import ParquetTable, check_pointer

SEPARATORS = ",;\t"

NOT_UTF8 = "it is not text in UTF-8"

ZERO_OR_ONE = {text: kind == "valid" for kind, texts in TRUTHS.items() for text in texts}
"""Truth of the texts of cells of 0 and 1."""

ENCODING = "utf-8-sig"
"""UTF-8, with or without the mark that Excel puts in front."""


Lines = Iterator[tuple[str, list[str]]]
"""Rows of a table: where each is, such as `line 3`, and its cells."""


def labelled_rows(
    file: Path, name: str, chosen: Mapping[str, str] | None = None, most: int | None = None
) -> tuple[list[str], dict[str, int], Lines]:
    """Read a table of paths and labels. Columns of 0 and 1, one for each class, become a column of labels.

    Args:
        file: as for `table_rows`.
        name: its name in messages.
        chosen: names of columns, as in `find_columns`.
        most: number of rows after which to stop; `None` for all.

    Returns:
        The header; the number of each column by kind; and the rows.

    Raises:
        UserError: if it cannot be read, or columns are missing.
    """
    lines = table_rows(file, name, chosen)
    _, header = next(lines, ("", []))
    lines = islice(lines, most)
    columns = find_columns(name, header, ["path"], chosen=chosen)
    if "label" in columns:
        return header, columns, lines
    rows = list(lines)
    classes = [
        number
        for number in range(len(header))
        if number not in columns.values() and all(cells[number].strip().lower() in ZERO_OR_ONE for _, cells in rows)
    ]
    if len(classes) < 2 or not rows:
        find_columns(name, header, chosen=chosen)  # raises an error
    return header, {**columns, "label": len(header)}, _from_one_hot(name, header, classes, rows)


def _from_one_hot(
    name: str, header: Sequence[str], classes: Sequence[int], rows: Iterable[tuple[str, list[str]]]
) -> Lines:
    """Append the label of each row: the name of the only one of some columns that has 1."""
    for where, cells in rows:
        found = [header[number].strip() for number in classes if ZERO_OR_ONE[cells[number].strip().lower()]]
        if len(found) != 1:
            raise UserError(
                f"{name}: {where}: it has 1 in {len(found) or 'none'} of its columns of 0 and 1, "
                f"{listed([header[number] for number in classes], 5)}. A photo has one class: remove the row, or name "
                "a column of labels: data.columns={label: <column>}."
            )
        yield where, [*cells, *found]


def table_rows(file: Path, name: str, chosen: Mapping[str, str] | None = None) -> Lines:
    """Yield the rows of a table, header first: where a row is, such as `line 3`, and its cells.

    Args:
        file: file of the table, `.parquet` or text separated by commas, semicolons or tabs. A `.txt` may also be a list
            without a header: a path and a label in each line.
        name: its name in messages.
        chosen: names of columns, as in `find_columns`.

    Raises:
        UserError: if it cannot be read.
    """
    if file.suffix.lower() in (".xlsx", ".xls", ".ods"):
        raise UserError(f"{name}: spreadsheets are not read. Save it as CSV.")
    if file.suffix.lower() == ".parquet":
        yield from _parquet_rows(file, name, chosen)
        return
    check_pointer(file, name)
    with file.open(newline="", encoding=ENCODING) as lines:
        known = {*chain.from_iterable(COLUMNS.values()), *(chosen or {}).values()}
        if file.suffix.lower() == ".txt":
            with as_user_error(name, NOT_UTF8, "Save it in UTF-8.", UnicodeError):
                first = next((line for line in lines if line.strip()), "")
                lines.seek(0)
                if not any(_columns_known(first, separator, known)[0] for separator in SEPARATORS):
                    yield from _list_rows(lines, name)
                    return
        yield from text_rows(lines, name, known)


def _list_rows(lines: TextIO, name: str) -> Lines:
    """Yield the lines of a list without a header as rows of a table: `<path> <label>`."""
    yield "header", ["path", "label"]
    for number, line in enumerate(lines, 1):
        cells = re.split(r"\s*[,;\t]\s*", line.strip(), maxsplit=1)
        cells = cells if len(cells) > 1 else line.strip().rsplit(maxsplit=1)
        if len(cells) == 1:
            raise UserError(
                f"{name}: line {number}: it has no path and label, only {shown(cells[0])!r}. Give a table with the "
                "columns path and label. For photos in class folders, no list of classes is needed."
            )
        if cells and not (plain(cells[0]) in PATHS and number == 1):
            yield f"line {number}", cells


def is_empty(cell: str) -> bool:
    """Return whether a cell has nothing in it: also as pandas and spreadsheets write it."""
    return cell.strip().lower() in ("", "nan", "na", "n/a", "null", "<na>", "#n/a", "#ref!", "#value!")


def text_rows(lines: TextIO, name: str, known: Collection[str], may_be_short: bool = False) -> Lines:
    """Yield the rows of a table, header first, without empty ones: where a row is, such as `line 3`, and its cells.

    Args:
        lines: the text, seekable, in `ENCODING` and opened with `newline=""`.
        name: name of the table in messages.
        known: usual names of columns, by which the separator is found.
        may_be_short: whether cells at the end of a row may be missing; they are empty then.

    Raises:
        UserError: if it is not such text, or a row has fewer or more columns than the header.
    """
    header: list[str] = []
    try:
        first = next((line for line in lines if line.strip()), "")
        if not (excels := first.lower().startswith("sep=")):  # Excel's line for the separator
            lines.seek(0)
        separator = first[4:5] if excels else max(SEPARATORS, key=lambda each: _columns_known(first, each, known))
        reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            header = header or cells
            if may_be_short:
                cells += [""] * (len(header) - len(cells))
            if len(cells) < len(header) or any(cells[len(header) :]):
                raise UserError(
                    f"{name}: line {reader.line_num}: it has {len(cells)} columns, but the header has {len(header)}. "
                    "Quote text with the separator in it."
                )
            yield f"line {reader.line_num}", cells
    except UnicodeError as error:
        raise UserError(f"{name}: {NOT_UTF8} ({first_line(error)}). Save it as CSV in UTF-8.") from error
    except csv.Error as error:
        raise UserError(f"{name}: line {reader.line_num}: it is not CSV ({error}). Save the table again.") from error


def _columns_known(line: str, separator: str, known: Collection[str]) -> tuple[int, int]:
    """Count the columns with usual names, and all columns, that a header has with a separator."""
    cells = [plain(cell) for cell in line.split(separator)]
    usual = set(map(plain, known))
    named = [cell for cell in cells if cell in usual or any(likely.fullmatch(cell) for likely in LIKELY.values())]
    return len(named), len(cells)


def _parquet_rows(file: Path, name: str, chosen: Mapping[str, str] | None) -> Lines:
    """Yield the rows of a Parquet file, header first; without a column of labels, with those of numbers."""
    table = ParquetTable(file, name)
    yield "header", table.header
    columns = find_columns(name, table.header, ["path"], chosen=chosen)
    wanted = {table.header[index]: index for index in columns.values()}
    if "label" not in columns:
        wanted |= {column: index for index, column in enumerate(table.header) if column in table.numbers}
    for where, values in table.rows(list(wanted)):
        cells = [""] * len(table.header)
        for (column, index), value in zip(wanted.items(), values, strict=True):
            cells[index] = table.text(column, value)
        yield where, cells
