"""Decisions about photos, `decisions.csv`: which to drop, relabel, or make strangers. No file of a photo is touched."""

import io
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from dogscats.base.errors import UserError
from dogscats.base.files import cell
from dogscats.base.text import counted, listed, plural, shown
from dogscats.data.photos.arguments import check_decisions
from dogscats.data.photos.layouts import Photos
from dogscats.data.photos.tables.columns import find_columns
from dogscats.data.photos.tables.table_rows import ENCODING, text_rows

KINDS = ("keep", "drop", "relabel", "none")

COLUMNS = {"path": ("path",), "decision": ("decision",), "label": ("label",)}

STRANGER = -1
"""Stands for the class of a photo that is of no class: it is dropped from its split, and becomes a stranger."""

NewLabels = Mapping[str, int | None]
"""Class index of each photo that decisions change, by path; `None` for a dropped one, and `STRANGER`."""


class Decision(NamedTuple):
    """A row of a file; `where` names it in messages, such as `line 3`, and `kind` is one of `KINDS`."""

    where: str
    path: str
    kind: str
    label: str


@dataclass(frozen=True)
class Decisions:
    """Decisions of a file.

    Attributes:
        name: name of the file in messages.
        content: content of the file.
        rows: its rows.
    """

    name: str
    content: bytes
    rows: Sequence[Decision]

    def new_labels(
        self, photos: Mapping[str, int], classes: Sequence[str], others: Collection[str] | None = None
    ) -> tuple[dict[str, int | None], int]:
        """Find the new labels of photos, and the number of decisions that are about these photos.

        Args:
            photos: class index of each photo, by path.
            classes: class names.
            others: paths of further photos, about which decisions are ignored; `None` to ignore those about all
                others, known or not.

        Raises:
            UserError: for decisions about unknown photos, unknown classes, and several decisions about one photo.
        """
        # Paths and class names may be as this project writes them to CSV: those like a formula have an apostrophe.
        every = photos.keys() | set(others or ())
        written = {form: path for path in every if (form := str(cell(path))) != path}
        numbers = {form: number for number, name in enumerate(classes) for form in (str(cell(name)), name)}
        found, unknown, applied = dict[str, tuple[int | None, Decision]](), list[Decision](), 0
        for row in self.rows:
            if row.kind == "relabel" and row.label not in numbers:
                raise self._error(row, f"its label is {shown(row.label)!r}, expected one of {listed(classes)}")
            forms = (row.path, row.path.strip(), row.path.strip().replace("\\", "/"))
            meant = (form if form in every else written.get(form) for form in forms)
            path = next((path for path in meant if path is not None), None)
            if path is None and others is not None:
                unknown.append(row)
            if path is None or path not in photos:
                continue
            applied += 1
            if row.kind == "relabel" and photos[path] == STRANGER:
                raise self._error(row, "it relabels a stranger. Label the photo in a table for data.add")
            if row.kind == "keep" and row.label and numbers.get(row.label) != photos[path]:
                own = shown([*classes, "none"][photos[path]])  # whose last is that of a stranger
                raise self._error(
                    row,
                    f"it keeps a photo of {own!r}, but its label is {shown(row.label)!r}. Write relabel to change "
                    "the label, or leave it empty",
                )
            labels = {"keep": photos[path], "drop": None, "relabel": numbers.get(row.label), "none": STRANGER}
            label = labels[row.kind]
            before, first = found.setdefault(path, (label, row))
            if label != before:
                raise self._error(
                    row, f"it says {_said(row)}, but {first.where} says {_said(first)} for the same photo. Remove one"
                )
        if unknown:
            names = listed([f"{row.where} {shown(row.path)!r}" for row in unknown], 5)
            raise UserError(
                f"{self.name}: {len(unknown)} of {counted(len(self.rows), 'decision')} "
                f"{plural(len(unknown), 'is', 'are')} about photos that the dataset does not have: {names}. "
                "Correct the paths, which begin below data.root as in photos.csv of a run, or remove the rows."
            )
        return {path: label for path, (label, _) in found.items() if label != photos[path]}, applied

    def _error(self, row: Decision, what: str) -> UserError:
        return UserError(f"{self.name}: {row.where}: {what}.")


def _said(row: Decision) -> str:
    return f"relabel {shown(row.label)!r}" if row.kind == "relabel" else row.kind


