"""Rows of tables: delimited text, as programs and spreadsheets save it, and Parquet files."""

import csv
import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from dogscats.base.environment import how_to_install
from dogscats.base.errors import UserError, as_user_error, first_line
from dogscats.base.text import listed, shown
from dogscats.data.photos.tables.columns import COLUMNS, LIKELY, PATHS, find_columns, plain
from dogscats.data.pixels.picture import LFS, LFS_POINTER

SEPARATORS = ",;\t"

ENCODING = "utf-8-sig"
"""UTF-8, with or without the mark that Excel puts in front."""


def table_rows(file: Path, name: str, chosen: Mapping[str, str] | None = None) -> Iterator[tuple[str, list[str]]]:
    """Yield the rows of a table, header first: where a row is, such as `line 3`, and its cells.

    Args:
        file: file of the table, `.parquet` or text separated by commas, semicolons or tabs.
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
    with file.open("rb") as content:
        if content.read(len(LFS_POINTER)) == LFS_POINTER:
            raise UserError(f"{name}: {LFS}.")
    with file.open(newline="", encoding=ENCODING) as lines:
        yield from text_rows(lines, name, {*chain.from_iterable(COLUMNS.values()), *(chosen or {}).values()})


def is_empty(cell: str) -> bool:
    """Return whether a cell has nothing in it: also as pandas and spreadsheets write it."""
    return cell.strip().lower() in ("", "nan", "na", "n/a", "null", "<na>", "#n/a", "#ref!", "#value!")


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
    cells = [plain(cell) for cell in line.split(separator)]
    usual = set(map(plain, known))
    named = [cell for cell in cells if cell in usual or any(likely.fullmatch(cell) for likely in LIKELY.values())]
    return len(named), len(cells)


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
        """Return a value as text: the class name of a number, if it has one; empty for none, which is -1 there.

        Raises:
            UserError: if it is neither text nor a number, such as a list of several labels.
        """
        names = self._classes.get(column)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, Mapping) and isinstance(value.get("path"), str):  # an image that is a file
            value = value["path"]
        if isinstance(value, bytes):
            value = value.decode(errors="replace")
        if value is None or value != value:  # NaN
            return ""
        if isinstance(value, Mapping | list | bytearray):
            raise UserError(
                f"{self.name}: its column {column} has {shown(str(value)[:60])}, expected text or a whole number: one "
                "class per photo. Choose another column with data.columns, or save the table with one."
            )
        if names is None or not isinstance(value, int | float):
            return str(value)
        if value != int(value):
            raise UserError(f"{self.name}: its column {column} has {value}, expected the number of a class.")
        return names[int(value)] if 0 <= value < len(names) else ""


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
        is_text = types.is_string(kind) or types.is_large_string(kind)
        paths |= is_text and (field.name.lower() in PATHS or bool(LIKELY["path"].fullmatch(plain(field.name))))
    return None if paths else binary


def has_images(file: Path, name: str) -> bool:
    """Return whether a table has images, not paths."""
    return file.suffix.lower() == ".parquet" and ParquetTable(file, name).image_column is not None


def _parquet_rows(file: Path, name: str, chosen: Mapping[str, str] | None) -> Iterator[tuple[str, list[str]]]:
    """Yield the rows of a Parquet file, header first."""
    table = ParquetTable(file, name)
    yield "header", table.header
    wanted = {table.header[index]: index for index in find_columns(name, table.header, chosen=chosen).values()}
    for where, values in table.rows(list(wanted)):
        cells = [""] * len(table.header)
        for (column, index), value in zip(wanted.items(), values, strict=True):
            cells[index] = table.text(column, value)
        yield where, cells


SHARD = re.compile(r"(?P<start>.*?)(?P<number>\d+)-of-(?P<count>\d+)(?P<end>.*)")
"""Name of a part of a set, as `datasets` writes it: `train-00000-of-00002-<hash>.parquet`."""

NUMBERED = re.compile(r"(?P<start>.*?)(?P<number>\d+)(?P<end>(?:[-_.][0-9a-f][0-9a-f-]{7,})?(?:\.\w+)+)")
"""Name of a part by its number alone: `0000.parquet`, `part-00000-<id>.snappy.parquet`."""


def check_shards(files: Sequence[Path], whole: bool = False) -> None:
    """Refuse an incomplete set of files, or two sets of the same name.

    Args:
        files: all files of a dataset.
        whole: whether each file is used on its own.

    Raises:
        UserError: with the names of missing files, as far as they are known.
    """
    sets: dict[tuple[Path, str], dict[str, list[re.Match[str]]]] = defaultdict(lambda: defaultdict(list))
    for file in files:
        if part := SHARD.fullmatch(file.name):
            sets[file.parent, part["start"]][part["count"]].append(part)
        elif not whole and (part := NUMBERED.fullmatch(file.name)):
            sets[file.parent, part["start"]][""].append(part)
    for (folder, start), by_count in sets.items():
        parts = [part for each in by_count.values() for part in each]
        numbers = sorted(int(part["number"]) for part in parts)
        names = sorted(part[0] for part in parts)
        counts = [count for count in by_count if count]
        if whole and int(counts[0]) > 1:
            raise UserError(f"{folder / names[0]}: it is one of {int(counts[0])} parts of a table. Join them into one.")
        if len(counts) > 1 or len(set(numbers)) < len(numbers):
            raise UserError(f"{folder}: {listed(names, 6)} are parts of several sets. Remove those of the older one.")
        width, end = len(parts[0]["number"]), parts[0]["end"]
        padded = width >= 4 and numbers[0] < 10 ** (width - 1)  # of Spark, and of Hugging Face's conversion from 0 on
        if not counts and not padded and (len(numbers) == 1 or numbers[0] > 1):
            continue  # a version, a size, a year
        count = int(counts[0]) if counts else None
        first = int(numbers[-1] == count) if counts else min(numbers[0], 1) if start else 0
        last = numbers[-1] + 1 if count is None else count + first
        if re.search(r"[-_.][0-9a-f][0-9a-f-]{7,}", end):  # a hash, different for each part
            end = f"-*{Path(names[0]).suffix}"
        of = f"-of-{counts[0]}" if counts else ""
        missing = [f"{start}{number:0{width}d}{of}{end}" for number in range(first, last) if number not in numbers]
        if missing:
            raise UserError(
                f"{folder}: {listed(missing, 5)} {'is' if len(missing) == 1 else 'are'} missing. Download "
                f"{'it' if len(missing) == 1 else 'them'} as well."
            )
