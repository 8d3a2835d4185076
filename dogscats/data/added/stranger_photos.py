"""Strangers: photos of no class, from the folder `data.strangers`, from decisions, and from rows of `data.add`."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dogscats.base.content import file_versions
from dogscats.base.errors import ArgumentError
from dogscats.base.text import counted, listed
from dogscats.data.photos.layouts import Photos
from dogscats.data.photos.listing import image_names
from dogscats.data.photos.tables.label_table import path_in

log = logging.getLogger(__name__)

FEWEST, MOST = 10, 1000
"""With fewer strangers, a run does without; of more, it uses evenly spaced ones."""

NONE = "none"
"""The word for photos of no class, as a label, a decision, and the kind of strangers whose kind is not known."""


@dataclass(frozen=True)
class StrangerPhotos:
    """Strangers by kind.

    Attributes:
        photos: the photos, labelled by the number of their kind.
        kinds: names of the kinds.
    """

    photos: Photos
    kinds: Sequence[str]


def list_strangers(folder: Path, root: Path, limit: int | None = None) -> dict[str, str]:
    """List the photos in a folder of strangers: the kind of each by path, its sub-folder's name or the folder's own.

    Args:
        folder: folder of strangers.
        root: root of the dataset; paths in it are relative to it.
        limit: maximum number of photos per kind; `None` for all.

    Raises:
        ArgumentError: if there is no such folder, it has no photos, or it has the dataset in it.
    """
    if not folder.is_dir():
        wrong = "there is no such folder. Give one with photos of no class, in sub-folders by kind or not"
    elif root.resolve().is_relative_to(folder.resolve()):
        wrong = f"data.root={root} is in it. Give a folder that has only photos of no class"
    elif not (names := image_names(folder)):
        wrong = "there are no photos in it. Add photos of no class, or leave it out"
    else:
        found, counts = dict[str, str](), Counter[str]()
        for name in names:
            kind = name.partition("/")[0] if "/" in name else folder.resolve().name
            counts[kind] += 1
            if limit is None or counts[kind] <= limit:
                found[path_in(root, folder / name)] = kind
        return found
    raise ArgumentError("data", f"strangers={folder}: {wrong}.")


def with_kinds(root: Path, kind_of: Mapping[str, str]) -> StrangerPhotos:
    """Make strangers of the kind of each, by path."""
    kinds = sorted({*kind_of.values()})
    return StrangerPhotos(Photos(root, list(kind_of), [kinds.index(kind) for kind in kind_of.values()]), kinds)


def without_copies(photos: Photos, others: Iterable[Photos]) -> tuple[Photos, list[str]]:
    """Leave out copies of other photos, and all but the first of copies among themselves.

    Args:
        photos: photos of which some may be left out.
        others: photos with the same root.

    Returns:
        The photos, and the paths of those left out.
    """
    known = (version for part in others for version in file_versions(part.root, part.paths))
    seen, rows = {version[1:] for version in known if version}, list[int]()
    for row, version in enumerate(file_versions(photos.root, photos.paths)):
        if version is None or version[1:] not in seen:
            rows.append(row)
            seen.update([version[1:]] if version else [])
    kept = photos.select(rows)
    return kept, sorted({*photos.paths} - {*kept.paths})


def usable_strangers(found: StrangerPhotos, photos: Photos, splits: Mapping[str, Photos]) -> StrangerPhotos | None:
    """Leave out strangers that are copies of labelled photos, or of each other; `None` if too few are left.

    Args:
        found: strangers that were found.
        photos: those of them that can be read.
        splits: labelled photos of each split.
    """
    kept, copies = without_copies(photos, splits.values())
    if copies:
        what = "copies of labelled photos, or of each other"
        log.warning("%s left out, %s: %s", counted(len(copies), "stranger"), what, listed(copies, 5))
    if len(kept.paths) > MOST:
        log.info("Of %s, %d are used, evenly spaced", counted(len(kept.paths), "stranger"), MOST)
        kept = kept.select([row * len(kept.paths) // MOST for row in range(MOST)])
    if len(kept.paths) >= FEWEST:
        return replace(found, photos=kept)
    log.warning(
        "%s given: that is too few to learn from, and the run does without", counted(len(kept.paths), "stranger")
    )
    return None
