"""Dataset layouts, found by looking: photos, classes and splits.

A new layout is a class with the methods of `Source`, in a module of its own, and its place in `SOURCES`. The first
class whose `found_in` returns a source is used.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, Self

from dogscats.base.errors import ArgumentError, UserError
from dogscats.base.files import cell
from dogscats.base.text import listed
from dogscats.data.photos.arguments import check_root
from dogscats.data.photos.class_names import in_one_spelling, joined_hint
from dogscats.data.photos.folders import Folders
from dogscats.data.photos.listing import set_aside, unreadable_notes, unreadable_skipped
from dogscats.data.photos.split import check_groups, group_pattern, hold_out, in_both, split_of
from dogscats.data.photos.tables.columns import LabelTable
from dogscats.data.photos.tables.label_table import Table
from dogscats.data.photos.unpack import UnpackedPhotos
from dogscats.data.pixels.shrink import Shrink

log = logging.getLogger(__name__)


class Source(Protocol):
    """Labelled photos of a dataset, by split and class, as one layout has them.

    Attributes:
        root: folder that paths of photos are relative to.
        name: its name in messages, such as `data.root=photos`.
        base: folder in `root` that the paths of all photos begin with, such as `PetImages/`; empty for `root` itself.
        tables: paths of tables, relative to the root of the dataset.
        empty_folders: folders beside class folders that have no photos; known after `by_class`.
        notes: remarks for the log; known after `test`.
    """

    root: Path
    name: str
    base: str
    tables: Sequence[str]
    empty_folders: Sequence[str]
    notes: Sequence[str]

    @classmethod
    def found_in(cls, root: Path, labels: LabelTable | None, cache_dir: str | None) -> Self | None:
        """Look whether a dataset has this layout; `None` if not.

        Args:
            root: folder of the dataset.
            labels: the table that the settings name; `None` without one.
            cache_dir: as in `DatasetFinder`.
        """

    @property
    def splits(self) -> list[str]:
        """Splits that it has."""

    def place(self, split: str) -> str:
        """Return where the photos of a split are, for messages."""

    def layout(self, splits: Sequence[str]) -> str:
        """Return the layout in a few words."""

    def by_class(self, split: str) -> dict[str, list[str]]:
        """List the photos of each class of a split; `train` is there in any case. Raises UserError without photos."""

    def single_split(self, split: str) -> dict[str, list[str]]:
        """List the photos of each class of one split or folder, to be evaluated. Raises UserError without it."""

    def test(self, classes: Sequence[str]) -> dict[str, list[str]]:
        """List the labelled test photos of each class, perhaps of others than `classes`; empty without any."""

    def unlabelled(self, labelled_test: bool) -> list[str]:
        """List the photos without labels, in `test1/` or `test/`."""


SOURCES: Sequence[type[Source]] = (Folders, Table, UnpackedPhotos)
"""Layouts, in the order in which they are looked for."""


@dataclass(frozen=True)
class Photos:
    """The photos of one split.

    Attributes:
        root: folder that `paths` are relative to.
        paths: relative paths with `/` as separator, in natural order within a class; absolute for files elsewhere.
        labels: class index of each photo; empty for unlabelled photos.
        odd: paths of photos that the JPEG library would print warnings about.
        shrink: how large photos are read; `None` to decode all in full.
        added: paths of photos that `data.add` has added, at the end.
        undecided: the photos before decisions dropped some; `None` if none are dropped.
    """

    root: Path
    paths: Sequence[str]
    labels: Sequence[int]
    odd: Collection[str] = ()
    shrink: Shrink | None = field(default=None, compare=False)  # the same photos, however they are read
    added: Collection[str] = field(default=(), compare=False, repr=False)
    undecided: "Photos | None" = field(default=None, compare=False, repr=False)

    def select(self, rows: Sequence[int]) -> "Photos":
        """Return the photos in some rows, as those of a dataset without decisions."""
        labels = [self.labels[row] for row in rows] if self.labels else []
        return replace(self, paths=[self.paths[row] for row in rows], labels=labels, undecided=None)


@dataclass(frozen=True)
class Found:
    """The photos of a dataset, as its layout has them.

    Attributes:
        classes: sorted class names.
        train: training photos.
        valid: validation photos.
        test: photos of a labelled test split; `None` without one.
        unlabelled: photos without labels, in `test1/` or `test/`.
        layout: the layout in a few words: `train/ + val/`.
        held_out: where the photos are that the validation photos are held out from; empty if those are given.
        labelled: paths of all labelled photos, including those that `limit` leaves out.
        tables: paths of the tables that they are from, relative to the root.
        empty_folders: folders beside class folders that have no photos.
        notes: remarks for the log about groups, and about folders that are not classes.
    """

    classes: list[str]
    train: Photos
    valid: Photos
    test: Photos | None
    unlabelled: Photos
    layout: str
    held_out: str = ""
    labelled: Sequence[str] = ()
    tables: Sequence[str] = ()
    empty_folders: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def splits(self) -> dict[str, Photos]:
        """Labelled photos of each split that has any: train, valid and perhaps test."""
        return {"train": self.train, "valid": self.valid} | ({"test": self.test} if self.test else {})

    @property
    def used(self) -> list[str]:
        """Paths of all labelled and unlabelled photos, relative to their root, and of tables."""
        return [*self.tables, *self.labelled, *self.unlabelled.paths]


@dataclass(frozen=True)
class DatasetFinder:
    """Finds the photos of a dataset: in folders of splits and classes, by Kaggle's flat names, or in a table.

    Attributes:
        root: folder of the dataset.
        valid_fraction: share of each class of the training photos to hold out if there are no validation photos; or 0.
        seed: seeds the choice of held-out photos.
        limit: maximum number of photos per class and split, taken from the start; `None` for all.
        labels: table of paths and labels, relative to `root`; `None` for folders.
        group: regular expression that names the group of a photo; groups are held out whole.
        cache_dir: folder to unpack photos in Parquet files to; `None` for the default of `cache_folder`.
        columns: names of the columns of the table, by `path`, `label` and `split`; `None` to find them.
        extension: ending of the photos where several files have the name in the table; `None` to find it.
        skip: whether to leave out folders that cannot be listed, and say so, instead of an error.
        aside: folders that may lie in `root`, and have no photos of the dataset.
    """

    root: Path
    valid_fraction: float = 0.2
    seed: int = 0
    limit: int | None = None
    labels: str | Path | None = None
    group: str | None = None
    cache_dir: str | None = None
    columns: Mapping[str, str] | None = None
    extension: str | None = None
    skip: bool = False
    aside: Sequence[Path] = ()

    def find(self) -> Found:
        """Find the photos of all splits.

        Raises:
            UserError: if folders, classes or photos are missing, or the classes differ between splits.
        """
        with unreadable_skipped(self.skip) as unreadable, set_aside(self.aside):
            found = self._found(self._source())
        return replace(found, notes=[*found.notes, *unreadable_notes(unreadable)])

    def find_split(self, split: str) -> tuple[list[str], Photos, str]:
        """Find the labelled photos of one split; other splits may be missing.

        Without validation photos, `train` and `valid` are the same parts of the training photos as in `find`.

        Args:
            split: name of the split in any spelling, or of a folder in `root`.

        Returns:
            Sorted class names, some possibly without photos; the photos; and, if a share is held out from the split
            that they are a part of, where its photos are.

        Raises:
            UserError: if folders are missing.
        """
        with unreadable_skipped(self.skip) as unreadable, set_aside(self.aside):
            source, kind = self._source(), split_of(split)
            if kind in ("train", "valid") and "valid" not in source.splits:
                found = self._found(source)
                result = found.classes, found.splits[kind], found.held_out
            else:
                (by_class,), _ = in_one_spelling(source.single_split(split))
                result = list(by_class), _photos(source.root, by_class, self.limit), ""
        for note in unreadable_notes(unreadable):
            log.warning("%s", note)
        return result

    @property
    def has_valid(self) -> bool:
        """Whether there are validation photos, or some are held out."""
        return self.valid_fraction > 0 or "valid" in self._source().splits

    def _source(self) -> Source:
        check_root(self.root)
        columns = {kind: str(name) for kind, name in (self.columns or {}).items()}
        extension = self.extension and str(self.extension)
        labels = None if self.labels is None else LabelTable(str(self.labels), columns, extension)
        if labels is None and (columns or self.extension):
            given = f"columns={columns}" if columns else f"extension={self.extension}"
            raise ArgumentError("data", f"{given}: it needs a table: data.labels=<table>.")
        looked = (source.found_in(self.root, labels, self.cache_dir) for source in SOURCES)
        return next(source for source in looked if source is not None)

    def _found(self, source: Source) -> Found:
        pattern, where, place = group_pattern(self.group), "", source.place
        train = source.by_class("train")
        valid = source.by_class("valid") if "valid" in source.splits else {}
        (train, valid, test), spelled = in_one_spelling(train, valid, source.test(list(train)))
        classes = list(train)
        if len(classes) < 2:
            raise UserError(
                f"{source.name}: {place('train')} has only one class, {classes[0]!r}. Add photos of at least one more "
                "class."
            )
        _check_distinct(source.name, classes)
        if unknown := [name for name in test if name not in train]:
            raise UserError(
                f"{source.name}: {place('test')} has photos of {listed(unknown)}, but the classes of {place('train')} "
                f"are {listed(classes)}. Take the others out of {place('test')}."
            )
        notes = [*source.notes, *spelled, *(hint := joined_hint(classes) if source.tables else [])]
        notes += check_groups(train, pattern) if pattern else []
        if "valid" in source.splits:
            if classes != list(valid):
                only = [", ".join(sorted(set(a) - set(b))) or "none" for a, b in ((train, valid), (valid, train))]
                raise UserError(
                    f"{source.name}: the classes of train and valid differ. Only in {place('train')}: {only[0]}. Only "
                    f"in {place('valid')}: {only[1]}."
                )
        elif self.valid_fraction:
            where = place("train")
            train, valid = hold_out(train, source.base, pattern, self.valid_fraction, self.seed, source.name, *hint)
        if pattern:
            notes += in_both(train, valid, pattern, "valid") + in_both(train, test, pattern, "test")
        splits = ["train", *(["valid"] if "valid" in source.splits else []), *(["test"] if test else [])]
        by = " by data.group" if pattern else ""
        share = f", {100 * self.valid_fraction:g} % held out{by}" if where else ""
        return Found(
            classes=classes,
            train=_photos(source.root, train, self.limit),
            valid=_photos(source.root, valid, self.limit),
            test=_photos(source.root, test, self.limit, classes) if test else None,
            unlabelled=Photos(source.root, source.unlabelled(bool(test)), []),
            layout=f"{source.layout(splits)}{share}",
            held_out=where,
            labelled=[path for by_class in (train, valid, test) for paths in by_class.values() for path in paths],
            tables=source.tables,
            empty_folders=source.empty_folders,
            notes=notes,
        )


def _check_distinct(name: str, classes: Sequence[str]) -> None:
    """Refuse classes whose names would be the same in tables, where odd characters are escaped."""
    seen: dict[str, str] = {}
    for each in classes:
        if (other := seen.setdefault(str(cell(each)), each)) != each:
            raise UserError(f"{name}: the classes {other!r} and {each!r} look the same in tables. Rename one.")


def _photos(
    root: Path, by_class: Mapping[str, Sequence[str]], limit: int | None, classes: Sequence[str] | None = None
) -> Photos:
    """List the photos of each class, labelled by its position in `classes`, which may have more."""
    numbers = {name: number for number, name in enumerate(classes or by_class)}
    chosen = [(path, numbers[name]) for name, paths in by_class.items() for path in paths[:limit]]
    return Photos(root, [path for path, _ in chosen], [label for _, label in chosen])
