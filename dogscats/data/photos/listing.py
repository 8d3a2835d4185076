"""Image files in folders: which files are images, in which order, and which files of a dataset are left out."""

import errno
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

from dogscats.base.errors import Failure, UserError
from dogscats.base.text import counted, listed, shown
from dogscats.data.pixels.images import FILE_ERRORS, image_size

EXTENSIONS = {*IMG_EXTENSIONS, ".gif", ".heic", ".heif"}

RAW = {
    *(".cr2", ".cr3", ".nef", ".nrw", ".arw", ".sr2", ".srf", ".dng", ".orf", ".rw2"),
    *(".pef", ".srw", ".raf", ".3fr", ".iiq", ".mos", ".mef", ".kdc", ".dcr"),
}
"""Extensions of cameras' raw files. Many contain a TIFF header, but Pillow would decode a small preview at best."""

DERIVED = ("tmp/activations-", "tmp/checked-", "tmp/duplicates-", "tmp/parquet-", "tmp/seconds-", "tmp/shrunken-")
"""Prefixes of the paths of files that this project keeps in the cache folder in the root."""

LEFTOVERS = {
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "zbthumbnail.info"),  # Windows
    *("$recycle.bin", "system volume information", "lost+found"),
    *("@eadir", "#recycle", "#snapshot", "@tmp", "@sharebin", "@recycle", "@recently-snapshot"),  # Synology, QNAP
    *("@__thumb", "lost.dir", "captureone"),
}
"""Names, in lower case, of files and folders to skip; some contain thumbnails."""

LEFTOVER_ENDINGS = (".thm", ".ctg", ".lrdata", ".photoslibrary", "@synoresource", "@synoeastream")
"""Endings of such names: thumbnails and catalogues of cameras, caches of Lightroom and Photos."""

DIGITS = re.compile(r"\d+")


def natural_key(path: str | Path) -> str:
    """Return a key for natural sort order: `2.jpg` before `10.jpg`.

    A number is preceded by its length, and by a character that is less than all others: a text sorts before a longer
    one. Text is compared much faster than lists of text and numbers.
    """
    return DIGITS.sub(_number_key, str(path))


def _number_key(found: re.Match[str]) -> str:
    number = found[0] if found[0][0] != "0" and found[0].isascii() else str(int(found[0]))
    return f"\0{chr(len(number))}{number}"


_unreadable: ContextVar[list[str] | None] = ContextVar("unreadable", default=None)


@contextmanager
def unreadable_skipped(skip: bool = True) -> Iterator[list[str]]:
    """Leave out folders that cannot be listed, instead of raising an error, unless `skip` is false.

    Yields:
        Their paths; filled as they are met.
    """
    folders: list[str] = []
    token = _unreadable.set(folders if skip else None)
    try:
        yield folders
    finally:
        _unreadable.reset(token)


_aside: ContextVar[frozenset[str]] = ContextVar("aside", default=frozenset())


@contextmanager
def set_aside(folders: Iterable[Path]) -> Iterator[None]:
    """Skip folders: their photos are not those of a dataset that they lie in."""
    token = _aside.set(frozenset(os.path.realpath(folder) for folder in folders))
    try:
        yield
    finally:
        _aside.reset(token)


def _cannot_list(path: str, error: OSError) -> None:
    """Raise an error that names a folder, or note it within `unreadable_skipped`."""
    skipped, reason = _unreadable.get(), error.strerror or str(error)
    if error.errno not in FILE_ERRORS | {errno.EIO}:  # such as a network drive that is away
        raise Failure(f"{path}: it cannot be listed now ({reason}). Make it available, and start again.") from error
    if skipped is None:
        raise UserError(
            f"{path}: it cannot be listed ({reason}). Make it readable, or move it elsewhere. To train without it: "
            "data.on_bad_image=skip."
        ) from error
    if path not in skipped:
        skipped.append(path)


def unreadable_notes(folders: Sequence[str]) -> list[str]:
    """Count and name folders that were skipped, in one line; without any, there is none."""
    return (
        [f"{counted(len(folders), 'folder')} left out that cannot be listed: {listed(folders, 5)}"] if folders else []
    )


