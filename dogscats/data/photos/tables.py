"""Tables of labelled photos: CSV or Parquet files with the columns path, label and perhaps split."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from dogscats.base.errors import UserError
from dogscats.base.text import listed, shown
from dogscats.data.photos.delimited import ENCODING, check_width, text_rows
from dogscats.data.photos.file_index import FileIndex
from dogscats.data.photos.parquet import PATHS, label_names, label_text, open_parquet, read_batches
from dogscats.data.photos.split import IS_VALID, SPELLINGS, spellings, split_in
from dogscats.data.pixels.images import natural_key

COLUMNS = {
    "path": PATHS,
    "label": ("label", "labels", "class", "category", "breed", "species", "target"),
    "split": ("split", "set", "subset", IS_VALID),
}
"""Names of each column, in any case; the first that a table has is used."""


MOST_NAMED = 5
"""Number of missing files that an error names."""


class Row(NamedTuple):
    """A row of a table; `where` names it in messages, such as `line 3`."""

    where: str
    path: str
    label: str
    split: str


class Table:
    """Labelled photos of a table.

    Args:
        root: folder that the paths in the table are relative to.
        name: name of the table in messages.
        rows: rows of the table; `split` is `train`, `valid` or `test`.
        splits_from: where rows have their split from, such as `its column split`; empty if they have none.

    Raises:
        UserError: if files are missing or ambiguous, or rows contradict each other.
    """

    base = ""
    hollow: Sequence[str] = ()
    notes: Sequence[str] = ()

    def __init__(self, root: Path, name: str, rows: Iterable[Row], splits_from: str = ""):
        self.root, self.name, self.splits_from = root, name, splits_from
        self._by_split: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        files, seen, missing, count = FileIndex(root), dict[str, Row](), list[Row](), 0
        for row in rows:
            count += 1
            if not row.label or not row.path:
                what = "label" if row.path else "path"
                raise UserError(f"{name}: {row.where}: it has no {what}. Fill it in, or remove the row.")
            found = files.find(row.path)
            if not found:
                missing.append(row)
                continue
            if len(found) > 1:
                which = listed(found, 2)
                raise UserError(
                    f"{name}: {row.where}: {shown(row.path)!r} may be {which}. Write the path from data.root on."
                )
            path = found[0]
            before = seen.setdefault(path, row)
            if before is row:
                self._by_split[row.split][row.label].append(path)
            elif (before.label, before.split) != (row.label, row.split):
                raise UserError(
                    f"{name}: {row.where}: {shown(path)} is {shown(row.label)!r} in {row.split}, but "
                    f"{shown(before.label)!r} in {before.split} in {before.where}. Remove one of the rows."
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

    def unlabelled(self, labelled_test: bool) -> list[str]:
        """List the photos in `test1/` and `test/` that the table does not have."""
        known = {path for by_class in self._by_split.values() for paths in by_class.values() for path in paths}
        folders = {*SPELLINGS["test"], "test1"}
        found = [path for path in self._names if path.partition("/")[0].lower() in folders and path not in known]
        return sorted(found, key=natural_key)


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
    splits = header[columns["split"]].strip() if "split" in columns else ""

    def checked() -> Iterator[Row]:
        for where, cells in rows:
            check_width(name, where, cells, header)
            path, label = (cells[columns[kind]].strip() for kind in ("path", "label"))
            written = cells[columns["split"]].strip() if splits else "train"
            if (split := split_in(splits, written)) is None:
                known = ", ".join(spellings(splits))
                raise UserError(f"{name}: {where}: its {splits} is {shown(written)!r}, expected one of {known}.")
            yield Row(where, path, label, split)

    return Table(root, name, checked(), splits and f"its column {splits}")


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
