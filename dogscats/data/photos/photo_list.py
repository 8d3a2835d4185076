"""The photos of a run, `photos.csv`: a run is not resumed with others unnoticed."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from dogscats.base.content import file_versions
from dogscats.base.errors import UserError
from dogscats.base.files import cell, csv_rows, write_rows
from dogscats.base.text import listed
from dogscats.data.loading.datamodule import DogsCatsDataModule

log = logging.getLogger(__name__)

FILE = "photos.csv"


def keep_photos(data: DogsCatsDataModule, run_dir: Path, resumed: bool) -> None:
    """Write `photos.csv` (split, path, size in bytes, hash of samples, label), or compare it with a resumed run's.

    Args:
        data: data module after `setup`.
        run_dir: run directory.
        resumed: whether the run is resumed.

    Raises:
        UserError: if photos were added, removed, changed or moved between splits, and not accepted by `data.changed`.
    """
    file = run_dir / FILE
    if resumed and file.is_file():
        try:
            before = {
                row["path"]: (row["split"], row["bytes"], row["sample"], *([row["label"]] if "label" in row else []))
                for row in csv_rows(file)
            }
        except KeyError as error:
            raise UserError(f"{file}: it is damaged. Restore it, or remove it.") from error
        labels = {label for split, _, _, *rest in before.values() if split == "train" for label in rest}
        if labels and labels != {str(cell(name)) for name in data.classes}:
            raise UserError(
                f"data.root={data.root}: the classes are {listed(data.classes)} now, but those of the run in {run_dir} "
                f"are {listed(sorted(labels))}. Put them back as they were, or start a new run."
            )
        now = {path: (split, size, sample, label) for split, path, size, sample, label in _rows(data)}
        if not any(split == "test" for split, *_ in before.values()):
            # A run of an older version, or without a labelled test/: training is the same with one.
            changes = differences(before, {path: row for path, row in now.items() if row[0] != "test"})
        else:
            changes = differences(before, now)
        if changes and data.changed == "accept":
            log.warning("The photos have changed since this run began, accepted: %s", changes)
        elif changes:
            raise UserError(
                f"data.root={data.root}: the photos have changed since the run in {run_dir} began: {changes}. Put them "
                "back as they were, or go on with the photos of now: data.changed=accept."
            )
    write_rows(file, ["split", "path", "bytes", "sample", "label"], _rows(data))


def _rows(data: DogsCatsDataModule) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield the rows of `photos.csv`, one at a time in memory."""
    classes = [str(cell(name)) for name in data.classes]
    for split, photos in ("train", data.train), ("valid", data.valid), ("test", data.test):
        if photos:
            versions = file_versions(photos.root, photos.paths)
            for path, label, version in zip(photos.paths, photos.labels, versions, strict=True):
                _, size, sample = version or (0, "", "")
                yield split, str(cell(path)), str(size), sample, classes[label]


def differences(before: Mapping[str, tuple[str, ...]], now: Mapping[str, tuple[str, ...]]) -> str:
    """Name what differs between two lists of photos; empty if nothing does."""
    both = before.keys() & now.keys()
    kinds = {
        "added": [path for path in now if path not in before],
        "removed": [path for path in before if path not in now],
        "changed": [path for path in now if path in both and now[path][1 : len(before[path])] != before[path][1:]],
        "moved between splits": [path for path in now if path in both and now[path][0] != before[path][0]],
    }
    return "; ".join(f"{len(paths)} {kind} ({listed(paths, 3)})" for kind, paths in kinds.items() if paths)
