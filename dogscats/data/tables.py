"""Tables of labelled photos: CSV or Parquet files with the columns path, label and perhaps split."""

import json
import os
import posixpath
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from dogscats.data.delimited import ENCODING, check_width, text_rows
from dogscats.data.images import is_image_name, natural_key, walk_files
from dogscats.data.split import SPELLINGS, split_of
from dogscats.runs.errors import UserError, first_line
from dogscats.runs.install import how_to_install
from dogscats.runs.text import listed, shown

COLUMNS = {
    "path": ("path", "file", "filename", "file_name", "image", "image_id", "id", "name"),
    "label": ("label", "labels", "class", "category", "breed", "species", "target"),
    "split": ("split", "set", "subset"),
}
"""Names of each column, in any case; the first that a table has is used."""

IS_VALID = "is_valid"
"""fastai's column for the split, true or false; used in tables without a column `split`."""

MOST_NAMED = 5
"""Number of missing files that an error names."""


class Row(NamedTuple):
    """A row of a table; `where` names it in messages, such as `line 3`, and `split` is as it is written."""

    where: str
    path: str
    label: str
    split: str | None


class Table:
    """Labelled photos of a table.

    Args:
        root: folder that the paths in the table are relative to.
        name: name of the table in messages.
        rows: rows of the table.
        splits_from: where rows have their split from, such as `its column split`; empty if they have none.

    Raises:
        UserError: if files are missing or ambiguous, or rows contradict each other.
    """

    base = ""
    hollow: Sequence[str] = ()

    def __init__(self, root: Path, name: str, rows: Iterable[Row], splits_from: str = ""):
        self.root, self.name, self.splits_from = root, name, splits_from
        self._by_split: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        files, seen, missing, count = _Files(root), dict[str, tuple[Row, str]](), list[Row](), 0
        for row in rows:
            count += 1
            split = self._split(row)
            if not row.label or not row.path:
                raise self._error(row, f"it has no {'label' if row.path else 'path'}. Fill it in, or remove the row")
            found = files.find(row.path)
            if not found:
                missing.append(row)
                continue
            if len(found) > 1:
                raise self._error(
                    row, f"{shown(row.path)!r} may be {listed(found, 2)}. Write the path from data.root on"
                )
            path = found[0]
            before, where = seen.setdefault(path, (row, split))
            if before is row:
                self._by_split[split][row.label].append(path)
            elif (before.label, where) != (row.label, split):
                raise self._error(
                    row,
                    f"{shown(path)} is {shown(row.label)!r} in {split}, but {shown(before.label)!r} in {where} in "
                    f"{before.where}. Remove one of the rows",
                )
        self._names = files.names
        if missing:
            names = ", ".join(f"{row.where} {shown(row.path)!r}" for row in missing[:MOST_NAMED])
            more = ", ..." if len(missing) > MOST_NAMED else ""
            raise UserError(
                f"{name}: {len(missing)} of {count} rows name files that are not in {root}: {names}{more}. Add the "
                "files, remove the rows, or set data.root to the folder that the paths are relative to."
            )

    @property
    def splits(self) -> list[str]:
        """Splits with rows."""
        return list(self._by_split)

    def place(self, split: str) -> str:
        """Return where the photos of a split are: the table, and the split if it has several."""
        return f"{split} of {self.name}" if self.splits_from else self.name

    def layout(self, splits: Sequence[str]) -> str:
        """Return the layout in a few words."""
        return f"{self.name}, splits from {self.splits_from}" if self.splits_from else self.name

    def by_class(self, split: str, allow_empty: bool = False) -> dict[str, list[str]]:
        """List the photos of each class of a split, sorted by class, in natural order."""
        if split not in self._by_split:
            raise UserError(f"{self.name}: it has no rows of {split}. Add some.")
        return {name: sorted(paths, key=natural_key) for name, paths in sorted(self._by_split[split].items())}

    def test(self, classes: Sequence[str]) -> dict[str, list[str]]:
        """List the photos of the split test; empty without rows.

        Raises:
            UserError: for a class that is not in `classes`.
        """
        found = self.by_class("test") if "test" in self._by_split else {}
        if unknown := [name for name in found if name not in classes]:
            raise UserError(
                f"{self.name}: test has photos of {listed(unknown)}, but the classes of train are {listed(classes)}. "
                "Remove the rows of the others."
            )
        return found

    def if_nested(self, name: str) -> str:
        """Return no advice: a table has no folders of classes."""
        return ""

    def not_classes(self, classes: Sequence[str], labelled_test: bool) -> list[str]:
        """Return no remarks: other rows of test are refused."""
        return []

    def unlabelled(self, labelled_test: bool) -> list[str]:
        """List the photos in `test1/` and `test/` that the table does not have."""
        known = {path for by_class in self._by_split.values() for paths in by_class.values() for path in paths}
        folders = {*SPELLINGS["test"], "test1"}
        found = [path for path in self._names if path.partition("/")[0].lower() in folders and path not in known]
        return sorted(found, key=natural_key)

    def _split(self, row: Row) -> str:
        if row.split is None:
            return "train"
        if (split := split_of(row.split)) is None:
            known = ", ".join(chain.from_iterable(SPELLINGS.values()))
            raise self._error(row, f"its split is {shown(row.split)!r}, expected one of {known}")
        return split

    def _error(self, row: Row, what: str) -> UserError:
        return UserError(f"{self.name}: {row.where}: {what}.")


