"""Rows of tables: delimited text, as programs and spreadsheets save it, and Parquet files."""

import csv
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from dogscats.base.environment import how_to_install
from dogscats.base.errors import UserError, first_line
from dogscats.base.text import listed, shown
from dogscats.data.photos.split import IS_VALID

SEPARATORS = ",;\t"

ENCODING = "utf-8-sig"
"""UTF-8, with or without the mark that Excel puts in front."""

PATHS = ("path", "file", "filename", "file_name", "image", "image_id", "id", "name")
"""Names of a column of paths, in any case."""

COLUMNS = {
    "path": PATHS,
    "label": ("label", "labels", "class", "category", "breed", "species", "target"),
    "split": ("split", "set", "subset", IS_VALID),
}
"""Names of each column, in any case; the first that a table has is used."""

MOST_NAMED = 5
"""Number of rows that an error names."""


def rows_named(rows: Sequence[tuple[str, str]]) -> str:
    """Name the first rows for a message, from where they are and their paths: `line 3 'a.jpg', line 4 'b.jpg', ...`."""
    more = ", ..." if len(rows) > MOST_NAMED else ""
    return ", ".join(f"{where} {shown(path)!r}" for where, path in rows[:MOST_NAMED]) + more


def table_rows(file: Path, name: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the rows of a table, header first: where a row is, such as `line 3`, and its cells.

    Args:
        file: file of the table, `.parquet` or text separated by commas, semicolons or tabs.
        name: its name in messages.

    Raises:
        UserError: if it cannot be read.
    """
    if file.suffix.lower() in (".xlsx", ".xls", ".ods"):
        raise UserError(f"{name}: spreadsheets are not read. Save it as CSV.")
    if file.suffix.lower() == ".parquet":
        yield from _parquet_rows(file, name)
        return
    with file.open(newline="", encoding=ENCODING) as lines:
        yield from text_rows(lines, name, set(chain.from_iterable(COLUMNS.values())))


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


def find_columns(
    name: str,
    header: Sequence[str],
    needed: Sequence[str] = ("path", "label"),
    usual_names: Mapping[str, Sequence[str]] = COLUMNS,
) -> dict[str, int]:
    """Find the columns of a table by the usual names.

    Args:
        name: name of the table in messages.
        header: names of its columns.
        needed: kinds of columns that it must have.
        usual_names: names of each kind of column; the first that a table has is used.

    Raises:
        UserError: if one is missing, or there twice.
    """
    names = [column.strip().lower() for column in header]
    found = {
        kind: names.index(usual)
        for kind, known in usual_names.items()
        if (usual := next((name for name in known if name in names), None)) is not None
    }
    for kind in needed:
        if kind not in found:
            raise UserError(
                f"{name}: it has no column for the {kind}. Its columns are {listed(header) or 'none'}; expected one of "
                f"{', '.join(usual_names[kind])}. Rename the column."
            )
    for number in found.values():
        if names.count(names[number]) > 1:
            raise UserError(f"{name}: it has the column {names[number]!r} twice. Rename or remove one.")
    return found


def open_parquet(file: Path, name: str) -> Any:
    """Open a Parquet file.

    Raises:
        UserError: if it is damaged, or pyarrow is not installed.
    """
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise UserError(f"{name}: Parquet files need pyarrow: {how_to_install('parquet')}.") from error
    try:
        return ParquetFile(file)
    except ArrowException as error:
        reason = first_line(error)
        raise UserError(f"{name}: it is not a Parquet file ({reason}). Download or save it again.") from error


def read_batches(table: Any, name: str, **options: Any) -> Iterator[Any]:
    """Yield the batches of rows of a Parquet file.

    Raises:
        UserError: if it is damaged.
    """
    from pyarrow import ArrowException

    try:
        yield from table.iter_batches(**options)
    except (ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(f"{name}: it is damaged ({first_line(error)}). Download or save it again.") from error


def label_names(schema: Any) -> dict[str, list[str]]:
    """Return the class names of the columns of type ClassLabel, which `datasets` stores in the schema's metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            column: [str(name) for name in feature["names"]]
            for column, feature in features.items()
            if isinstance(feature, Mapping) and isinstance(feature.get("names"), list)
        }
    except (KeyError, ValueError, TypeError, AttributeError):  # not by `datasets`
        return {}


def label_text(value: Any, names: Sequence[str] | None = None) -> str:
    """Return a label as text: the class name of a number, if it has one; empty for none, which is -1 there."""
    if value is None:
        return ""
    if names is None or isinstance(value, str):
        return str(value)
    return names[value] if 0 <= value < len(names) else ""


def image_column(schema: Any) -> str | None:
    """Return the column with images: `struct{bytes, path}`, or else binary if there is no column of paths."""
    from pyarrow import types

    def binary(kind: Any) -> bool:
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    def text(kind: Any) -> bool:
        return bool(types.is_string(kind) or types.is_large_string(kind))

    for field in schema:
        if types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            return str(field.name)
    paths = any(text(field.type) and field.name.lower() in PATHS for field in schema)
    return next((str(field.name) for field in schema if binary(field.type) and not paths), None)


def has_images(file: Path, name: str) -> bool:
    """Return whether a table has images, not paths."""
    return file.suffix.lower() == ".parquet" and image_column(open_parquet(file, name).schema_arrow) is not None


def _parquet_rows(file: Path, name: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the rows of a Parquet file, header first."""
    table = open_parquet(file, name)
    header = list(table.schema_arrow.names)
    yield "header", header
    number = 0
    names = label_names(table.schema_arrow)
    columns = find_columns(name, header)
    wanted = {header[index]: index for index in columns.values()}
    for batch in read_batches(table, name, columns=list(wanted)):
        for values in zip(*(batch.column(column).to_pylist() for column in wanted), strict=True):
            number += 1
            cells = [""] * len(header)
            for (column, index), value in zip(wanted.items(), values, strict=True):
                cells[index] = label_text(value, names.get(column))
            yield f"row {number}", cells
