"""Atomic file writes (text, CSV, JSON) and digests."""

import csv
import hashlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dogscats.base.errors import DISK_FULL, FILE_UNUSABLE, Failure, UserError, as_user_error
from dogscats.base.signals import WRITING
from dogscats.base.text import shown

WEIGHTS = "model.safetensors"
"""Weights in a run directory, to be published."""

DAMAGED = ("it is damaged", "Remove it, or restore it.")
"""What is wrong with a file, and what to do, for `as_user_error`."""

CANNOT_WRITE = DISK_FULL | FILE_UNUSABLE
"""Error numbers that mean a file cannot be written, whichever library raises them."""


def check_exists(file: Path) -> None:
    """Refuse a file that does not exist.

    Raises:
        UserError: with its path.
    """
    if not file.is_file():
        raise UserError(f"{shown(file)}: there is no such file.")


@contextmanager
def atomic_path(path: Path, flush: bool = True) -> Iterator[Path]:
    """Yield a temporary path next to `path`, and rename it to `path` if the block succeeds.

    The file is flushed to disk before the rename, so even a power cut leaves no partial file at `path`. If the block
    raises, `path` is unchanged and the temporary file is removed. The temporary name keeps the suffix, since matplotlib
    and others derive the format from it.

    Args:
        path: file to write.
        flush: whether to wait for the disk; otherwise a power cut may leave a partial file.

    Raises:
        UserError: if the disk is full or not writable.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part{path.suffix}")
    WRITING.append(temporary)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if flush:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno in CANNOT_WRITE:
            raise cannot_write(path, error.strerror) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
        WRITING.remove(temporary)


@contextmanager
def unfinished_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside `folder`, to be renamed to that once it is complete; or else it is removed."""
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # left by a process that was killed
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def remove_unfinished(folder: Path, name: str = "*") -> None:
    """Remove temporary files of `name` in `folder` that a killed process left behind."""
    for file in folder.glob(f".{name}.*.part*"):
        file.unlink(missing_ok=True)


def cannot_write(path: Path | str, reason: str | None) -> Failure:
    """Make the error for a file that cannot be written."""
    return Failure(f"{path}: it cannot be written ({reason}). Free some space, or choose another folder.")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file; it is never half-written. NaN and infinity, which JSON lacks, become null."""
    write_text(path, json.dumps(_finite(value), indent=2, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> Any:
    """Read a JSON file; `None` if it does not exist.

    Raises:
        UserError: if it is damaged.
    """
    with as_user_error(path, *DAMAGED, (ValueError, RecursionError)):
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file atomically.

    Bytes of file names that are not valid UTF-8 are escaped, as are control characters. Text that a spreadsheet would
    take for a formula gets an apostrophe in front.
    """
    write_rows(path, [cell(value) for value in header], (map(cell, row) for row in rows))


def write_stage_rows(path: Path, stage: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace the rows of one stage in a CSV file whose first column is the stage, atomically.

    Args:
        path: CSV file; its rows of other stages are kept.
        stage: name of the stage.
        rows: values by column; columns that a row lacks are empty.
    """
    others: list[Mapping[str, Any]] = []
    if path.exists():
        others = [row for row in read_csv(path) if row["stage"] != stage]
    rows = [*others, *({"stage": stage, **row} for row in rows)]
    header = list(dict.fromkeys(key for row in rows for key in row))
    write_csv(path, header, ([row.get(key, "") for key in header] for row in rows))


def write_rows(path: Path, header: Sequence[object], rows: Iterable[Iterable[object]]) -> None:
    """Write a CSV file like `write_csv`, of values that `cell` has returned."""
    with atomic_path(path) as temporary:
        _append(temporary, [header])
        _append(temporary, rows)


def append_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Append rows to a CSV file like that of `write_csv`, which begins with the header.

    A process that is killed meanwhile may leave half a row.
    """
    if not path.exists():
        write_csv(path, header, [])
    _append(path, (map(cell, row) for row in rows))
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _append(path: Path, rows: Iterable[Iterable[object]]) -> None:
    with path.open("a", newline="", encoding="utf-8", errors="backslashreplace") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


FORMULA_STARTS = ("=", "+", "-", "@")
"""Characters that start a formula in a spreadsheet."""


def cell(value: object) -> object:
    """Return a value as `write_csv` writes it."""
    if type(value) is str and value.isprintable() and value[:1] not in FORMULA_STARTS:
        return value  # most are, in tables with a million rows
    if not isinstance(value, str | Path):
        return value
    text = shown(value)
    if not text.startswith(FORMULA_STARTS):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV file as dicts.

    Raises:
        UserError: if it is damaged.
    """
    return list(csv_rows(path))


def csv_rows(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of `read_csv`, one at a time in memory."""
    with as_user_error(path, *DAMAGED, (ValueError, csv.Error)), path.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file's content in hex digits."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
