"""Dataset layouts, found by looking: photos, classes and splits."""

import re
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dogscats.base.environment import how_to_install
from dogscats.base.errors import ArgumentError, UserError
from dogscats.base.files import cell
from dogscats.base.text import listed, shown
from dogscats.data.photos.arguments import check_root
from dogscats.data.photos.folders import Folders
from dogscats.data.photos.parquet import has_images
from dogscats.data.photos.split import group_of, group_pattern, held_out, held_out_groups, split_of
from dogscats.data.photos.tables import Table, read_table
from dogscats.data.photos.unpack import unpacked
from dogscats.data.pixels.images import natural_key, walk_files
from dogscats.data.pixels.shrink import Shrink

DERIVED = ("tmp/activations-", "tmp/checked-", "tmp/parquet-", "tmp/shrunken-")
"""Beginnings of the paths of files that this project keeps in the cache folder in the root."""


@dataclass(frozen=True)
class Photos:
    """The photos of one split.

    Attributes:
        root: folder that `paths` are relative to.
        paths: relative paths with `/` as separator, in natural order within a class; absolute for files elsewhere.
        labels: class index of each photo; empty for unlabelled photos.
        odd: paths of photos that the JPEG library would print warnings about.
        shrink: how large photos are read; `None` to decode all in full.
        undecided: the photos before decisions dropped some; `None` if none are dropped.
    """

    root: Path
    paths: Sequence[str]
    labels: Sequence[int]
    odd: Collection[str] = ()
    shrink: Shrink | None = field(default=None, compare=False)  # the same photos, however they are read
    undecided: "Photos | None" = field(default=None, compare=False, repr=False)


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
        held_out: where the photos are of which a share is held out; empty if the validation photos are given.
        labelled: paths of all labelled photos, also of those that `limit` leaves out.
        tables: paths of the tables that they are from, relative to the root.
        hollow: folders beside class folders that have no photos.
        notes: what the log should say about groups, and about folders that are not classes.
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
    hollow: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def used(self) -> list[str]:
        """Paths of all labelled and unlabelled photos, relative to their root, and of tables."""
        return [*self.tables, *self.labelled, *self.unlabelled.paths]


def find_dataset(
    root: Path,
    valid_fraction: float = 0.2,
    seed: int = 0,
    limit: int | None = None,
    labels: str | None = None,
    group: str | None = None,
    cache_dir: str | None = None,
) -> Found:
    """Find the photos in `root`: in folders of splits and classes, by Kaggle's flat names, or in a table.

    Args:
        root: folder of the dataset.
        valid_fraction: share of each class of the training photos to hold out if there are no validation photos.
        seed: seeds the choice of held-out photos.
        limit: maximum number of photos per class and split, taken from the start; `None` for all.
        labels: table of paths and labels, relative to `root`; `None` for folders.
        group: regular expression that names the group of a photo; groups are held out whole.
        cache_dir: folder to unpack photos in Parquet files to; `None` for the default of `cache.cache_folder`.

    Raises:
        UserError: if folders, classes or photos are missing, or the classes differ between splits.
    """
    return _find(*_source(root, labels, cache_dir), valid_fraction, seed, limit, group)


def _find(
    source: Folders | Table,
    tables: Sequence[str],
    valid_fraction: float,
    seed: int,
    limit: int | None,
    group: str | None,
) -> Found:
    """Find the photos of a layout; see `find_dataset`."""
    pattern, notes = group_pattern(group), list[str]()
    train = source.by_class("train")
    if len(train) < 2:
        raise UserError(
            f"{source.name}: {source.place('train')} has only one class, {next(iter(train))!r}. "
            "Add photos of at least one more class."
        )
    _check_distinct(source.name, list(train))
    test, where = source.test(list(train)), ""
    notes += source.notes
    if pattern:
        notes += _ungrouped(train, pattern)
    if "valid" in source.splits:
        valid = source.by_class("valid")
        if list(train) != list(valid):
            only = [", ".join(sorted(set(a) - set(b))) or "none" for a, b in ((train, valid), (valid, train))]
            places = [source.place(split) for split in ("train", "valid")]
            raise UserError(
                f"{source.name}: the classes of train and valid differ. "
                f"Only in {places[0]}: {only[0]}. Only in {places[1]}: {only[1]}."
            )
    else:
        where = source.place("train")
        train, valid = _hold_out(source, train, valid_fraction, seed, pattern)
    if pattern:
        for split, others in ("valid", valid), ("test", test):
            notes += _in_both(train, others, pattern, split)
    splits = ["train", *(["valid"] if not where else []), *(["test"] if test else [])]
    share = f", {100 * valid_fraction:g} % held out{' by data.group' if pattern else ''}" if where else ""
    unlabelled = source.unlabelled(bool(test))
    labelled = [path for by_class in (train, valid, test) for paths in by_class.values() for path in paths]
    return Found(
        list(train),
        _photos(source.root, train, limit),
        _photos(source.root, valid, limit),
        _photos(source.root, test, limit, list(train)) if test else None,
        Photos(source.root, unlabelled, []),
        f"{source.layout(splits)}{share}",
        where,
        labelled,
        tables,
        source.hollow,
        notes,
    )


