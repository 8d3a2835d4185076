"""Photos in Parquet files, as `datasets` of Hugging Face writes them: unpacked once, and then used as files."""

import hashlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from dogscats.base.console import progress_bar
from dogscats.base.content import cache_folder
from dogscats.base.errors import Failure, UserError, as_user_error
from dogscats.base.files import write_rows
from dogscats.base.locks import locked
from dogscats.base.text import listed
from dogscats.data.photos.folders import Folders
from dogscats.data.photos.listing import EXTENSIONS
from dogscats.data.photos.split import split_in, split_of
from dogscats.data.photos.table_rows import ParquetTable, find_columns, has_images
from dogscats.data.photos.tables import Table, inside, table_file
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
        splits: whether the names of the files tell the split: `train-00000-of-00001.parquet`.

    Raises:
        UserError: if the files have no images or labels, the split of a file is unknown, or the disk is full.
    """

    def __init__(self, root: Path, files: Sequence[Path], cache_dir: str | None, splits: bool):
        _check_parts(files)
        key = hashlib.blake2b(str(VERSION).encode(), digest_size=16)
        for file in files:
            status = file.stat()
            key.update(f"\0{file.name}\0{status.st_size}\0{status.st_mtime_ns}".encode("utf-8", "surrogateescape"))
        folder = cache_folder(root, cache_dir) / f"parquet-{key.hexdigest()}"
        shown_as = files[0] if len(files) == 1 else files[0].with_name("*.parquet")
        name = shown_as.relative_to(root).as_posix() if shown_as.is_relative_to(root) else str(shown_as)
        if not folder.is_dir():
            rows = sum(ParquetTable(file, str(file)).count for file in files)
            with locked(folder.with_suffix(".lock"), f"{folder}"):
                if not folder.is_dir():
                    _unpack(folder, progress_bar(_photos(files, splits), "Unpacking photos", rows, "photo"))
        super().__init__(folder, folder / TABLE, name, [path for file in files for path in inside(root, file)])
        if splits or self.splits == ["train"]:
            self.splits_from = "the names of the files" if len(self.splits) > 1 else ""

    @classmethod
    def found_in(cls, root: Path, labels: str | None, cache_dir: str | None) -> Self | None:
        """Unpack the Parquet file that `labels` names, or those in a root that holds nothing else; `None` without any.

        Raises:
            UserError: as the class.
        """
        files = Folders(root).parquet_files() if labels is None else [table_file(root, labels)]
        if not files or (labels is not None and not has_images(files[0], labels)):
            return None
        return cls(root, files, cache_dir, splits=labels is None)


def _check_parts(files: Sequence[Path]) -> None:
    """Refuse an incomplete set of files: `train-00000-of-00002.parquet` without `train-00001-...`."""
    names = {file.name for file in files}
    for file in files:
        if part := re.fullmatch(r"(.*-)(\d{5})-of-(\d{5})\.parquet", file.name):
            every = (f"{part[1]}{number:05d}-of-{part[3]}.parquet" for number in range(int(part[3])))
            if missing := [name for name in every if name not in names]:
                raise UserError(f"{file.parent}: {listed(missing, 3)} is missing. Download it as well.")


def _unpack(folder: Path, photos: Iterator[tuple[str, str, str, bytes]]) -> None:
    """Write photos, and their table, into a folder that appears only when complete."""
    unfinished = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(unfinished, ignore_errors=True)  # left by a killed process
    rows = []
    try:
        with as_user_error(
            folder, "it cannot be written", "Free some space, or choose another folder.", OSError, Failure
        ):
            for name, label, split, content in photos:
                (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
                (unfinished / name).write_bytes(content)
                if label:
                    rows.append((name, label, split))
            write_rows(unfinished / TABLE, ["path", "label", "split"], rows)
            os.sync()  # a power cut must not leave empty photos
            unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _photos(files: Sequence[Path], splits: bool) -> Iterator[tuple[str, str, str, bytes]]:
    """Yield path, label, split and content of each photo; photos of test without a label are in `test1/`."""
    numbers: Counter[str] = Counter()
    for file in files:
        split_of_file = split_of(re.split(r"[-_.]", file.name)[0]) if splits else "train"
        if split_of_file is None and len(files) > 1:
            raise UserError(
                f"{file}: its name tells no split. Rename it to train-{file.name}, or give one file: data.labels="
            )
        table = ParquetTable(file, str(file))
        if table.image_column is None:
            raise UserError(
                f"{file}: it has no column of images; its columns are {', '.join(table.header)}. A table of paths and "
                "labels is given as data.labels=<file>."
            )
        found = find_columns(str(file), table.header, needed=["label"])
        label = table.header[found["label"]]
        split = table.header[found["split"]] if "split" in found else None
        columns = [table.image_column, label, *([split] if split else [])]
        for where, (image, given, *written) in table.rows(columns, ROWS_AT_ONCE):
            content, stem = _content(image)
            text = table.text(label, given).strip()
            kind = split_in(split, str(written[0]), f"{file}: {where}") if split else split_of_file or "train"
            if content is None:
                raise UserError(f"{file}: {where}: it has no image. Remove the row.")
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


def _content(value: Any) -> tuple[bytes | None, str]:
    """Return the bytes of an image, and its original name as the end of a file name."""
    if not isinstance(value, Mapping):
        return value, ""
    name = os.path.basename(str(value.get("path") or ""))  # noqa: PTH119  # text from elsewhere
    stem, ending = os.path.splitext(name)  # noqa: PTH122
    stem = re.sub(r"[^\w.-]", "_", stem if ending.lower() in EXTENSIONS else name)[:80]
    return value.get("bytes"), f"_{stem}" if stem else ""


def _ending(content: bytes) -> str:
    return ".jpg" if content.startswith(JPEG_MAGIC) else ".png" if content.startswith(b"\x89PNG") else ""
