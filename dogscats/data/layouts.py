"""Dataset layouts: photos, classes and splits."""

import hashlib
import re
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dogscats.data.images import is_leftover, list_files, list_images
from dogscats.runs.errors import UserError
from dogscats.runs.text import shown

HOW_TO_GET_DATA = """\
Put photos of two or more classes into <data.root>/train/<class>/ and <data.root>/valid/<class>/. Kaggle's
file names, <data.root>/train/<class>.<number>.jpg, are also supported. Without valid/, a part of train/ is
held out.
The lesson's photos are Kaggle's "Dogs vs. Cats" (https://www.kaggle.com/c/dogs-vs-cats). data.download=true
downloads them (857 MB) from http://files.fast.ai/data/dogscats.zip.
To try it without data, use data=sample: synthetic cats and dogs."""


@dataclass(frozen=True)
class Photos:
    """The photos of one split.

    Attributes:
        root: folder that `paths` are relative to.
        paths: relative paths with `/` as separator, in natural order within a class.
        labels: class index of each photo; empty for unlabelled photos.
        odd: paths of photos that the JPEG library would print warnings about.
    """

    root: Path
    paths: Sequence[str]
    labels: Sequence[int]
    odd: Collection[str] = ()


def find_photos(
    root: Path, valid_fraction: float = 0.2, seed: int = 0, limit: int | None = None
) -> tuple[list[str], Photos, Photos]:
    """Find the labelled photos in `root`, in class folders or in Kaggle's flat layout (`cat.0.jpg`).

    Args:
        root: folder with `train/`, and optionally `valid/`.
        valid_fraction: share of each class of `train/` to hold out if there is no `valid/`.
        seed: seeds the choice of held-out photos.
        limit: maximum number of photos per class and split, taken from the start; `None` for all.

    Returns:
        Sorted class names, training photos and validation photos.

    Raises:
        UserError: if folders, classes or photos are missing, or the classes differ between splits.
    """
    train = _by_class(root, "train")
    if len(train) < 2:
        raise UserError(
            f"data.root={root}: train/ has only one class, {next(iter(train))!r}. "
            "Add a folder of photos for at least one more class."
        )
    if (root / "valid").is_dir():
        valid = _by_class(root, "valid")
        if list(train) != list(valid):
            only = [", ".join(sorted(set(a) - set(b))) or "none" for a, b in ((train, valid), (valid, train))]
            raise UserError(
                f"data.root={root}: the classes of train and valid differ. "
                f"Only in train/: {only[0]}. Only in valid/: {only[1]}."
            )
    else:
        valid = {name: held_out(paths, valid_fraction, seed) for name, paths in train.items()}
        for name, chosen in valid.items():
            if not chosen:
                raise UserError(
                    f"data.root={root}: class {name!r} has only one photo, and there is no valid/. "
                    "Add photos: training and validation need at least one each."
                )
            apart = set(chosen)
            train[name] = [path for path in train[name] if path not in apart]
    return list(train), _photos(root, train, limit), _photos(root, valid, limit)


def find_split(
    root: Path, split: str, valid_fraction: float = 0.2, seed: int = 0, limit: int | None = None
) -> tuple[list[str], Photos]:
    """Find the labelled photos of one split; other splits may be missing.

    Without a folder `valid/`, `train` and `valid` are the same parts of `train/` as in `find_photos`.

    Args:
        root: folder that contains the folder `split`.
        split: name of the split.
        valid_fraction: held-out share, as in `find_photos`.
        seed: seed, as in `find_photos`.
        limit: maximum number of photos per class, as in `find_photos`.

    Returns:
        Sorted class names, some possibly without photos, and the photos.

    Raises:
        UserError: if folders are missing.
    """
    if not root.is_dir():
        raise UserError(f"data.root={root}: there is no such folder.\n{HOW_TO_GET_DATA}")
    if split in ("train", "valid") and (root / "train").is_dir() and not (root / "valid").is_dir():
        classes, train, valid = find_photos(root, valid_fraction, seed, limit)
        return classes, train if split == "train" else valid
    if not (root / split).is_dir():
        folders = sorted(f.name for f in root.iterdir() if f.is_dir() and not f.name.startswith("."))
        raise UserError(f"split={split}: data.root={root} has no folder {split}/, only {', '.join(folders) or 'none'}.")
    by_class = _by_class(root, split, allow_empty=True)
    return list(by_class), _photos(root, by_class, limit)


