"""Folders of labelled photos: splits, class folders, and Kaggle's flat file names."""

from collections.abc import Mapping, Sequence
from glob import escape
from itertools import islice
from pathlib import Path
from typing import Self

from dogscats.base.errors import UserError
from dogscats.base.text import form, listed
from dogscats.data.photos.arguments import HOW_TO_GET_DATA
from dogscats.data.photos.dataset_parts import flat_classes, numbered_note, unlike_classes
from dogscats.data.photos.listing import (
    image_names,
    is_image_name,
    list_folder,
    natural_key,
    unreadable_in,
    unreadable_skipped,
)
from dogscats.data.photos.split import split_of
from dogscats.data.photos.tables.columns import LabelTable
from dogscats.data.photos.tables.label_table import is_table, other_labels
from dogscats.data.photos.wrappers import OWN, may_be_class, parquet_in, unwrapped

FLAT = "<class>.<number>.jpg"


class Folders:
    """Labelled photos in folders, a `Source`: `train/ + valid/`, class folders alone, or flat file names.

    Args:
        root: folder of the dataset.

    Raises:
        UserError: if two folders are the same split.
    """

    def __init__(self, root: Path):
        self.root, self.base, self.name = root, unwrapped(root), f"data.root={root}"
        self.tables: Sequence[str] = ()
        self.names, self.files = list_folder(root / self.base)
        self.empty_folders: Sequence[str] = ()
        self.notes: Sequence[str] = ()
        self._flat: set[str] = set()
        self._folders: dict[str, str] = {}
        for name in self.names:
            if (split := split_of(name)) and (other := self._folders.setdefault(split, name)) != name:
                both = f"{self.base}{other}/ and {self.base}{name}/"
                raise UserError(f"{self.name}: {both} are the same split. Remove or rename one of them.")

    @classmethod
    def found_in(cls, root: Path, labels: LabelTable | None, cache_dir: str | None) -> Self | None:
        """Look at the folders in `root`; `None` if a table has the labels, or `root` has only Parquet files.

        Raises:
            UserError: as the class.
        """
        if labels is not None or (folders := cls(root)).parquet_files():
            return None
        return folders

    @property
    def splits(self) -> list[str]:
        """Splits with a folder."""
        return list(self._folders)

    def place(self, split: str) -> str:
        """Return where the photos of a split are, as on disk: `Train/`, or `<class>/`."""
        return f"{self.base}{self._folders[split]}/" if split in self._folders else f"{self.base}<class>/"

    def layout(self, splits: Sequence[str]) -> str:
        """Return the layout in a few words: `train/ + val/`."""
        return " + ".join(
            (self.place(split).removesuffix("<class>/") + FLAT) if split in self._flat else self.place(split)
            for split in splits
        )

    def by_class(self, split: str) -> dict[str, list[str]]:
        """List the photos of each class of a split, sorted by class.

        Args:
            split: `train`, `valid` or `test`; without a folder for it, `train` is all class folders in the root.

        Raises:
            UserError: if there are no photos, or their class is unknown.
        """
        if split not in self._folders:
            return self._without_splits()
        found = self._of_split(split)
        if empty := [self.root / self.place(split) / name for name, paths in found.items() if not paths]:
            raise UserError(f"{empty[0]}: there are no photos in it.\n{HOW_TO_GET_DATA}")
        return found

    def single_split(self, split: str) -> dict[str, list[str]]:
        """List the photos of each class of one split, some of them perhaps without photos.

        Args:
            split: name of a split in any spelling, or of another folder in the root; `.` for the root itself.

        Raises:
            UserError: if there is no such folder, it has no photos, or their class is unknown.
        """
        if (kind := split_of(split)) in self._folders:
            return self._of_split(kind)
        if kind is None and (self.root / split).is_dir():
            return self._in_folder("" if split == "." else f"{split}/", split)
        there = ", ".join(list_folder(self.root)[0]) or "none"
        raise UserError(f"split={split}: {self.name} has no folder {split}/, only {there}.")

    def test(self, classes: Sequence[str]) -> dict[str, list[str]]:
        """List the photos of a labelled `test/`; empty if it is missing or unlabelled.

        It is labelled if it has folders or flat file names of `classes`. Other folders are reported in `notes`.
        """
        if "test" not in self._folders:
            return {}
        folder = self.place("test")
        names, files = list_folder(self.root / folder)
        known = set(map(form, classes))
        if known & set(map(form, names)):
            return {name: paths for name, paths in self._class_folders(folder, names).items() if paths}
        if not names and any(form(name.partition(".")[0]) in known and name.count(".") > 1 for name in files):
            return self._flat_names("test", folder)
        if len(names) > 1:
            unlike = f"The photos in {folder} are unlabelled: {listed(names, 3)} are not among the classes"
            self.notes = [*self.notes, unlike]
        return {}

    def unlabelled(self, labelled_test: bool) -> list[str]:
        """List the photos in `test1/` and, unless it is labelled, `test/`."""
        names = [name for name in self.names if name.lower() == "test1"]
        if "test" in self._folders and not labelled_test:
            names.append(self._folders["test"])
        return [f"{self.base}{name}/{image}" for name in names for image in image_names(self.root / self.base / name)]

    def parquet_files(self) -> list[Path]:
        """List the Parquet files of a root that holds nothing else, or only folders of splits that do.

        Raises:
            UserError: if the name of a folder says that it has a part of a split.
        """
        where, names = self.root / self.base, [name for name in self.names if name.lower() not in OWN]
        inner = [name for name in names if parquet_in(where / name)]
        partial = [
            name
            for name in (*Path(self.base).parts, where.absolute().name, *inner)
            if name.lower().startswith("partial-")
        ]
        if partial and (inner or parquet_in(where)):
            raise UserError(
                f"{where}: the name {partial[-1]}/ says that it has only a part of the photos. Download the whole set, "
                f"or rename it to {partial[-1].partition('-')[2]}/."
            )
        if names and all(split_of(name) and parquet_in(where / name) for name in names):
            return [file for name in names for file in parquet_in(where / name)]
        return [] if names else parquet_in(where)

    @property
    def _table(self) -> str | None:
        """A table in the root, or else beside it."""
        with unreadable_skipped():
            beside = [f"../{name}" for name in list_folder(self.root / self.base / "..")[1]]
        names = [*(self.base + name for name in self.files), *([] if self.base else beside)]
        return next((name for name in names if is_table(name)), None)

    @property
    def _table_hint(self) -> str:
        """Point to a table, if there is one."""
        return f" If {self._table} has the labels, set data.labels={self._table}." if self._table else ""

    def _of_split(self, split: str) -> dict[str, list[str]]:
        found = self._in_folder(self.place(split), split)
        if split == "train":
            self._check_one_class(found, self.place(split), "move them up")
        return found

    def _without_splits(self) -> dict[str, list[str]]:
        """List the photos of a root without `train/`: class folders alone, or flat file names."""
        where = self.root / self.base
        names = [f for f in self.names if may_be_class(f) and not (where / f / ".hydra").is_dir()]  # not a run
        found = self._class_folders(self.base, names)
        self.empty_folders = [f"{self.base}{name}" for name, paths in found.items() if not paths]
        found = {name: paths for name, paths in found.items() if paths}
        if "valid" in self._folders:
            valid, train = self.place("valid"), f"{self.base}train/<class>/"
            photos, instead = "photos for training", f"rename {valid} to train/ to have a share"
            if found:
                photos = f"the training photos of {listed(list(found))}"
                instead = f"move {valid} elsewhere to have a share of them"
            wrong = f"it has {valid}, but no train/. Put {photos} into {train}, or {instead} held out."
            raise UserError(f"{self.name}: {wrong}")
        for name, paths in found.items():
            start = len(self.base) + len(name) + 1
            inner = {split_of(folder): folder for folder in {path[start:].partition("/")[0] for path in paths}}
            other = inner.get("valid") or inner.get("test")
            if "train" in inner and other:
                raise UserError(
                    f"{where / name}: it has {inner['train']}/ and {other}/. Put the splits on top, and the "
                    f"classes into them: {inner['train']}/{name}/ and {other}/{name}/."
                )
        self._check_parts(found, self.base)
        self._check_one_class(found, self.base, f"set data.root={where / next(iter(found), '')}")
        found = found or self._flat_names("train", self.base)
        if sets := [name for name in names if not found and any(where.glob(f"{escape(name)}/*/*.parquet"))]:
            several = f"{listed(sets, 5)} may each be a dataset in Parquet files"
            raise UserError(f"{self.name}: {several}. Choose one: data.root={where / sets[0]}.")
        if not found:
            raise UserError(
                f"{self.name}: it has no folder train/, no class folders with photos, and no photos named {FLAT}."
                f"{self._table_hint}\n{HOW_TO_GET_DATA}"
            )
        return found

    def _check_one_class(self, found: Mapping[str, Sequence[str]], folder: str, advice: str) -> None:
        """Refuse a single class whose photos are in folders, which may be the classes."""
        name, paths = next(iter(found.items()), ("", ()))
        nested = any(path.count("/") > folder.count("/") + 1 for path in paths)
        if len(found) == 1 and (nested or self._table):
            inner = f" If the folders in {name}/ are the classes, {advice}." if nested else ""
            raise UserError(
                f"{self.name}: {self.place('train')} has only one class, {name!r}.{inner}{self._table_hint} Or else "
                "add photos of at least one more class."
            )

    def _check_parts(self, found: Mapping[str, Sequence[str]], folder: str) -> None:
        """Refuse folders that look like parts of a dataset, or for whose photos a table has other labels."""
        if unlike := unlike_classes(self.root / folder, found, folder.count("/") + 1):
            table = self._table or "<table>"
            raise UserError(f"{self.name}: {unlike} If a table has the labels, set data.labels={table}.")
        self.notes = [*self.notes, *(note for note in numbered_note(list(found)) if note not in self.notes)]
        parts = folder.split("/")[:-1]
        places = ["".join(f"{part}/" for part in parts[:count]) for count in range(len(parts), -1, -1)]
        for table, what in other_labels(self.root, places, found):
            raise UserError(
                f"{self.name}: {what}. Set data.labels={table}, or move it elsewhere if the folders are the classes."
            )
        with unreadable_skipped():
            above = islice(other_labels(self.root, ["../"], found), 1)
            self.notes = [*self.notes, *(f"{what}. If it is right, set data.labels={table}" for table, what in above)]

    def _in_folder(self, folder: str, split: str) -> dict[str, list[str]]:
        names = list_folder(self.root / folder)[0]
        names = names if folder else [name for name in names if may_be_class(name)]
        found = self._class_folders(folder, names)
        self._check_parts({name: paths for name, paths in found.items() if paths}, folder)
        found = found or self._flat_names(split, folder)
        if not found:
            raise UserError(f"{self.name}: {folder} has no class folders with photos.\n{HOW_TO_GET_DATA}")
        return found

    def _class_folders(self, folder: str, names: Sequence[str]) -> dict[str, list[str]]:
        where = self.root / folder
        found = {name: [f"{folder}{name}/{image}" for image in image_names(where / name)] for name in names}
        for name, paths in found.items():
            if not paths and unreadable_in(where / name):
                raise UserError(f"{where / name}: no photo of this class can be listed. Make the folder readable.")
        return found

    def _flat_names(self, split: str, folder: str) -> dict[str, list[str]]:
        """List the photos of Kaggle's flat layout: the class is the file name up to the first dot.

        Raises:
            UserError: if a name begins with a date, a counter or no class at all, or a training class has one photo.
        """
        where = self.root / folder
        images = sorted((name for name in list_folder(where)[1] if is_image_name(where, name)), key=natural_key)
        found, unknown = flat_classes(images)
        how = (
            f"Put photos into folders named after their classes, rename them to {FLAT}, as Kaggle does, or list paths "
            f"and labels in a table: data.labels=<table>.{self._table_hint}"
        )
        if unknown:
            raise UserError(f"{where / unknown[0]}: its class is unknown. {how}")
        if split == "train" and (single := [name for name, names in found.items() if len(names) == 1]):
            raise UserError(
                f"{self.name}: class {single[0]!r} has only one photo, {found[single[0]][0]}. Add photos if the names "
                f"begin with the classes. {how}"
            )
        if found:
            self._flat.add(split)
        return {name: [f"{folder}{image}" for image in names] for name, names in found.items()}
