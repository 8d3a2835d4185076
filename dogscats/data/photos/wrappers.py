"""Folders around a dataset, as archives have them, and folders of Parquet files."""

from pathlib import Path

from dogscats.data.photos.dataset_parts import flat_classes
from dogscats.data.photos.listing import is_image_name, list_folder
from dogscats.data.photos.split import split_of

OWN = {"tmp", "outputs", "multirun"}
"""Folders for the cache and the runs of this project: in the root they are not classes."""

MOST_WRAPPERS = 5
"""Depth to which folders that are each the only one in another are descended into: links may form a loop."""


def unwrapped(root: Path) -> str:
    """Return the folder that has the dataset, in others that are alone in `root`: `PetImages/`; empty for the root."""
    base = ""
    for _ in range(MOST_WRAPPERS):
        if not (wrapper := _wrapper(root / base)):
            break
        base += f"{wrapper}/"
    return base


def may_be_class(name: str) -> bool:
    """Return whether a folder in a root may be a class: it is no split, nor this project's own."""
    return split_of(name) is None and name.lower() not in {*OWN, "test1"}


def _wrapper(folder: Path) -> str | None:
    """Return the name of the only folder in `folder` if it wraps a dataset, and is not itself one of photos."""
    names, files = list_folder(folder)
    names = [name for name in names if name.lower() not in OWN]
    if len(names) != 1 or not may_be_class(names[0]) or any(is_image_name(folder, name) for name in files):
        return None
    inner, files = list_folder(folder / names[0])
    images = [name for name in files if is_image_name(folder / names[0], name)]
    by_class, unknown = flat_classes(images)
    flat = len(by_class) > 1 and not unknown
    parquet = not inner and any(name.lower().endswith(".parquet") for name in files)
    return names[0] if flat or parquet or (inner and not images) else None


def parquet_in(folder: Path) -> list[Path]:
    """List the Parquet files of a folder that has no photos and no folders."""
    names, files = list_folder(folder)
    if {name.lower() for name in names} - OWN or any(is_image_name(folder, name) for name in files):
        return []
    return [folder / name for name in files if name.lower().endswith(".parquet")]
