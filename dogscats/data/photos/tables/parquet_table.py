"""Parquet files: their rows as text, and images in them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dogscats.base.environment import how_to_install
from dogscats.base.errors import UserError, as_user_error
from dogscats.base.text import shown
from dogscats.data.photos.tables.columns import LIKELY, PATHS, plain
from dogscats.data.pixels.picture import LFS, LFS_POINTER


def check_pointer(file: Path, name: str) -> None:
    """Refuse a file that Git LFS has not fetched yet."""
    with file.open("rb") as content:
        if content.read(len(LFS_POINTER)) == LFS_POINTER:
            raise UserError(f"{name}: {LFS}.")


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
        numbers: names of the columns of numbers or truth values.

    Raises:
        UserError: if it is damaged, or pyarrow is not installed.
    """

    def __init__(self, file: Path, name: str):
        try:
            from pyarrow import ArrowException
            from pyarrow.parquet import ParquetFile
        except ImportError as error:
            raise UserError(f"{name}: Parquet files need pyarrow: {how_to_install('parquet')}.") from error
        check_pointer(file, name)
        with as_user_error(name, "it is not a Parquet file", "Download or save it again.", ArrowException):
            self._file = ParquetFile(file)
        schema = self._file.schema_arrow
        self.name, self.header, self.count = name, list(schema.names), self._file.metadata.num_rows
        self.image_column, self._classes = _image_column(schema), _class_names(schema)
        self.numbers = {field.name for field in schema if str(field.type).startswith(("int", "uint", "bool", "double"))}

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
