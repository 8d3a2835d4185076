"""Photos sorted into folders by their decision: as copies or links, the photos themselves stay where they are."""

import logging
import os
import re
import shutil
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from dogscats.base.console import progress_bar
from dogscats.base.errors import Failure, as_user_error
from dogscats.base.files import write_csv
from dogscats.base.text import counted, listed, shown
from dogscats.predict.find_photos import SORTED
from dogscats.reliability.thresholds import words

log = logging.getLogger(__name__)

MOST_BYTES = 255
"""Length of a file name that all common file systems take."""

RESERVED = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9¹²³])(\..*)?", re.IGNORECASE)
"""Names of devices, which Windows does not take for files."""

SECONDS_APART = 2
"""Largest difference of the modification times of a photo and its copy: FAT counts in steps of two seconds."""


def why_not_sorted(how: str, names: Sequence[str], run_dir: Path) -> str | None:
    """Say why photos cannot be sorted, for lack of links or of disk space, before they are predicted.

    Args:
        how: `copy` or `link`.
        names: paths of the photos.
        run_dir: run directory; what it has already needs no space.
    """
    if how == "link":
        probe = run_dir / ".link"
        probe.unlink(missing_ok=True)
        try:
            probe.symlink_to(run_dir)
        except OSError as error:
            return f"sort=link: {shown(run_dir)} cannot have symbolic links ({error.strerror}). Set sort=copy."
        finally:
            probe.unlink(missing_ok=True)
        return None
    needed, free = _bytes(map(Path, names)) - _bytes((run_dir / SORTED).rglob("*")), shutil.disk_usage(run_dir).free
    if needed > free:
        return (
            f"sort=copy: {counted(len(names), 'photo')} need {needed / 1e9:,.3f} GB; {free / 1e9:,.3f} GB are free in "
            f"{shown(run_dir)}. Free some space, choose another hydra.run.dir, or set sort=link."
        )
    return None


def _bytes(files: Iterable[Path]) -> int:
    total = 0
    for file in files:
        with suppress(OSError):
            total += file.stat().st_size if file.is_file() else 0
    return total


def sort_photos(
    decided: Iterable[tuple[str, str]], count: int, classes: Sequence[str], base: Path, run_dir: Path, how: str
) -> None:
    """Fill `sorted/<class>/`, `sorted/unsure/` and `sorted/none/`, and write `sorted.csv`: path, decision, destination.

    Copies that are there already are kept; none is ever half-written.

    Args:
        decided: path and decision of each photo.
        count: number of photos.
        classes: names of the classes.
        base: folder of the photos, below which their sub-folders are kept.
        run_dir: run directory.
        how: `copy` or `link`.

    Raises:
        UserError: if a photo cannot be copied, for example because the disk is full.
    """
    rows, gone, counts = list[tuple[str, str, str]](), list[str](), Counter[str]()
    for path, decision, target in progress_bar(_planned(decided, classes, base), "Sorting", count, "photo"):
        with as_user_error(
            run_dir / target,
            "it cannot be written",
            f"Repair that, and repeat the command with hydra.run.dir={run_dir} to go on.",
            OSError,
            Failure,
        ):
            try:
                _put(Path(path), run_dir / target, how == "link")
            except FileNotFoundError:
                gone.append(path)
                continue
        rows.append((path, decision, target.as_posix()))
        counts[decision] += 1
    write_csv(run_dir / "sorted.csv", ["path", "decision", "destination"], rows)
    placed = listed([f"{number} {name}" for name, number in counts.most_common()])
    log.info("Sorted    %s, by %s, in %s: %s", counted(len(rows), "photo"), how, shown(run_dir / SORTED), placed)
    if gone:
        log.warning("%d left out, which are gone: %s", len(gone), listed(gone))


def _planned(decided: Iterable[tuple[str, str]], classes: Sequence[str], base: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield path, decision and destination below the run directory; those that some disk takes for one are numbered."""
    folders, taken = folder_names(classes), set[str]()
    for path, decision in decided:
        parts = [part for part in Path(os.path.relpath(path, base)).parts if part != os.pardir]
        target = Path(SORTED, folders[decision], *parts)
        stem, number = target.stem, 1
        while (key := _key(str(target))) in taken:
            number += 1
            ending = f" ({number}){target.suffix}"
            target = target.with_name(_cut(stem, MOST_BYTES - len(ending.encode())) + ending)
        taken.add(key)
        yield path, decision, target


def folder_names(classes: Sequence[str]) -> dict[str, str]:
    """Return a folder for each decision: `unsure`, `none`, or the class, with `_` for what some file system refuses."""
    folders = dict(zip(words(classes), ("unsure", "none"), strict=True))
    taken = set(folders.values())
    for name in sorted(classes, key=lambda name: _folder(name) != name):  # those that fit keep their names
        folder = _folder(name)
        while _key(folder) in taken:
            folder += "_"
        taken.add(_key(folder))
        folders[name] = folder
    return folders


def _folder(name: str) -> str:
    name = _cut(re.sub(r'[<>:"/\\|?*\x00-\x1f\x7f-\x9f\ud800-\udfff]', "_", name), 200)
    name = re.sub(r"^\.|[. ]+$", lambda dots: "_" * len(dots[0]), name)
    return f"_{name}" if not name or RESERVED.fullmatch(name) else name


def _cut(name: str, most: int) -> str:
    """Shorten a name to `most` bytes of whole characters."""
    return name.encode()[:most].decode(errors="ignore")


def _key(name: str) -> str:
    """Return what names have in common that are one on some disk: of macOS and Windows, which ignore case."""
    return unicodedata.normalize("NFC", name).casefold()


def _put(photo: Path, target: Path, link: bool) -> None:
    """Copy or link a photo, unless that is done. What is there appears at once, and whole."""
    source, status = photo.absolute(), photo.stat()
    if link and target.is_symlink() and target.readlink() == source:
        return
    if not link and target.is_file():
        there = target.stat()
        if there.st_size == status.st_size and abs(there.st_mtime - status.st_mtime) <= SECONDS_APART:
            return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / ".unfinished"
    temporary.unlink(missing_ok=True)
    try:
        if link:
            temporary.symlink_to(source)
        else:
            shutil.copyfile(source, temporary)
            os.utime(temporary, ns=(status.st_atime_ns, status.st_mtime_ns))
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