def read_table(root: Path, file: Path, name: str) -> Table:
    """Read a table of paths and labels, `.parquet` or text separated by commas, semicolons or tabs.

    Args:
        root: folder that the paths are relative to.
        file: file of the table.
        name: its name in messages.

    Raises:
        UserError: if the table cannot be read, or columns are missing.
    """
    if file.suffix.lower() in (".xlsx", ".xls", ".ods"):
        raise UserError(f"{name}: spreadsheets are not read. Save it as CSV.")
    rows = _parquet_rows(file, name) if file.suffix.lower() == ".parquet" else _text_rows(file, name)
    _, header = next(rows, ("", []))
    columns = find_columns(name, header)
    fastais = [column.strip().lower() for column in header].index(IS_VALID) if _has(header, IS_VALID) else None
    if "split" in columns:
        fastais = None

    def split_in(cells: Sequence[str]) -> str | None:
        if fastais is not None:
            return "valid" if cells[fastais].strip().lower() in ("true", "1", "1.0") else "train"
        return cells[columns["split"]].strip() if "split" in columns else None

    def checked() -> Iterator[Row]:
        for where, cells in rows:
            check_width(name, where, cells, header)
            path, label = (cells[columns[kind]].strip() for kind in ("path", "label"))
            yield Row(where, path, label, split_in(cells))

    splits_column = header[columns["split"]].strip() if "split" in columns else IS_VALID if fastais is not None else ""
    return Table(root, name, checked(), splits_column and f"its column {splits_column}")


def _has(header: Sequence[str], column: str) -> bool:
    return column in (name.strip().lower() for name in header)


def is_own_root(root: str | Path | None, own: str | None) -> bool:
    """Return whether a folder of photos is that of a run, `own`; `None` is."""
    return root is None or (own is not None and Path(root).expanduser().absolute() == Path(own))


def table_at(root: str | Path | None, own: str | None, labels: str | None) -> str | None:
    """Return the table of a run's own data, for photos in `root`: `None` for a root that does not have it.

    Args:
        root: folder of photos; `None` for the run's own.
        own: folder of the run's own data.
        labels: table of the run's own data.
    """
    if labels is None or root is None or is_own_root(root, own):
        return labels
    there = Path(root).expanduser() / labels
    return labels if not Path(labels).expanduser().is_absolute() and there.is_file() else None


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


def _text_rows(file: Path, name: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the rows of a CSV file, header first."""
    with file.open(newline="", encoding=ENCODING) as lines:
        yield from text_rows(lines, name, set(chain.from_iterable(COLUMNS.values())))


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


class _Files:
    """Photos in a folder, to be found by the paths that a table has.

    Args:
        root: folder of the photos.
    """

    def __init__(self, root: Path):
        self.root, self.top = root, os.path.abspath(root)  # noqa: PTH100  # text, as the paths are
        self.names = [f for f in walk_files(root) if not f.startswith("tmp/") and is_image_name(root, f)]
        self.exact = set(self.names)
        self.by_end: dict[int, dict[str, list[str]]] = {}

    def find(self, path: str) -> list[str]:
        """List the files that a path may mean: the exact one, or else all whose path ends so, without extension too."""
        if path in self.exact:
            return [path]
        for name in dict.fromkeys((path, path.replace("\\", "/"))):
            if found := self._find(posixpath.normpath(name)):
                return found
        return []

    def _find(self, path: str) -> list[str]:
        if path.startswith("/"):
            path = path.removeprefix(self.top.rstrip("/") + "/")
            return [path] if path in self.exact or self._is_file(path) else []
        if path in self.exact:
            return [path]
        ends = self._ends(path.count("/") + 1)
        without_extension = ends.get(f"{path}.", [])
        found = [name for name in without_extension if name.rpartition(".")[0] == path]
        found = found or ends.get(path, []) or without_extension
        if len(found) > 1:
            return sorted(found, key=natural_key)
        return found or ([path] if self._is_file(path) else [])

    def _is_file(self, path: str) -> bool:
        try:
            return (self.root / path).is_file()
        except (OSError, ValueError):  # what is no path at all, such as a photo in base64
            return False

    def _ends(self, depth: int) -> dict[str, list[str]]:
        """Group the files by the last `depth` parts of their paths, with extension and without: `cat.0.`."""
        if depth not in self.by_end:
            groups: dict[str, list[str]] = defaultdict(list)
            for name in self.names:
                end = name.rpartition("/")[2] if depth == 1 else "/".join(name.split("/")[-depth:])
                groups[end].append(name)
                stem, dot, extension = end.rpartition(".")
                if dot and "/" not in extension:
                    groups[f"{stem}."].append(name)
            self.by_end[depth] = dict(groups)
        return self.by_end[depth]
