"""Find photos that would stop a training or flatter its figures: `python -m dogscats.check <root>`."""

import argparse
import csv
import hashlib
import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dogscats.atomic import atomic_path
from dogscats.cache import cache_folder, fingerprint
from dogscats.console import progress_bar
from dogscats.errors import UserError, user_errors_exit
from dogscats.folders import HOW_TO_GET_DATA, Photos, find_photos, find_unlabelled, leave_out
from dogscats.images import UnreadableImageError, read_image


def unreadable_images(root: Path, paths: Sequence[str]) -> dict[str, str]:
    """Decode every photo in full.

    Args:
        root: folder that `paths` are relative to.
        paths: the photos.

    Returns:
        The reason for each photo that cannot be read; empty when all can.
    """

    def reason(path: str) -> str | None:
        try:
            path.encode()
            read_image(root / path)
        except UnicodeEncodeError:
            return "its name is not valid UTF-8; rename it"
        except UnreadableImageError as error:
            return str(error)
        return None

    # Threads do: the decoders let go of the interpreter's lock. Each may hold one large picture.
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        reasons = progress_bar(pool.map(reason, paths), "Checking photos", len(paths), "photo")
        return {path: why for path, why in zip(paths, reasons, strict=True) if why is not None}


def check_images(root: Path, paths: Iterable[str], cache_dir: Path) -> dict[str, str]:
    """Decode every photo in full, unless the same files were checked before; then only what was bad.

    Args:
        root: folder that `paths` are relative to.
        paths: the photos.
        cache_dir: where the result is remembered, as `checked-<fingerprint>.json`.

    Returns:
        The reason for each photo that cannot be read; empty when all can.
    """
    paths = sorted(paths)
    remembered = cache_dir / f"checked-{fingerprint(root, paths)}.json"
    try:
        suspects: list[str] = json.loads(remembered.read_text())["bad"]
    except (OSError, ValueError, KeyError):
        suspects = paths
    if not suspects:
        return {}
    bad = unreadable_images(root, suspects)
    with atomic_path(remembered) as temporary:
        temporary.write_text(json.dumps({"photos": len(paths), "bad": list(bad)}))
    return bad


def write_bad_images(path: Path, bad: Mapping[str, str]) -> None:
    """Write the photos that cannot be read to a CSV file, `path,reason`; none is touched itself."""
    # A name that is not valid UTF-8 is shown with what is wrong in it escaped.
    with (
        atomic_path(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "reason"])
        writer.writerows(bad.items())


def find_leaks(train: Photos, valid: Photos) -> list[tuple[str, str]]:
    """Find files with the same content in both splits, which make the figures of validation too good.

    Returns:
        Paths in `train`, each with that of its double in `valid`, in the order of `valid`.
    """
    by_size: dict[int, list[str]] = defaultdict(list)
    for path in train.paths:
        by_size[(train.root / path).stat().st_size].append(path)
    by_content: dict[bytes, list[str]] = defaultdict(list)
    hashed: set[int] = set()
    leaks: list[tuple[str, str]] = []
    for path in progress_bar(valid.paths, "Comparing train and valid", len(valid.paths), "photo"):
        size = (valid.root / path).stat().st_size
        if size in by_size:
            if size not in hashed:
                hashed.add(size)
                for other in by_size[size]:
                    by_content[_digest(train.root / other)].append(other)
            leaks.extend((other, path) for other in by_content.get(_digest(valid.root / path), []))
    return leaks


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def report(root: Path) -> tuple[str, bool]:
    """Check a dataset.

    Returns:
        The class balance, the photos that cannot be read and the leaks, as text; and whether there are no
        such photos and no leaks.
    """
    classes, *splits = find_photos(root)
    train, valid = splits
    unlabelled = find_unlabelled(root)
    cache_dir = cache_folder(root)
    bad = check_images(root, [*train.paths, *valid.paths], cache_dir)
    if unlabelled:
        bad |= check_images(root, unlabelled, cache_dir)

    rows = [["photos", *classes, "all"]]
    for name, photos in zip(("train", "valid"), splits, strict=True):
        counts = Counter(photos.labels)
        rows.append([name, *(str(counts[label]) for label in range(len(classes))), str(len(photos.paths))])
    if unlabelled:
        rows.append(["test", *[""] * len(classes), str(len(unlabelled))])
    widths = [max(map(len, column)) + 2 for column in zip(*rows, strict=True)]
    lines = ["".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
    if not (root / "valid").is_dir():
        lines.append("There is no valid/: it is held out of train/ with data.valid_fraction=0.2 seed=0.")
    counts = Counter(train.labels)
    most, least = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    ratio = counts[most] / counts[least]
    lines.append(
        "The classes are balanced."
        if ratio < 1.5
        else f"The classes are unbalanced: {ratio:.1f} times as many {classes[most]} as {classes[least]}."
    )

    leaks = find_leaks(leave_out(train, bad), leave_out(valid, bad))
    for count, found, listed in [
        (len(bad), "cannot be read", [f"{path}: {reason}" for path, reason in bad.items()]),
        (len(leaks), "in train and in valid", [f"{ours} = {theirs}" for ours, theirs in leaks]),
    ]:
        lines.append(f"\nPhotos {found}: {count or 'none'}")
        lines.extend(f"  {line}" for line in listed)
    if bad:
        lines.append("Remove or replace them, or train without them: data.on_bad_image=skip.")
    if leaks:
        lines.append(
            "Remove one of each pair: a model that has seen a photo in training knows it in validation."
        )
    return "\n".join(lines), not (bad or leaks)


def main() -> None:
    """Print the report on the folder named on the command line; the exit code is 1 if anything is bad."""
    parser = argparse.ArgumentParser("python -m dogscats.check", description=__doc__)
    parser.add_argument("root", type=Path, help="folder with train/, and perhaps valid/ and test1/")
    root = parser.parse_args().root.expanduser()
    with user_errors_exit():
        if not (root / "train").is_dir():
            raise UserError(f"{root}: there is no folder train/ in it.\n{HOW_TO_GET_DATA}")
        text, good = report(root)
    # A name that is not valid UTF-8 is shown with what is wrong in it escaped.
    print(text.encode(errors="backslashreplace").decode())
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