def find_split(
    root: Path,
    split: str,
    valid_fraction: float = 0.2,
    seed: int = 0,
    limit: int | None = None,
    labels: str | None = None,
    group: str | None = None,
    cache_dir: str | None = None,
) -> tuple[list[str], Photos, str]:
    """Find the labelled photos of one split; other splits may be missing.

    Without validation photos, `train` and `valid` are the same parts of the training photos as in `find_dataset`.

    Args:
        root: folder of the dataset.
        split: name of the split in any spelling, or of a folder in `root`.
        valid_fraction: held-out share, as in `find_dataset`.
        seed: seed, as in `find_dataset`.
        limit: maximum number of photos per class, as in `find_dataset`.
        labels: table, as in `find_dataset`.
        group: regular expression, as in `find_dataset`.
        cache_dir: folder, as in `find_dataset`.

    Returns:
        Sorted class names, some possibly without photos; the photos; and, if they are one part of a split of which a
        share is held out, where its photos are.

    Raises:
        UserError: if folders are missing.
    """
    source, tables = _source(root, labels, cache_dir)
    kind = split_of(split)
    if kind in ("train", "valid") and "valid" not in source.splits:
        found = _find(source, tables, valid_fraction, seed, limit, group)
        return found.classes, found.train if kind == "train" else found.valid, found.held_out
    if kind in source.splits and kind is not None:
        by_class = source.by_class(kind, allow_empty=True)
    elif kind is None and isinstance(source, Folders) and (root / split).is_dir():
        by_class = source.of_folder(split)
    else:
        folders = sorted(f.name for f in root.iterdir() if f.is_dir() and not f.name.startswith("."))
        if isinstance(source, Table):
            raise UserError(f"split={split}: {source.name} has no rows of it, only of {', '.join(source.splits)}.")
        raise UserError(f"split={split}: data.root={root} has no folder {split}/, only {', '.join(folders) or 'none'}.")
    return list(by_class), _photos(source.root, by_class, limit), ""


def leave_out(photos: Photos, bad: Container[str]) -> Photos:
    """Remove the labelled photos whose paths are in `bad`."""
    kept = [pair for pair in zip(photos.paths, photos.labels, strict=True) if pair[0] not in bad]
    return replace(photos, paths=[path for path, _ in kept], labels=[label for _, label in kept])


def left_out(root: Path, used: Iterable[str]) -> list[str]:
    """List the files in `root` that are not used, apart from what this project keeps there, in natural order.

    Args:
        root: folder of the dataset.
        used: paths of the files that are used.
    """
    known = set(used)
    return sorted((f for f in walk_files(root) if f not in known and not f.startswith(DERIVED)), key=natural_key)


def left_out_summary(files: Sequence[str], hollow: Sequence[str] = ()) -> str:
    """Say how many files are left out, and name the first; also name folders without photos."""
    parts = []
    if files:
        names = ", ".join(map(shown, files[:5])) + (", ..." if len(files) > 5 else "")
        parts.append(f"{len(files)} file{'s' if len(files) > 1 else ''} left out: {names}.")
    if any(file.lower().endswith((".heic", ".heif")) for file in files):
        parts.append(f"HEIC photos need pillow-heif: {how_to_install('heif')}.")
    if other := next((file.split("/")[0] for file in files if re.match("dev/", file)), None):
        parts.append(f"If {other}/ has your validation photos, rename it to valid/.")
    if hollow:
        parts.append(f"Folders without photos, left out: {listed(hollow, 5)}.")
    return " ".join(parts)


