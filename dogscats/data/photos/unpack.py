"""Photos in Parquet files, as `datasets` of Hugging Face writes them: unpacked once, and then used as files."""

import hashlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Self

from dogscats.base.console import progress_bar
from dogscats.base.content import cache_folder
from dogscats.base.errors import Failure, UserError, as_user_error
from dogscats.base.files import unfinished_folder, write_rows
from dogscats.base.locks import locked
from dogscats.base.text import listed, shown
from dogscats.data.photos.folders import Folders
from dogscats.data.photos.listing import EXTENSIONS
from dogscats.data.photos.split import split_in, split_of
from dogscats.data.photos.tables.columns import LabelTable, find_columns
from dogscats.data.photos.tables.file_index import FileIndex
from dogscats.data.photos.tables.label_table import Table, inside, table_file
from dogscats.data.photos.tables.parquet_table import ParquetTable, has_images
from dogscats.data.photos.tables.shards import check_shards
from dogscats.data.pixels.images import JPEG_MAGIC

VERSION = 1
"""Changes with the files that are unpacked."""

ROWS_AT_ONCE = 64
"""Rows that are read at once; each may have a large photo."""

TABLE = "labels.csv"
"""Table of the unpacked photos, in the same folder: path, label, split."""


class UnpackedPhotos(Table):
    """Photos in Parquet files, a `Source`: unpacked into the cache folder, unless they are there.

    Args:
        root: folder of the dataset.
        files: Parquet files.
        cache_dir: cache folder; `None` for the default of `cache_folder`.
        splits: whether the names of the files or their folders tell the split: `train-00000-of-00001.parquet`.
        columns: names of columns, as `data.columns` chooses them.

    Raises:
        UserError: if the files have no images or labels, the split of a file is unknown, or the disk is full.
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[Path],
        cache_dir: str | None,
        splits: bool,
        columns: Mapping[str, str] | None = None,
    ):
        check_shards(files)
        chosen, key = columns or {}, str(VERSION)
        for file in files:
            status, place = file.stat(), "" if file.parent == files[0].parent else f"{file.parent.name}/"
            key += f"\0{place}{file.name}\0{status.st_size}\0{status.st_mtime_ns}"
        key += f"\0{sorted(chosen.items())}" if chosen else ""
        digest = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
        folder = cache_folder(root, cache_dir) / f"parquet-{digest}"
        shown_as = files[0] if len(files) == 1 else _common_folder(files) / "*.parquet"
        name = shown_as.relative_to(root).as_posix() if shown_as.is_relative_to(root) else str(shown_as)
        links = folder.glob("*/*") if folder.is_dir() else ()
        if any(link.is_symlink() and not link.exists() for link in links):  # the photos were moved since
            shutil.rmtree(folder)
        if not folder.is_dir():
            rows = sum(ParquetTable(file, str(file)).count for file in files)
            with locked(folder.with_suffix(".lock"), f"{folder}"):
                if not folder.is_dir():
                    photos = _photos(root, files, splits, chosen)
                    _unpack(folder, progress_bar(photos, "Unpacking photos", rows, "photo"))
        super().__init__(folder, folder / TABLE, name, [path for file in files for path in inside(root, file)])
        if splits or self.splits == ["train"]:
            named = "names" if len({file.parent for file in files}) == 1 else "folders"
            self.splits_from = f"the {named} of the files" if len(self.splits) > 1 else ""

    @classmethod
    def found_in(cls, root: Path, labels: LabelTable | None, cache_dir: str | None) -> Self | None:
        """Unpack the Parquet file that `labels` names, or those in a root that holds nothing else; `None` without any.

        Raises:
            UserError: as the class.
        """
        if labels is None:
            files = Folders(root).parquet_files()
            return cls(root, files, cache_dir, splits=True) if files else None
        file = table_file(root, labels.file)
        return cls(root, [file], cache_dir, False, labels.columns) if has_images(file, labels.file) else None


def _common_folder(files: Sequence[Path]) -> Path:
    """Return the folder that has all files, some of them perhaps in folders of splits."""
    folders = {file.parent for file in files}
    return folders.pop() if len(folders) == 1 else files[0].parent.parent


def _unpack(folder: Path, photos: Iterator[tuple[str, str, str, bytes | Path]]) -> None:
    """Write photos, and their table, into a folder that appears only when complete."""
    rows, advice = [], "Free some space, or choose another folder."
    with (
        as_user_error(folder, "it cannot be written", advice, OSError, Failure),
        unfinished_folder(folder) as unfinished,
    ):
        for name, label, split, content in photos:
            (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                (unfinished / name).symlink_to(content.absolute())
            else:
                (unfinished / name).write_bytes(content)
            if label:
                rows.append((name, label, split))
        write_rows(unfinished / TABLE, ["path", "label", "split"], rows)
        os.sync()  # a power cut must not leave empty photos
        unfinished.replace(folder)


def _split_of_file(root: Path, file: Path, files: Sequence[Path]) -> str | None:
    """Return the split that the name of a file tells, or else that of its folder; `None` if they tell none."""
    split = split_of(re.split(r"[-_.]", file.name)[0])
    split = split or (split_of(file.parent.name) if file.parent != root else None)
    numbered = all(re.fullmatch(r"(?:part)?[-_.]?\d+.*", each.name) for each in files)
    if split is None and len(files) > 1 and not numbered:
        raise UserError(
            f"{file}: its name tells no split. Rename it to train-{file.name}, or give one file: data.labels="
        )
    return split


def _photos(
    root: Path, files: Sequence[Path], splits: bool, chosen: Mapping[str, str]
) -> Iterator[tuple[str, str, str, bytes | Path]]:
    """Yield path, label, split and content of each photo; photos of test without a label are in `test1/`.

    The content is the file that a row names if it has only its path.
    """
    numbers: Counter[str] = Counter()
    index = cache(partial(FileIndex, root))
    for file in files:
        split_of_file = _split_of_file(root, file, files) if splits else "train"
        table = ParquetTable(file, str(file))
        if table.image_column is None:
            raise UserError(
                f"{file}: it has no column of images; its columns are {', '.join(table.header)}. A table of paths and "
                "labels is given as data.labels=<file>."
            )
        found = find_columns(str(file), table.header, needed=["label"], chosen=chosen)
        label = table.header[found["label"]]
        split = table.header[found["split"]] if "split" in found else None
        columns = [table.image_column, label, *([split] if split else [])]
        for where, (value, given, *written) in table.rows(columns, ROWS_AT_ONCE):
            content, stem = _content(value, file.parent, index, f"{file}: {where}")
            text = table.text(label, given).strip()
            kind = split_in(split, str(written[0]), f"{file}: {where}") if split else split_of_file or "train"
            if splits and split_of_file not in (None, kind):
                raise UserError(
                    f"{file}: {where}: {split} is {written[0]!r}, but the file is named {split_of_file}. Rename it, or "
                    "give it as data.labels=<file>."
                )
            if not text and kind != "test":
                raise UserError(f"{file}: {where}: it has no label. Remove the row.")
            folder = kind if text else "test1"
            numbers[folder] += 1
            yield f"{folder}/{numbers[folder]:07d}{stem}{_ending(content)}", text, kind, content


def _content(value: Any, folder: Path, index: Callable[[], FileIndex], where: str) -> tuple[bytes | Path, str]:
    """Return the bytes of an image, or its file; and its original name as the end of a file name.

    Args:
        value: an image in a row.
        folder: folder of the Parquet file, which its file may be in.
        index: returns all photos, one of which it may be.
        where: place of the row, for messages.

    Raises:
        UserError: if there is neither, or its file is one of several.
    """
    content, path = (value.get("bytes"), value.get("path")) if isinstance(value, Mapping) else (value, None)
    if content is None and path:
        beside, root = folder / path, index().root
        files = [beside] if beside.is_file() else [root / name for name in index().find(path)]
        if not files:
            raise UserError(f"{where}: its photo {shown(path)} is not in {root}. Add it, or remove the row.")
        if len(files) > 1:
            raise UserError(f"{where}: its photo {shown(path)} may be {listed([*map(str, files)], 3)}. Keep one.")
        content = files[0]
    if content is None:
        raise UserError(f"{where}: it has no image. Remove the row.")
    name = os.path.basename(str(path or ""))  # noqa: PTH119  # text from elsewhere
    stem, ending = os.path.splitext(name)  # noqa: PTH122
    stem = re.sub(r"[^\w.-]", "_", stem if ending.lower() in EXTENSIONS else name)[:80]
    return content, f"_{stem}" if stem else ""


def _ending(content: bytes | Path) -> str:
    if isinstance(content, Path):
        return content.suffix
    return ".jpg" if content.startswith(JPEG_MAGIC) else ".png" if content.startswith(b"\x89PNG") else ""