def read_decisions(name: str) -> Decisions:
    """Read a CSV file with the columns path, decision and label.

    A missing cell at the end of a row is an empty one, and the column label may be missing if nothing is relabeled.

    Args:
        name: path of the file, also its name in messages; `~` is the home folder.

    Raises:
        UserError: if the file does not exist or cannot be read, or a decision is unknown or incomplete.
    """
    check_decisions(name)
    content = Path(name).expanduser().read_bytes()
    lines = io.TextIOWrapper(io.BytesIO(content), ENCODING, newline="")
    rows = text_rows(lines, name, COLUMNS, may_be_short=True)
    _, header = next(rows, ("", []))
    columns = find_columns(name, header, ("path", "decision"), COLUMNS)
    decisions = []
    for where, cells in rows:
        path, kind, label = (cells[columns[column]] if column in columns else "" for column in COLUMNS)
        row = Decision(where, path, kind.strip().lower(), label.strip())
        if not path.strip():
            raise UserError(f"{name}: {where}: it has no path. Fill it in, or remove the row.")
        if row.kind not in KINDS:
            raise UserError(f"{name}: {where}: its decision is {shown(kind)!r}, expected {', '.join(KINDS)}.")
        if row.kind == "relabel" and not row.label:
            raise UserError(f"{name}: {where}: it has no label. Fill in the new class, or remove the row.")
        decisions.append(row)
    return Decisions(name, content, decisions)


def decide(
    decisions: Decisions | None,
    splits: Mapping[str, Photos],
    classes: Sequence[str],
    others: Collection[str] | None = None,
    strangers: Collection[str] = (),
) -> tuple[NewLabels, str]:
    """Find the changes that decisions make to splits.

    Args:
        decisions: decisions about photos; `None` without any.
        splits: labelled photos of each split.
        classes: class names.
        others: paths of further photos, about which decisions are ignored; `None` to ignore those about all others,
            known or not, and to allow that a class loses all its photos.
        strangers: paths of photos of no class, which can be dropped.

    Returns:
        The new labels; and what changes, in one line, empty without decisions.

    Raises:
        UserError: for decisions that do not fit the photos, leave a split without photos, or a class of train or valid.
    """
    if decisions is None:
        return {}, ""
    labels = {path: label for part in splits.values() for path, label in zip(part.paths, part.labels, strict=True)}
    changes, applied = decisions.new_labels(dict.fromkeys(strangers, STRANGER) | labels, classes, others)
    for split, photos in splits.items():
        left = set(decided(photos, changes).labels)
        gone = [name for number, name in enumerate(classes) if number not in left]
        if photos.paths and (not left or (gone and split != "test" and others is not None)):
            what = f"class {shown(gone[0])!r} in {split}" if left else split
            raise UserError(f"{decisions.name}: no photo of {what} is left. Keep some.")
    left_out = len(decisions.rows) - applied
    why = "photos of other splits" if others is None else "photos that data.limit leaves out"
    others_are = f"; {left_out} {plural(left_out, 'is', 'are')} about {why}" if left_out else ""
    applies = f"{applied} of {len(decisions.rows)} decisions apply{others_are}"
    paths = {split: photos.paths for split, photos in splits.items()} | {"strangers": [*strangers]}
    return changes, f"{_summary(decisions.name, paths, changes)}. {applies}"


def _summary(name: str, splits: Mapping[str, Sequence[str]], changes: NewLabels) -> str:
    """Say in one line what changes: `decisions.csv: 3 photos dropped (train 2, valid 1), 1 relabeled (train 1)`."""
    what = {None: "dropped", STRANGER: "of no class"}
    found = {"dropped": Counter[str](), "relabeled": Counter[str](), "of no class": Counter[str]()}
    for split, paths in splits.items():
        for path in paths:
            if path in changes:
                found[what.get(changes[path], "relabeled")][split] += 1
    parts = []
    for kind, numbers in found.items():
        if kind != "of no class" or numbers:
            where = ", ".join(f"{split} {number}" for split, number in numbers.items())
            total = counted(numbers.total(), "photo") if kind == "dropped" else numbers.total()
            parts.append(f"{total} {kind}{f' ({where})' if where else ''}")
    return f"{name}: {', '.join(parts)}"


def decided(photos: Photos, changes: NewLabels) -> Photos:
    """Drop and relabel photos; the others keep their order and labels. Strangers are dropped, too."""
    pairs = zip(photos.paths, photos.labels, strict=True)
    kept = [(path, new) for path, label in pairs if (new := changes.get(path, label)) is not None and new >= 0]
    labels = [label for _, label in kept]
    if len(kept) == len(photos.paths):
        return replace(photos, labels=labels)
    return replace(photos, paths=[path for path, _ in kept], labels=labels, undecided=photos)


def before_decisions(photos: Photos) -> tuple[Photos, list[int] | None]:
    """Return the photos whose activations are cached: those before decisions, so all decisions share a cache.

    Returns:
        The photos; and the row of each of the given photos in them, `None` if they are the same.
    """
    whole = photos.undecided
    rows = {path: row for row, path in enumerate(whole.paths)} if whole else {}
    # A user's own data module may have added photos, or changed the root.
    if whole is None or whole.root != photos.root or not all(path in rows for path in photos.paths):
        return photos, None
    return replace(photos, paths=whole.paths, labels=whole.labels), [rows[path] for path in photos.paths]
