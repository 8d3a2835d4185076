"""Tables of labelled photos: CSV or Parquet files with the columns path, label and perhaps split."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from dogscats.base.errors import ArgumentError, UserError
from dogscats.base.text import counted, listed, shown
from dogscats.data.photos.listing import FileIndex, natural_key
from dogscats.data.photos.split import SPELLINGS, split_in, split_of
from dogscats.data.photos.table_rows import find_columns, has_images, table_rows


class Table:
    """Labelled photos of a table; a `Source`, see `dogscats.data.photos.layouts`.

    Args:
        root: folder that the paths in the table are relative to.
        file: file of the table, `.parquet` or text separated by commas, semicolons or tabs.
        name: name of the table in messages.
        tables: path of the table, relative to `root`, unless it is elsewhere.

    Raises:
        UserError: if the table cannot be read, columns or files are missing, paths are ambiguous, or rows contradict
            each other.
    """

    base = ""
    empty_folders: Sequence[str] = ()
    notes: Sequence[str] = ()

    def __init__(self, root: Path, file: Path, name: str, tables: Sequence[str] = ()):
        self.root, self.name, self.tables = root, name, tables
        self._by_split: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        rows = table_rows(file, name)
        _, header = next(rows, ("", []))
        columns = find_columns(name, header)
        column = header[columns["split"]].strip() if "split" in columns else ""
        self.splits_from = f"its column {column}" if column else ""
        files, seen, missing, count = FileIndex(root), dict[str, tuple[str, str, str]](), list[str](), 0
        self._names = files.names
        for where, cells in rows:
            count += 1
            written, label = (cells[columns[kind]].strip() for kind in ("path", "label"))
            split = split_in(column, cells[columns["split"]].strip(), f"{name}: {where}") if column else "train"
            if not label or not written:
                what = "label" if written else "path"
                raise UserError(f"{name}: {where}: it has no {what}. Fill it in, or remove the row.")
            found = files.find(written)
            if not found:
                missing.append(f"{where} {shown(written)!r}")
                continue
            path, *others = found
            if others:
                meant = f"{shown(written)!r} may be {listed(found, 2)}"
                raise UserError(f"{name}: {where}: {meant}. Write the path from data.root on.")
            first, *before = seen.setdefault(path, (where, label, split))
            if first == where:
                self._by_split[split][label].append(path)
            elif before != [label, split]:
                raise UserError(
                    f"{name}: {where}: {shown(path)} is {shown(label)!r} in {split}, but {shown(before[0])!r} in "
                    f"{before[1]} in {first}. Remove one of the rows."
                )
        if missing:
            raise UserError(
                f"{name}: {len(missing)} of {counted(count, 'row')} name files that are not in {root}: "
                f"{listed(missing, 5)}. Add the files, remove the rows, or set data.root to the folder that the "
                "paths are relative to."
            )

    @classmethod
    def found_in(cls, root: Path, labels: str | None, cache_dir: str | None) -> Self | None:
        """Read the table that `labels` names; `None` without one, or if it has the photos in it.

        Raises:
            ArgumentError: if there is no such file.
            UserError: as the class.
        """
        if labels is None or has_images(file := table_file(root, labels), labels):
            return None
        return cls(root, file, labels, inside(root, file))

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

    def by_class(self, split: str) -> dict[str, list[str]]:
        """List the photos of each class of a split, sorted by class, in natural order."""
        if split not in self._by_split:
            raise UserError(f"{self.name}: it has no rows of {split}. Add some.")
        return {name: sorted(paths, key=natural_key) for name, paths in sorted(self._by_split[split].items())}

    def single_split(self, split: str) -> dict[str, list[str]]:
        """List the photos of each class of one split, in any spelling.

        Raises:
            UserError: if there are none.
        """
        kind = split_of(split)
        if kind not in self._by_split:
            raise UserError(f"split={split}: {self.name} has no rows of it, only of {', '.join(self.splits)}.")
        return self.by_class(kind)

    def test(self, classes: Sequence[str]) -> dict[str, list[str]]:
        """List the photos of the split test; empty without rows."""
        return self.by_class("test") if "test" in self._by_split else {}

    def unlabelled(self, labelled_test: bool) -> list[str]:
        """List the photos in `test1/` and `test/` that the table does not have."""
        known = {path for by_class in self._by_split.values() for paths in by_class.values() for path in paths}
        folders = {*SPELLINGS["test"], "test1"}
        found = [path for path in self._names if path.partition("/")[0].lower() in folders and path not in known]
        return sorted(found, key=natural_key)


def table_file(root: Path, labels: str) -> Path:
    """Return the file of a table.

    Args:
        root: folder of the dataset.
        labels: path of the file, relative to `root`; `~` is the home folder.

    Raises:
        ArgumentError: if there is no such file, with the tables that are there.
    """
    file = root / Path(labels).expanduser()
    if not file.is_file():
        there = listed(sorted(f.name for f in root.iterdir() if f.suffix.lower() in (".csv", ".tsv", ".parquet")))
        missing = f"labels={labels}: there is no such file in {root}. Give a table of paths and labels"
        raise ArgumentError("data", f"{missing}{f'; {there} is there' if there else ''}.")
    return file


def inside(root: Path, file: Path) -> list[str]:
    """Return the path of a file relative to `root`, in a list; an empty list if it is elsewhere."""
    file, root = file.absolute(), root.absolute()
    return [file.relative_to(root).as_posix()] if file.is_relative_to(root) else []
