"""Tables of labelled photos: CSV or Parquet files with the columns path, label and perhaps split."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from dogscats.base.errors import ArgumentError, UserError
from dogscats.base.text import counted, form, listed, shown
from dogscats.data.photos.listing import list_folder, natural_key
from dogscats.data.photos.split import SPELLINGS, split_in, split_of
from dogscats.data.photos.tables.columns import LabelTable
from dogscats.data.photos.tables.file_index import FileIndex, ending
from dogscats.data.photos.tables.label_studio import exported_rows
from dogscats.data.photos.tables.parquet_table import has_images
from dogscats.data.photos.tables.shards import check_shards
from dogscats.data.photos.tables.table_rows import Lines, is_empty, labelled_rows

MOST_COMPARED = 1000
"""Number of rows of a table beside class folders that are compared with them."""


class Row(NamedTuple):
    """A row of a table; `where` names it in messages, such as `line 3`."""

    where: str
    path: str
    label: str
    split: str


class Table:
    """Labelled photos of a table; a `Source`, see `dogscats.data.photos.layouts`.

    Args:
        root: folder that the paths in the table are relative to.
        file: file of the table, `.parquet` or text separated by commas, semicolons or tabs.
        name: name of the table in messages.
        tables: path of the table, relative to `root`, unless it is elsewhere.
        settings: its columns and the ending of photos, where they are set.

    Raises:
        UserError: if the table cannot be read, columns or files are missing, paths are ambiguous, or rows contradict
            each other.
    """

    base = ""
    empty_folders: Sequence[str] = ()

    def __init__(
        self, root: Path, file: Path, name: str, tables: Sequence[str] = (), settings: LabelTable | None = None
    ):
        self.root, self.name, self.tables = root, name, tables
        self.notes: Sequence[str] = ()
        self._anywhere: set[str] = set()
        self._by_split: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        rows, self.splits_from = self._rows(file, settings.columns if settings else {})
        paths = self._paths(rows, settings.extension if settings else None)
        seen: dict[str, Row] = {}
        for row, path in zip(rows, paths, strict=True):
            first = seen.setdefault(path, row)
            if first is row:
                self._by_split[row.split][row.label].append(path)
            elif (form(first.label), first.split) != (form(row.label), row.split):
                raise UserError(
                    f"{name}: {row.where}: {shown(path)} is {shown(row.label)!r} in {row.split}, but "
                    f"{shown(first.label)!r} in {first.split} in {first.where}. Remove one of the rows."
                )

    def _rows(self, file: Path, chosen: Mapping[str, str]) -> tuple[list[Row], str]:
        """Read the rows; also return where the splits are from, in words, empty without any."""
        if file.suffix.lower() == ".json":
            header, columns = ["path", "label"], {"path": 0, "label": 1}
            lines: Lines = exported_rows(file, self.name, self.root)
        else:
            header, columns, lines = labelled_rows(file, self.name, chosen)
        folder = next((index for index, column in enumerate(header) if column.strip().casefold() == "folder"), None)
        self._of_unsorted = folder is not None
        column = header[columns["split"]].strip() if "split" in columns else ""
        rows, empty = [], defaultdict[str, list[str]](list)
        for where, cells in lines:
            path, label = ("" if is_empty(cell := cells[columns[kind]]) else cell.strip() for kind in ("path", "label"))
            if folder is not None and (file.parent / cells[folder].strip() / path).is_file():  # as in labels.csv
                path = path_in(self.root, file.parent / cells[folder].strip() / path)
                self._anywhere.add(path)
            split = split_in(column, cells[columns["split"]].strip(), f"{self.name}: {where}") if column else "train"
            rows.append(Row(where, path, label, split))
            if not label or not path:
                empty["label" if path else "path"].append(where)
        for what, places in empty.items():
            one = len(places) == 1
            raise UserError(
                f"{self.name}: {listed(places, 5)}: {'it has' if one else 'they have'} no {what}. Fill "
                f"{'it' if one else 'them'} in, or remove the {'row' if one else 'rows'}."
            )
        return rows, f"its column {column}" if column else ""

    def _paths(self, rows: Sequence[Row], extension: str | None) -> list[str]:
        """Find the file of each row; where several have its name, the ending that all other rows have decides."""
        files = FileIndex(self.root)
        self._names = files.names
        found = [[row.path] if row.path in self._anywhere else files.find(row.path) for row in rows]
        if missing := [f"{row.where} {shown(row.path)!r}" for row, paths in zip(rows, found, strict=True) if not paths]:
            raise UserError(
                f"{self.name}: {len(missing)} of {counted(len(rows), 'row')} name files that are not in {self.root}: "
                f"{listed(missing, 5)}. Add the files, remove the rows, or set data.root to the folder that the paths "
                "are relative to."
            )
        endings = {ending(paths[0]) for paths in found if len(paths) == 1}
        chosen = ending(extension) if extension else endings.pop() if len(endings) == 1 else None
        several = [number for number, paths in enumerate(found) if len(paths) > 1]
        for number in several:
            row, paths = rows[number], found[number]
            found[number] = [path for path in paths if ending(path) == chosen]
            if len(found[number]) != 1:
                left = found[number] or paths
                kinds = sorted({ending(path)[1:] for path in left})
                advice = (
                    f"Say which ending the photos have: data.extension={kinds[0]}"
                    if len(kinds) > 1
                    else f"Write the path from data.root on, such as {shown(left[0])}, or set data.root to the folder "
                    "that has the photos"
                )
                raise UserError(f"{self.name}: {row.where}: {shown(row.path)!r} may be {listed(left, 3)}. {advice}.")
        notes = (
            [f"{counted(len(several), 'row')} of {self.name} with several files: those with {chosen} are used"]
            if several
            else []
        )
        if files.respelled:
            written, path = next(iter(files.respelled.items()))
            notes.append(
                f"{len(files.respelled)} paths in {self.name} differ from the files' names in case, spaces, Unicode "
                f"form or leading zeros: {shown(written)} is {shown(path)}"
            )
        self.notes = notes
        return [path for (path,) in found]

    @classmethod
    def found_in(cls, root: Path, labels: LabelTable | None, cache_dir: str | None) -> Self | None:
        """Read the table that `labels` names; `None` without one, or if it has the photos in it.

        Raises:
            ArgumentError: if there is no such file.
            UserError: as the class.
        """
        if labels is None or has_images(file := table_file(root, labels.file), labels.file):
            return None
        check_shards([file], whole=True)
        return cls(root, file, labels.file, inside(root, file), labels)

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
        """List the photos in `test1/` and `test/` that the table does not have; all others beside a `labels.csv`."""
        known = {path for by_class in self._by_split.values() for paths in by_class.values() for path in paths}
        folders, names = {*SPELLINGS["test"], "test1"}, [path for path in self._names if path not in known]
        if not self._of_unsorted:
            names = [path for path in names if path.partition("/")[0].lower() in folders]
        return sorted(names, key=natural_key)


def table_file(root: Path, labels: str) -> Path:
    """Return the file of a table.

    Args:
        root: folder of the dataset.
        labels: path of the file, relative to `root` or else to the working directory; `~` is the home folder.

    Raises:
        ArgumentError: if there is no such file, with the tables that are there.
    """
    given = Path(labels).expanduser()
    if file := next((file for file in (root / given, given) if file.is_file()), None):
        return file
    there = listed([name for name in list_folder(root)[1] if is_table(name)])
    missing = f"labels={labels}: there is no such file in {root}, nor in the working directory. Give a table of paths"
    raise ArgumentError("data", f"{missing} and labels{f'; {there} is there' if there else ''}.")


def is_table(name: str) -> bool:
    """Return whether a file is a table, or a list, by its name."""
    return bool(re.fullmatch(r".*\.(?:csv|tsv|parquet)|.*label.*\.txt", name, re.IGNORECASE))


def other_labels(root: Path, places: Iterable[str], found: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str]]:
    """Find tables beside folders of photos that have other labels for them.

    Args:
        root: folder of the dataset.
        places: folders, relative to it, with `/` at the end, to look for tables.
        found: paths of the photos in each folder.

    Yields:
        The path of a table; and, in words, what it has.
    """
    index = FileIndex(root, [path for paths in found.values() for path in paths])
    folders = {path: folder for folder, paths in found.items() for path in paths}
    for place in dict.fromkeys(places):
        for file in list_folder(root / place)[1]:
            if labels := _other_labels(root / place / file, index, folders):
                yield (
                    f"{place}{file}",
                    f"{place}{file} has other labels for the photos than their folders {listed(list(found), 5)}: "
                    f"{listed(labels, 5)}",
                )


def _other_labels(file: Path, index: FileIndex, folders: Mapping[str, str]) -> list[str]:
    """Return the labels of a table beside folders if it has others for their photos; else an empty list.

    Labels are alike if any is the name of a folder, or each stands for one folder: `0` for `cats`, `1` for `dogs`.

    Args:
        file: a file, which may be such a table.
        index: the photos.
        folders: folder of each photo.
    """
    if not (is_table(file.name) or file.suffix.lower() == ".txt") or "submission" in file.name.lower():
        return []
    try:
        if has_images(file, file.name):
            return []
        _, columns, lines = labelled_rows(file, file.name, most=MOST_COMPARED)
        rows = [[cells[columns[kind]].strip() for kind in ("path", "label")] for _, cells in lines]
    except (UserError, OSError):  # not a table of photos
        return []
    named = [(label, paths) for path, label in rows if (paths := index.find(path))]
    pairs = {(label, folders[paths[0]]) for label, paths in named if label and len(paths) == 1 and paths[0] in folders}
    labels = sorted({label for label, _ in pairs})
    own = {*map(form, folders.values())} & {*map(form, labels)}
    if 2 * len(named) < len(rows) or len(labels) < 2 or own or len(pairs) == len(labels) == len({f for _, f in pairs}):
        return []
    return labels


def path_in(root: Path, file: Path) -> str:
    """Return the path of a file as `Photos` has it: relative to the root of the dataset, or absolute elsewhere."""
    top, path = os.path.abspath(root), os.path.abspath(file)  # noqa: PTH100  # text, as the paths are
    return path.removeprefix(f"{top.rstrip('/')}/")


def inside(root: Path, file: Path) -> list[str]:
    """Return the path of a file relative to `root`, in a list; an empty list if it is elsewhere."""
    file, root = file.absolute(), root.absolute()
    return [file.relative_to(root).as_posix()] if file.is_relative_to(root) else []
