"""Rows of tables: delimited text, as programs and spreadsheets save it, and Parquet files."""

import csv
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from dogscats.base.environment import how_to_install
from dogscats.base.errors import UserError, as_user_error, first_line
from dogscats.base.text import listed
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


def text_rows(
    lines: TextIO, name: str, known: Collection[str], may_be_short: bool = False
) -> Iterator[tuple[str, list[str]]]:
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
        raise UserError(f"{name}: it is not text in UTF-8 ({first_line(error)}). Save it as CSV in UTF-8.") from error
    except csv.Error as error:
        raise UserError(f"{name}: line {reader.line_num}: it is not CSV ({error}). Save the table again.") from error


def _columns_known(line: str, separator: str, known: Collection[str]) -> tuple[int, int]:
    """Count the columns with usual names, and all columns, that a header has with a separator."""
    cells = [cell.strip(' "\r\n').lower() for cell in line.split(separator)]
    return sum(cell in known for cell in cells), len(cells)


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


class ParquetTable:
    """A Parquet file.

    Args:
        file: the file.
        name: its name in messages.

    Attributes:
        header: names of its columns.
        count: number of its rows.
        image_column: column with images: `struct{bytes, path}`, or else binary if there is no column of paths; `None`
            without one.

    Raises:
        UserError: if it is damaged, or pyarrow is not installed.
    """

    def __init__(self, file: Path, name: str):
        try:
            from pyarrow import ArrowException
            from pyarrow.parquet import ParquetFile
        except ImportError as error:
            raise UserError(f"{name}: Parquet files need pyarrow: {how_to_install('parquet')}.") from error
        with as_user_error(name, "it is not a Parquet file", "Download or save it again.", ArrowException):
            self._file = ParquetFile(file)
        schema = self._file.schema_arrow
        self.name, self.header, self.count = name, list(schema.names), self._file.metadata.num_rows
        self.image_column, self._classes = _image_column(schema), _class_names(schema)

    def rows(self, columns: Sequence[str], at_once: int = 65_536) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """Yield where each row is, such as `row 3`, and its values in some columns; `at_once` rows are in memory.

        Raises:
            UserError: if the file is damaged.
        """
        from pyarrow import ArrowException

        number = 0
        with as_user_error(self.name, "it is damaged", "Download or save it again.", (ArrowException, OSError)):
            for batch in self._file.iter_batches(batch_size=at_once, columns=list(columns)):
                for values in zip(*(batch.column(column).to_pylist() for column in columns), strict=True):
                    number += 1
                    yield f"row {number}", values

    def text(self, column: str, value: Any) -> str:
        """Return a value as text: the class name of a number, if it has one; empty for none, which is -1 there."""
        names = self._classes.get(column)
        if value is None:
            return ""
        if names is None or isinstance(value, str):
            return str(value)
        return names[value] if 0 <= value < len(names) else ""


def _class_names(schema: Any) -> dict[str, list[str]]:
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


def _image_column(schema: Any) -> str | None:
    from pyarrow import types

    binary, paths = None, False
    for field in schema:
        kind = field.type
        if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            return str(field.name)
        if types.is_binary(kind) or types.is_large_binary(kind):
            binary = binary or str(field.name)
        paths |= (types.is_string(kind) or types.is_large_string(kind)) and field.name.lower() in PATHS
    return None if paths else binary


def has_images(file: Path, name: str) -> bool:
    """Return whether a table has images, not paths."""
    return file.suffix.lower() == ".parquet" and ParquetTable(file, name).image_column is not None


def _parquet_rows(file: Path, name: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the rows of a Parquet file, header first."""
    table = ParquetTable(file, name)
    yield "header", table.header
    wanted = {table.header[index]: index for index in find_columns(name, table.header).values()}
    for where, values in table.rows(list(wanted)):
        cells = [""] * len(table.header)
        for (column, index), value in zip(wanted.items(), values, strict=True):
            cells[index] = table.text(column, value)
        yield where, cells
