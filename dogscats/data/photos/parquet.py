"""Parquet files: their batches of rows, class names and images."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dogscats.base.environment import how_to_install
from dogscats.base.errors import UserError, first_line

PATHS = ("path", "file", "filename", "file_name", "image", "image_id", "id", "name")
"""Names of a column of paths, in any case."""


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