def _source(root: Path, labels: str | None, cache_dir: str | None) -> tuple[Folders | Table, list[str]]:
    """Read the layout of a dataset.

    Returns:
        Its photos by split and class, and the tables they are from, relative to `root`.
    """
    check_root(root)
    if labels is None:
        folders = Folders(root)
        if files := folders.parquet_files():
            return unpacked(root, files, cache_dir, splits=True), [file.relative_to(root).as_posix() for file in files]
        return folders, []
    file = root / Path(labels).expanduser()
    if not file.is_file():
        there = sorted(f.name for f in root.iterdir() if f.suffix.lower() in (".csv", ".tsv", ".parquet"))
        raise ArgumentError(
            "data",
            f"labels={labels}: there is no such file in {root}. Give a table of paths and labels"
            f"{f'; {listed(there)} is there' if there else ''}.",
        )
    inside = file.absolute().is_relative_to(root.absolute())
    tables = [file.absolute().relative_to(root.absolute()).as_posix()] if inside else []
    if has_images(file, labels):
        return unpacked(root, [file], cache_dir, splits=False), tables
    return read_table(root, file, labels), tables


def _check_distinct(name: str, classes: Sequence[str]) -> None:
    """Refuse classes whose names would be the same in tables, where odd characters are escaped."""
    seen: dict[str, str] = {}
    for each in classes:
        other = seen.setdefault(str(cell(each)), each)
        if other != each:
            raise UserError(f"{name}: the classes {other!r} and {each!r} look the same in tables. Rename one.")


def _photos(
    root: Path, by_class: Mapping[str, Sequence[str]], limit: int | None, classes: Sequence[str] | None = None
) -> Photos:
    """List the photos of each class, labelled by its position in `classes`, which may have more."""
    numbers = {name: number for number, name in enumerate(classes or by_class)}
    chosen = [(path, numbers[name]) for name, paths in by_class.items() for path in paths[:limit]]
    return Photos(root, [path for path, _ in chosen], [label for _, label in chosen])


def _hold_out(
    source: Folders | Table,
    train: Mapping[str, Sequence[str]],
    fraction: float,
    seed: int,
    pattern: re.Pattern[str] | None,
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Split the training photos into those that are trained on and those that are held out."""
    start = len(source.base)  # the same photos, whether data.root is the dataset or a folder around it
    names = {name: [path[start:] for path in paths] for name, paths in train.items()}
    if pattern:
        chosen = held_out_groups(names, lambda path: group_of(pattern, source.base + path), fraction, seed)
    else:
        chosen = {name: held_out(paths, fraction, seed) for name, paths in names.items()}
    kept: dict[str, list[str]] = {}
    valid: dict[str, list[str]] = {}
    for name, paths in train.items():
        if len(paths) < 2:
            raise UserError(
                f"{source.name}: class {name!r} has only one photo, and there are no validation photos. "
                "Add photos: training and validation need at least one each."
            )
        if not 0 < len(chosen[name]) < len(paths):
            raise UserError(
                f"{source.name}: the {len(paths)} photos of class {name!r} are in too few groups of data.group to hold "
                "some out. Add photos of other groups, or make the groups smaller."
            )
        apart = set(chosen[name])
        kept[name] = [path for path in paths if path[start:] not in apart]
        valid[name] = [path for path in paths if path[start:] in apart]
    return kept, valid


def _ungrouped(by_class: Mapping[str, Sequence[str]], pattern: re.Pattern[str]) -> list[str]:
    """Say how many photos have no group.

    Raises:
        ArgumentError: if none has.
    """
    every = [path for paths in by_class.values() for path in paths]
    alone = [path for path in every if group_of(pattern, path) is None]
    if len(alone) == len(every):
        raise ArgumentError(
            "data", f"group={pattern.pattern}: it matches no path of a photo. The first is {shown(every[0])}."
        )
    if not alone:
        return []
    return [f"{len(alone)} of {len(every)} photos match no data.group and are on their own: {listed(alone, 3)}"]


def _in_both(
    train: Mapping[str, Sequence[str]], others: Mapping[str, Sequence[str]], pattern: re.Pattern[str], split: str
) -> list[str]:
    """Say how many groups are in two splits."""
    first: dict[str, str] = {}
    for paths in train.values():
        for path in paths:
            if (group := group_of(pattern, path)) is not None:
                first.setdefault(group, path)
    both: dict[str, str] = {}
    for paths in others.values():
        for path in paths:
            if (group := group_of(pattern, path)) in first and group is not None:
                both.setdefault(group, path)
    if not both:
        return []
    group, path = next(iter(both.items()))
    return [
        f"{len(both)} groups of data.group are in train and in {split}, for example {shown(group)!r}: "
        f"{shown(first[group])} and {shown(path)}. Metrics of {split} may be too optimistic."
    ]
