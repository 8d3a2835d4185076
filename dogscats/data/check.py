"""Check a dataset for unreadable photos and duplicates across splits: `python -m dogscats.check <root>`."""

import argparse
import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dogscats.data.images import UnreadableImageError, read_image
from dogscats.data.layouts import HOW_TO_GET_DATA, Photos, find_photos, find_unlabelled, leave_out
from dogscats.runs.cache import cache_folder, fingerprint
from dogscats.runs.console import progress_bar, text_table
from dogscats.runs.errors import UserError, user_errors_exit
from dogscats.runs.files import digest, write_csv, write_json


def unreadable_images(root: Path, paths: Sequence[str]) -> dict[str, str]:
    """Decode every photo in full.

    Args:
        root: folder that `paths` are relative to.
        paths: paths of the photos.

    Returns:
        The reason for each unreadable photo; empty if all can be read.
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

    # Threads suffice: the decoders release the GIL. The limit bounds memory: each may hold one large image.
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        reasons = progress_bar(pool.map(reason, paths), "Checking photos", len(paths), "photo")
        return {path: why for path, why in zip(paths, reasons, strict=True) if why is not None}


def check_images(root: Path, paths: Iterable[str], cache_dir: Path) -> dict[str, str]:
    """Decode every photo in full. If the same files were checked before, decode only the bad ones.

    Args:
        root: folder that `paths` are relative to.
        paths: paths of the photos.
        cache_dir: folder for the cached result, `checked-<fingerprint>.json`.

    Returns:
        The reason for each unreadable photo; empty if all can be read.
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
    write_json(remembered, {"photos": len(paths), "bad": list(bad)})
    return bad


def write_bad_images(path: Path, bad: Mapping[str, str]) -> None:
    """Write a CSV file of the unreadable photos: `path,reason`. The photos are left untouched."""
    write_csv(path, ["path", "reason"], bad.items())


def find_leaks(train: Photos, valid: Photos) -> list[tuple[str, str]]:
    """Find duplicates across train and valid: they leak training data into the validation metrics.

    Returns:
        Pairs of a path in `train` and its duplicate in `valid`, in the order of `valid`.
    """
    by_size: dict[int, list[str]] = defaultdict(list)
    for path in train.paths:
        by_size[(train.root / path).stat().st_size].append(path)
    by_content: dict[str, list[str]] = defaultdict(list)
    hashed: set[int] = set()
    leaks: list[tuple[str, str]] = []
    for path in progress_bar(valid.paths, "Comparing train and valid", len(valid.paths), "photo"):
        size = (valid.root / path).stat().st_size
        if size in by_size:
            if size not in hashed:
                hashed.add(size)
                for other in by_size[size]:
                    by_content[digest(train.root / other)].append(other)
            leaks.extend((other, path) for other in by_content.get(digest(valid.root / path), []))
    return leaks


def report(root: Path) -> tuple[str, bool]:
    """Check a dataset.

    Returns:
        The report as text: class balance, unreadable photos and leaks; and whether there are no such photos and no
        leaks.
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
    lines = text_table(rows)
    if not (root / "valid").is_dir():
        lines.append("There is no valid/: photos are held out from train/ by data.valid_fraction=0.2 seed=0.")
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
        lines.append("Remove one photo of each pair: duplicates make the validation metrics too optimistic.")
    return "\n".join(lines), not (bad or leaks)


def main() -> None:
    """Print the report for a folder; the exit code is 1 if there are bad photos or leaks."""
    parser = argparse.ArgumentParser("python -m dogscats.check", description=__doc__)
    parser.add_argument("root", type=Path, help="folder with train/, and perhaps valid/ and test1/")
    root = parser.parse_args().root.expanduser()
    with user_errors_exit():
        if not (root / "train").is_dir():
            raise UserError(f"{root}: there is no folder train/ in it.\n{HOW_TO_GET_DATA}")
        text, good = report(root)
    # Escape bytes of file names that are not valid UTF-8.
    print(text.encode(errors="backslashreplace").decode())
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