def unreadable_in(folder: Path) -> bool:
    """Return whether a folder, or one in it, was skipped because it cannot be listed."""
    return any(f"{path}/".startswith(f"{folder}/") for path in _unreadable.get() or ())


def list_folder(folder: str | Path) -> tuple[list[str], list[str]]:
    """List the folders and the files in a folder, both sorted, without leftovers of systems.

    Raises:
        UserError: if it cannot be listed to its end, except within `unreadable_skipped`: then it counts as empty.
    """
    folders, files = list[str](), list[str]()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_leftover(entry.name):
                    continue
                try:
                    is_folder = entry.is_dir()
                except OSError as error:
                    if error.errno != errno.ELOOP:  # links may form a circle
                        _cannot_list(entry.path, error)
                        continue
                    is_folder = False
                if is_folder and _aside.get() and os.path.realpath(entry.path) in _aside.get():
                    continue
                (folders if is_folder else files).append(entry.name)
    except OSError as error:
        _cannot_list(str(folder), error)
        return [], []
    return sorted(folders), sorted(files)


def walk_files(folder: Path) -> Iterator[str]:
    """Yield the files under `folder`, relative to it, with `/` as separator, in any order.

    Symbolic links are followed, but no folder is visited twice. Hidden files, and those that systems, cameras and
    network storage leave behind, are skipped: `.DS_Store`, `__MACOSX`, `@eaDir`, `Thumbs.db`.

    Raises:
        UserError: as `list_folder`.
    """
    visited, waiting = set[str](), [""]
    while waiting:
        inner = waiting.pop()
        parent = f"{folder}/{inner[:-1]}" if inner else str(folder)
        real = os.path.realpath(parent)
        if real not in visited:
            visited.add(real)
            folders, files = list_folder(parent)
            yield from (f"{inner}{name}" for name in files)
            waiting += [f"{inner}{name}/" for name in reversed(folders)]


def image_names(folder: Path) -> list[str]:
    """List the images under `folder`, relative to it, in natural order; see `walk_files`."""
    return sorted((name for name in walk_files(folder) if is_image_name(folder, name)), key=natural_key)


def is_leftover(name: str) -> bool:
    """Return whether a file or folder is hidden, or left by a system, a camera or network storage."""
    lower = name.lower()
    return lower.startswith((".", "__macosx", "synophoto_")) or lower in LEFTOVERS or lower.endswith(LEFTOVER_ENDINGS)


def list_images(folder: Path) -> list[Path]:
    """List the images under `folder`, in natural order; see `walk_files`."""
    return [folder / name for name in image_names(folder)]


def is_image_name(folder: Path, name: str) -> bool:
    """Return whether the file `name` in `folder` is an image: by its extension, or else by its content.

    A damaged file with the extension of an image counts as one, so that it is reported.
    """
    dot = name.rfind(".")
    if dot > 0 and name[dot - 1] not in "./" and name[dot:].lower() in EXTENSIONS:
        return True  # most files; a Path for each would take most of the time
    path, extension = folder / name, Path(name).suffix.lower()
    return extension in EXTENSIONS or (extension not in RAW and image_size(path) is not None)


def left_out(root: Path, used: Iterable[str]) -> list[str]:
    """List the files in `root` that are not used, apart from what this project keeps there, in natural order.

    A folder that cannot be listed, `private/`, counts as one.

    Args:
        root: folder of the dataset.
        used: paths of the files that are used.
    """
    known = set(used)
    with unreadable_skipped() as unreadable:
        files = [file for file in walk_files(root) if file not in known and not file.startswith(DERIVED)]
    return sorted([*files, *(f"{os.path.relpath(path, root)}/" for path in unreadable)], key=natural_key)


def left_out_summary(files: Sequence[str], empty_folders: Sequence[str] = ()) -> str:
    """Say how many files are left out, and name the first; also name folders without photos."""
    parts = []
    if files:
        names = ", ".join(map(shown, files[:5])) + (", ..." if len(files) > 5 else "")
        parts.append(f"{len(files)} file{'s' if len(files) > 1 else ''} left out: {names}.")
    if any(file.startswith("dev/") for file in files):
        parts.append("If dev/ has your validation photos, rename it to valid/.")
    if empty_folders:
        parts.append(f"Folders without photos, left out: {listed(empty_folders, 5)}.")
    return " ".join(parts)
