"""What a run keeps of its photos: the list of them, `photos.csv`, and a copy of the decisions, `decisions.csv`.

A run is not resumed with other photos unnoticed. The file that `data.decisions` names may be edited later; the run is
resumed, and evaluated on its own photos, with its own copy, which takes precedence: decisions are settings of the run,
as the learning rate is.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dogscats.base.content import file_versions
from dogscats.base.errors import UserError, as_user_error
from dogscats.base.files import DAMAGED, atomic_path, cell, csv_rows, write_rows
from dogscats.base.text import listed, shown
from dogscats.data.photos.decisions import Decisions
from dogscats.data.photos.layouts import Photos

log = logging.getLogger(__name__)

PHOTOS_FILE = "photos.csv"

DECISIONS_FILE = "decisions.csv"


def keep_photos(
    run_dir: Path, root: Path, splits: Mapping[str, tuple[Photos, Sequence[str]]], resumed: bool, accept: bool = False
) -> None:
    """Write `photos.csv` (split, path, size in bytes, hash of samples, label), or compare it with a resumed run's.

    Args:
        run_dir: run directory.
        root: folder of the dataset.
        splits: photos of each split, with the names of their labels: those of train are the classes.
        resumed: whether the run is resumed.
        accept: whether to accept that photos have changed: `data.changed=accept`.

    Raises:
        UserError: if photos were added, removed, changed or moved between splits, and this is not accepted.
    """
    file, classes = run_dir / PHOTOS_FILE, splits["train"][1]
    if resumed and file.is_file():
        with as_user_error(file, *DAMAGED, KeyError):
            before = {row["path"]: (row["split"], row["bytes"], row["sample"], row["label"]) for row in csv_rows(file)}
        labels = {label for split, _, _, label in before.values() if split == "train"}
        if labels and labels != {str(cell(name)) for name in classes}:
            raise UserError(
                f"data.root={root}: the classes are {listed(classes)} now, but those of the run in {run_dir} are "
                f"{listed(sorted(labels))}. Put them back as they were, or start a new run."
            )
        now = {path: (split, *rest) for split, path, *rest in _rows(splits)}
        if not any(split == "test" for split, *_ in before.values()):
            # Training is the same with a labelled test/ that was added since.
            now = {path: row for path, row in now.items() if row[0] != "test"}
        changes = differences(before, now)
        if changes and accept:
            log.warning("The photos have changed since this run began, accepted: %s", changes)
        elif changes:
            raise UserError(
                f"data.root={root}: the photos have changed since the run in {run_dir} began: {changes}. Put them back "
                "as they were, or go on with the current photos: data.changed=accept."
            )
    write_rows(file, ["split", "path", "bytes", "sample", "label"], _rows(splits))


def _rows(splits: Mapping[str, tuple[Photos, Sequence[str]]]) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield the rows of `photos.csv`, one at a time in memory."""
    for split, (photos, classes) in splits.items():
        names = [str(cell(name)) for name in classes]
        versions = file_versions(photos.root, photos.paths)
        for path, label, version in zip(photos.paths, photos.labels, versions, strict=True):
            _, size, sample = version or (0, "", "")
            yield split, str(cell(path)), str(size), sample, names[label]


def differences(before: Mapping[str, tuple[str, ...]], now: Mapping[str, tuple[str, ...]]) -> str:
    """Name what differs between two lists of photos, by path; empty if nothing does."""
    both = [path for path in now if path in before]
    kinds = {
        "added": [path for path in now if path not in before],
        "removed": [path for path in before if path not in now],
        "changed": [path for path in both if now[path][1:] != before[path][1:]],
        "moved between splits": [path for path in both if now[path][0] != before[path][0]],
    }
    return "; ".join(f"{len(paths)} {kind} ({listed(paths, 3)})" for kind, paths in kinds.items() if paths)


def keep_decisions(decisions: Decisions | None, run_dir: Path, given: str | None, resumed: bool) -> None:
    """Write the copy of the decisions, exactly as read, unless it is there; warn if the original has changed since.

    Args:
        decisions: decisions that the run has read.
        run_dir: run directory.
        given: the original: value of `data.decisions`.
        resumed: whether the run is resumed.

    Raises:
        UserError: if there is another file in its place, such as the user's own with `hydra.run.dir=.`.
    """
    if decisions is None or given is None:
        return
    copy, original = run_dir / DECISIONS_FILE, Path(given).expanduser()
    if original.is_file() and original.read_bytes() != decisions.content:
        changed = f"Decisions {shown(original)} has changed since the run began"
        log.warning("%s, which goes on with its own copy, %s", changed, shown(copy))
    if copy.is_file():
        if not resumed and copy.read_bytes() != decisions.content:
            raise UserError(
                f"{copy}: it is in the way of the run's copy of {given}. Move it, or choose another hydra.run.dir."
            )
        return
    with atomic_path(copy) as temporary:
        temporary.write_bytes(decisions.content)


def with_own_decisions(data: Mapping[str, Any], run_dir: Path) -> dict[str, Any]:
    """Return the config of a run's data module, with the run's copy of its decisions if there is one.

    Args:
        data: config, as plain containers.
        run_dir: run directory, which may have been moved since.
    """
    copy = run_dir / DECISIONS_FILE
    return {**data} | ({"decisions": str(copy)} if data.get("decisions") and copy.is_file() else {})


OF_OWN_PHOTOS = ("decisions", "strangers", "add")
"""Settings of the data that are only for a run's own photos."""


def labels_at(root: str | Path | None, trained_on: Mapping[str, Any]) -> dict[str, Any]:
    """Return which of a run's table, decisions and additions are for the photos in `root`; `None` for the others.

    Only a table is also for another root, if that has it.

    Args:
        root: folder of photos; `None` for the run's own.
        trained_on: config of the run's data module.
    """
    found = {key: trained_on.get(key) for key in ("labels", "columns", "extension", *OF_OWN_PHOTOS)}
    if root is None or _is_own(root, trained_on):  # a table of added photos, which are in training alone, may be gone
        return found | {"add": found["add"] if found["add"] and Path(found["add"]).is_file() else None}
    labels = found["labels"]
    there = labels and not Path(labels).expanduser().is_absolute() and (Path(root).expanduser() / labels).is_file()
    return found | dict.fromkeys(OF_OWN_PHOTOS) if there else dict.fromkeys(found)


def cache_at(root: str | Path, trained_on: Mapping[str, Any]) -> Path | None:
    """Return the cache folder of a run for the photos in `root`; `None` if there is none.

    Args:
        root: folder of photos.
        trained_on: config of the run's data module.
    """
    if configured := trained_on.get("cache_dir"):
        return Path(configured)
    beside = Path(root).expanduser() / "tmp"
    return beside if _is_own(root, trained_on) and beside.is_dir() else None


def _is_own(root: str | Path, trained_on: Mapping[str, Any]) -> bool:
    """Return whether `root` is the folder of photos that a run was trained on."""
    own = trained_on.get("root")
    return own is not None and Path(root).expanduser().absolute() == Path(own)
