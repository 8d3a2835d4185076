"""Rows of `data.add`, new labels of photos that may lie anywhere: `path,label`, and perhaps `folder`, as labels.csv."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from dogscats.base.content import file_versions
from dogscats.base.errors import ArgumentError, UserError
from dogscats.base.files import cell
from dogscats.base.text import counted, form, listed, shown
from dogscats.data.added.stranger_photos import NONE
from dogscats.data.photos.layouts import Found, Photos
from dogscats.data.photos.tables.columns import COLUMNS, find_columns
from dogscats.data.photos.tables.label_table import path_in
from dogscats.data.photos.tables.table_rows import is_empty, table_rows


class AddedRow(NamedTuple):
    """A row; `where` names it in messages, `path` is as in `Photos`, and `folder` what it was relative to."""

    where: str
    path: str
    label: str
    folder: Path

    def __str__(self) -> str:
        return f"{self.where} {shown(self.path)!r}"


class Joined(NamedTuple):
    """A dataset with added photos.

    Attributes:
        found: the dataset; its training photos end with those that were added.
        strangers: paths of rows of no class.
        note: what was added and left out, for the log.
    """

    found: Found
    strangers: Sequence[str]
    note: str


def read_rows(file: str | Path, root: Path) -> list[AddedRow]:
    """Read the rows of a table.

    Args:
        file: the table, also its name in messages.
        root: root of the dataset.

    Raises:
        UserError: if it cannot be read, or a row lacks its path or label.
    """
    name, table = str(file), Path(file).expanduser()
    if not table.is_file():
        raise ArgumentError(
            "data", f"add={name}: there is no such file. Give a table with the columns path and label, as labels.csv."
        )
    lines = table_rows(table, name)
    _, header = next(lines, ("", []))
    kinds = {"path": COLUMNS["path"], "label": COLUMNS["label"], "folder": ("folder",)}
    columns = find_columns(name, header, usual_names=kinds)
    rows = []
    for where, cells in lines:
        path, label, *others = ("" if is_empty(cells[index]) else cells[index].strip() for index in columns.values())
        if not path or not label:
            what = "label" if path else "path"
            raise UserError(f"{name}: {where}: it has no {what}. Fill it in, or remove the row.")
        folder = table.parent / Path(others[0] if others else "").expanduser()
        if path.startswith("'") and not (folder / path).is_file():  # as spreadsheets are kept from a formula
            path = path[1:]
        rows.append(AddedRow(where, path_in(root, folder / path), label, folder))
    return rows


def join_rows(found: Found, rows: Sequence[AddedRow], name: str, skip: bool) -> Joined:
    """Join rows with the training photos of a dataset; photos that it has already, and copies, are left out.

    A label that no class has is a new class. `none` is no class, unless a class is called so: then `(none)` is none.

    Args:
        found: the dataset.
        rows: the rows.
        name: name of the table in messages.
        skip: whether to leave out rows of photos that are gone, instead of an error.

    Raises:
        UserError: for rows of photos that are gone, or that contradict each other or the dataset.
    """
    root, notes = found.train.root, list[str]()
    versions = list(file_versions(root, (row.path for row in rows)))
    if gone := [str(row) for row, version in zip(rows, versions, strict=True) if version is None]:
        said = f"{len(gone)} of {counted(len(rows), 'row')} name photos that are gone: {listed(gone, len(gone))}"
        if not skip:
            advice = "Put them back, remove the rows, or leave them out: data.on_bad_image=skip"
            raise UserError(f"{name}: {said}. {advice}.")
        notes.append(said)
    spelled = {form(text): name for name in found.classes for text in (str(cell(name)), name)}  # also as in CSV files
    strangers = f"({NONE})" if NONE in spelled else NONE
    held_out = {
        version[1:]
        for photos in (found.valid, found.test or found.valid)
        for version in file_versions(root, photos.paths)
        if version
    }
    own = zip(found.train.paths, found.train.labels, file_versions(root, found.train.paths), strict=True)
    known = {version[1:]: (path, found.classes[label], "the dataset") for path, label, version in own if version}
    by_label: dict[str, list[str]] = {}
    copies, again, wrong = 0, 0, list[str]()
    for row, version in zip(rows, versions, strict=True):
        if version is None:
            continue
        label = spelled.setdefault(form(row.label), row.label) if form(row.label) != strangers else strangers
        if version[1:] in held_out:
            copies += 1
            continue
        path, before, where = known.setdefault(version[1:], (row.path, label, row.where))
        if before != label:
            same = "" if path == row.path else f" (the same photo as {shown(path)!r})"
            wrong.append(f"{row}{same} is {shown(label)!r}, but {shown(before)!r} in {where}")
        elif where != row.where:
            again += 1
        else:
            by_label.setdefault(label, []).append(row.path)
    if wrong:
        raise UserError(
            f"{name}: {counted(len(wrong), 'contradiction')}: {'; '.join(wrong[:10])}{'; ...' if wrong[10:] else ''}. "
            "Remove one of the rows; to relabel photos of the dataset: data.decisions."
        )
    of_none = by_label.pop(strangers, [])
    new = sorted({*by_label} - {*found.classes})
    added = sum(map(len, by_label.values()))
    notes.insert(0, f"{counted(added, 'photo')} for training, {len(of_none)} of no class")
    notes += [f"{again} are there already"] if again else []
    notes += [f"{copies} left out, copies of validation or test photos"] if copies else []
    notes += [f"new classes: {listed(new)}"] if new else []
    return Joined(_with(found, by_label), of_none, f"{name}: {'; '.join(notes)}")


def _with(found: Found, by_label: Mapping[str, Sequence[str]]) -> Found:
    """Append photos by label to the training photos, with classes for new labels."""
    classes = sorted({*found.classes, *by_label})
    numbers = [classes.index(name) for name in found.classes]

    def numbered(photos: Photos) -> Photos:
        return replace(photos, labels=[numbers[label] for label in photos.labels])

    train = numbered(found.train)
    pairs = [(path, classes.index(label)) for label, paths in sorted(by_label.items()) for path in paths]
    paths = [path for path, _ in pairs]
    train = replace(
        train,
        paths=[*train.paths, *paths],
        labels=[*train.labels, *(label for _, label in pairs)],
        added=frozenset(paths),
    )
    labelled, test = [*found.labelled, *paths], found.test and numbered(found.test)
    return replace(found, classes=classes, train=train, valid=numbered(found.valid), test=test, labelled=labelled)