def held_out(paths: Sequence[str], fraction: float, seed: int) -> list[str]:
    """Choose the held-out validation photos of a class: those whose names have the smallest hashes.

    The choice depends only on the names and the seed. The number is exact: `fraction` of the photos, rounded, but
    never none or all. Adding or removing a photo moves at most one other photo of its class between splits.

    Returns:
        The chosen paths, in their original order; empty if there is only one photo.
    """
    count = min(max(round(fraction * len(paths)), 1), len(paths) - 1)
    chosen = set(sorted(paths, key=lambda path: _hash(seed, path))[:count])
    return [path for path in paths if path in chosen]


def find_unlabelled(root: Path) -> list[str]:
    """List the photos in `test1/` and `test/`, relative to `root`."""
    return [image.relative_to(root).as_posix() for name in ("test1", "test") for image in list_images(root / name)]


def leave_out(photos: Photos, bad: Container[str]) -> Photos:
    """Remove the labelled photos whose paths are in `bad`."""
    kept = [pair for pair in zip(photos.paths, photos.labels, strict=True) if pair[0] not in bad]
    return replace(photos, paths=[path for path, _ in kept], labels=[label for _, label in kept])


def left_out(root: Path, used: Iterable[str]) -> list[str]:
    """List the files in `root` that are not used, apart from unlabelled photos and what this project keeps there.

    Args:
        root: folder of the dataset.
        used: paths of the photos that are used.
    """
    known = {*used, *find_unlabelled(root)}
    files = (file.relative_to(root).as_posix() for file in list_files(root))
    return [file for file in files if file not in known and not file.startswith(("tmp/activations-", "tmp/checked-"))]


def left_out_summary(files: Sequence[str]) -> str:
    """Say how many files are left out, and name the first."""
    names = ", ".join(map(shown, files[:5])) + (", ..." if len(files) > 5 else "")
    heic = any(file.lower().endswith((".heic", ".heif")) for file in files)
    hint = " HEIC photos need the extra heif: pip install pillow-heif." if heic else ""
    if other := next((file.split("/")[0] for file in files if re.match("(val|validation|dev)/", file)), None):
        hint += f" If {other}/ has your validation photos, rename it to valid/."
    return f"{len(files)} file{'s' if len(files) > 1 else ''} left out: {names}.{hint}"


def _hash(seed: int, path: str) -> bytes:
    return hashlib.blake2b(f"{seed}/{path}".encode("utf-8", "surrogateescape"), digest_size=16).digest()


def _photos(root: Path, by_class: Mapping[str, Sequence[str]], limit: int | None) -> Photos:
    chosen = [(path, label) for label, paths in enumerate(by_class.values()) for path in paths[:limit]]
    return Photos(root, [path for path, _ in chosen], [label for _, label in chosen])


def _by_class(root: Path, split: str, allow_empty: bool = False) -> dict[str, list[str]]:
    """List the photos of each class of a split, sorted by class."""
    folder = root / split
    names = sorted(f.name for f in folder.iterdir() if f.is_dir() and not is_leftover(f.name))
    found = {name: [image.relative_to(root).as_posix() for image in list_images(folder / name)] for name in names}
    if not found:
        found = _by_prefix(root, folder)
    for name, paths in found.items():
        if not (paths or allow_empty):
            raise UserError(f"{folder / name}: there are no photos in it.\n{HOW_TO_GET_DATA}")
    if not found:
        raise UserError(f"data.root={root}: {split}/ has no class folders with photos.\n{HOW_TO_GET_DATA}")
    return found


def _by_prefix(root: Path, folder: Path) -> dict[str, list[str]]:
    """List the photos of Kaggle's flat layout: the class is the file name up to the first dot."""
    found: dict[str, list[str]] = {}
    for image in list_images(folder):
        name, *rest = image.name.split(".")
        if len(rest) < 2:
            raise UserError(
                f"{image}: its class is unknown. Put it into a folder named after its class, or rename it to "
                "<class>.<number>.jpg, as Kaggle does."
            )
        found.setdefault(name, []).append(image.relative_to(root).as_posix())
    return dict(sorted(found.items()))
