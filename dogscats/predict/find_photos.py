"""The photos to predict: those matched by a file, folder or glob."""

import glob
import logging
import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from dogscats.base.errors import UserError
from dogscats.base.text import counted
from dogscats.data.photos.listing import is_image_name, is_leftover, list_images, natural_key
from dogscats.runs.directory import PREDICTIONS

log = logging.getLogger(__name__)

SORTED, EXPLAINED = "sorted", "explained"
"""Folders in a run directory for the photos that `sort=` copies or links, and for what `explain=true` draws."""


def find_photos(pattern: str) -> list[Path]:
    """List the photos matched by a file, folder or glob, in natural order. A matched folder stands for its photos.

    What earlier predictions wrote into the folder is left out.

    Raises:
        UserError: if no photo matches.
    """
    path = Path(pattern).expanduser()
    if path.is_file():
        return [path]
    photos: set[Path] = set()
    for match in _matched(Path(path.anchor), path.relative_to(path.anchor).parts):
        if match.is_dir():
            photos.update(list_images(match))
        elif is_image_name(match.parent, match.name):
            photos.add(match)
    top = folder_of(pattern)

    @cache
    def is_written(folder: Path) -> bool:
        if folder == top or folder == folder.parent:
            return False
        made = folder.name in (SORTED, EXPLAINED) and (folder.parent / PREDICTIONS).is_file()
        return made or is_written(folder.parent)

    written = {photo for photo in photos if is_written(photo.parent)}
    if written:
        log.info("%s of earlier predictions left out, in %s/ or %s/", counted(len(written), "photo"), SORTED, EXPLAINED)
        photos -= written
    if not photos:
        missing = "there is no such file or folder" if not glob.has_magic(pattern) and not path.exists() else ""
        raise UserError(
            f"predict={pattern}: {missing or 'no photos found'}. Give a file, a folder, or a quoted glob, for example "
            "'predict=photos/*.jpg'."
        )
    return sorted(photos, key=natural_key)


def folder_of(pattern: str) -> Path:
    """Return the folder of a file, folder or glob, below which sub-folders are found: `photos` of `photos/*/1.jpg`."""
    path = Path(pattern).expanduser()
    return path if path.is_dir() else folder_of(str(path.parent))


def _matched(folder: Path, parts: Sequence[str]) -> Iterator[Path]:
    """Yield what is in `folder` and matches the parts of a glob; brackets in names that exist are none of a pattern."""
    if not parts:
        yield folder
        return
    name, *rest = parts
    if os.path.lexists(folder / name):
        yield from _matched(folder / name, rest)
        return
    for pattern in (name.replace("[", "[[]"), name):
        if found := glob.glob(pattern, root_dir=folder, recursive=True):  # noqa: PTH207  # relative to the folder
            break
    for match in ["", *found] if name == "**" else found:
        if not any(map(is_leftover, Path(match).parts)):
            yield from _matched(folder / match, rest)
