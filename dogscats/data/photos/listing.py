"""Image files in folders: which files are images, in which order, and which files of a dataset are left out."""

import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

from dogscats.base.text import listed, shown
from dogscats.data.pixels.images import image_size

EXTENSIONS = {*IMG_EXTENSIONS, ".gif", ".heic", ".heif"}

RAW = {
    *(".cr2", ".cr3", ".nef", ".nrw", ".arw", ".sr2", ".srf", ".dng", ".orf", ".rw2"),
    *(".pef", ".srw", ".raf", ".3fr", ".iiq", ".mos", ".mef", ".kdc", ".dcr"),
}
"""Extensions of cameras' raw files. Many contain a TIFF header, but Pillow would decode a small preview at best."""

DERIVED = ("tmp/activations-", "tmp/checked-", "tmp/parquet-", "tmp/shrunken-")
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
    number = found[0]
    if number[0] == "0" or not number.isascii():
        number = str(int(number))
    return f"\0{chr(len(number))}{number}"


def walk_files(folder: Path) -> Iterator[str]:
    """Yield the files under `folder`, relative to it, with `/` as separator, in any order.

    Symbolic links are followed, but no folder is visited twice. Hidden files, and those that systems, cameras and
    network storage leave behind, are skipped: `.DS_Store`, `__MACOSX`, `@eaDir`, `Thumbs.db`.
    """
    visited: set[str] = set()
    start = len(os.path.join(folder, ""))  # noqa: PTH118  # a Path for each file would take most of the time
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not is_leftover(name))
        inner = f"{parent[start:]}/" if len(parent) > start else ""
        yield from (f"{inner}{name}" for name in files if not is_leftover(name))


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
    path = folder / name
    extension = path.suffix.lower()
    return extension in EXTENSIONS or (extension not in RAW and image_size(path) is not None)


def left_out(root: Path, used: Iterable[str]) -> list[str]:
    """List the files in `root` that are not used, apart from what this project keeps there, in natural order.

    Args:
        root: folder of the dataset.
        used: paths of the files that are used.
    """
    known = set(used)
    return sorted((f for f in walk_files(root) if f not in known and not f.startswith(DERIVED)), key=natural_key)


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


class FileIndex:
    """Finds photos in a folder by the paths in a table.

    Args:
        root: folder of the photos.
    """

    def __init__(self, root: Path):
        self.root, self.top = root, os.path.abspath(root)  # noqa: PTH100  # text, as the paths are
        self.names = [f for f in walk_files(root) if not f.startswith("tmp/") and is_image_name(root, f)]
        self.exact = set(self.names)
        self.by_end: dict[int, dict[str, list[str]]] = {}

    def find(self, path: str) -> list[str]:
        """List the files that a path may mean: the exact one, or else all that end in it, extension or not."""
        if path in self.exact:
            return [path]
        for name in dict.fromkeys((path, path.replace("\\", "/"))):
            if found := self._find(posixpath.normpath(name)):
                return found
        return []

    def _find(self, path: str) -> list[str]:
        if path.startswith("/"):
            path = path.removeprefix(self.top.rstrip("/") + "/")
            return [path] if path in self.exact or self._is_file(path) else []
        if path in self.exact:
            return [path]
        ends = self._ends(path.count("/") + 1)
        without_extension = ends.get(f"{path}.", [])
        found = [name for name in without_extension if name.rpartition(".")[0] == path]
        found = found or ends.get(path, []) or without_extension
        if len(found) > 1:
            return sorted(found, key=natural_key)
        return found or ([path] if self._is_file(path) else [])

    def _is_file(self, path: str) -> bool:
        try:
            return (self.root / path).is_file()
        except (OSError, ValueError):  # not a path at all, such as a photo in base64
            return False

    def _ends(self, depth: int) -> dict[str, list[str]]:
        """Group the files by the last `depth` parts of their paths, with extension and without: `cat.0.`."""
        if depth not in self.by_end:
            groups: dict[str, list[str]] = defaultdict(list)
            for name in self.names:
                end = name.rpartition("/")[2] if depth == 1 else "/".join(name.split("/")[-depth:])
                groups[end].append(name)
                stem, dot, extension = end.rpartition(".")
                if dot and "/" not in extension:
                    groups[f"{stem}."].append(name)
            self.by_end[depth] = dict(groups)
        return self.by_end[depth]
