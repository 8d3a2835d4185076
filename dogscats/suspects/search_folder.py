"""Check a dataset for unreadable photos, duplicates and bad quality: `python -m dogscats.check <root>`."""

import argparse
import logging
import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import chain, combinations
from pathlib import Path

from dogscats.base.console import progress_bar
from dogscats.base.content import cache_folder
from dogscats.base.environment import use_utf8
from dogscats.base.errors import UserError, user_errors_exit
from dogscats.base.files import digest
from dogscats.base.text import shown, text_table
from dogscats.data.loading.photo_check import check_images, leave_out, skip_advice
from dogscats.data.photos.arguments import check_root
from dogscats.data.photos.layouts import DatasetFinder, Photos
from dogscats.data.photos.listing import left_out, left_out_summary
from dogscats.suspects.search import LIKELY_SCORE, MOST_COMPARED, find_by_appearance, joined

log = logging.getLogger(__name__)

ALTERED, BAD_QUALITY = "Photos in two splits, altered", "Photos of bad quality"

MOST_LINES = 20
"""Number of photos of bad quality that are listed: all photos of a dataset may be small."""


def find_leaks(train: Photos, valid: Photos, names: str = "train and valid") -> list[tuple[str, str]]:
    """Find duplicates across two splits: they leak training data into the validation metrics.

    Returns:
        Pairs of a path in `train` and its duplicate in `valid`, in the order of `valid`.
    """
    by_size: dict[int, list[str]] = defaultdict(list)
    for path in train.paths:
        by_size[(train.root / path).stat().st_size].append(path)
    by_content: dict[str, list[str]] = defaultdict(list)
    hashed: set[int] = set()
    leaks: list[tuple[str, str]] = []
    for path in progress_bar(valid.paths, f"Comparing {names}", len(valid.paths), "photo"):
        size = (valid.root / path).stat().st_size
        if size in by_size:
            if size not in hashed:
                hashed.add(size)
                for other in by_size[size]:
                    by_content[digest(train.root / other)].append(other)
            leaks.extend((other, path) for other in by_content.get(digest(valid.root / path), []))
    return leaks


def report(
    root: Path, labels: str | None = None, group: str | None = None, valid_fraction: float = 0.2
) -> tuple[str, bool]:
    """Check a dataset.

    Args:
        root: folder of the dataset.
        labels: table of paths and labels, as in the data module.
        group: regular expression for groups, as in the data module.
        valid_fraction: share to set aside, as in the data module.

    Returns:
        The report as text: layout, class balance, unreadable photos and leaks; and whether there are no such photos
        and no leaks.
    """
    check_root(root)
    cache_dir = cache_folder(root, trains=False)
    dataset = DatasetFinder(root, valid_fraction, labels=labels, group=group, cache_dir=str(cache_dir)).find()
    classes, unlabelled = dataset.classes, dataset.unlabelled
    splits = dataset.splits
    found = check_images(dataset.train.root, [path for photos in splits.values() for path in photos.paths], cache_dir)
    bad, odd = dict(found.bad), dict(found.odd)
    remarked = found.remarked(sum(len(photos.paths) for photos in splits.values()))
    if unlabelled.paths:
        found = check_images(unlabelled.root, unlabelled.paths, cache_dir)
        bad, odd = bad | found.bad, odd | found.odd
        remarked += found.remarked(len(unlabelled.paths))

    rows = [["photos", *classes, "all"]]
    for name, photos in splits.items():
        counts = Counter(photos.labels)
        rows.append([name, *(str(counts[label]) for label in range(len(classes))), str(len(photos.paths))])
    if unlabelled.paths:
        name = "unlabelled" if dataset.test else "test"
        rows.append([name, *[""] * len(classes), str(len(unlabelled.paths))])
    lines = [*text_table(rows), f"Layout: {dataset.layout}.", *dataset.notes]
    if unused := left_out_summary(left_out(root, dataset.used), dataset.empty_folders):
        lines.append(unused)
    if dataset.held_out:
        lines.append(
            f"Validation photos are held out from {dataset.held_out} by data.valid_fraction={valid_fraction:g} seed=0."
        )
    counts = Counter(dataset.train.labels)
    most, least = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    ratio = counts[most] / counts[least]
    lines.append(
        "The classes are balanced."
        if ratio < 1.5
        else f"The classes are unbalanced: {ratio:.1f} times as many {classes[most]} as {classes[least]}."
    )

    good = {name: leave_out(photos, bad) for name, photos in splits.items()}
    leaks = {
        f"{one} and in {other}": find_leaks(good[one], good[other], f"{one} and {other}")
        for one, other in combinations(good, 2)
    }
    looks = _looks(good, classes, {*chain.from_iterable(leaks.values())})
    found_by_kind = {
        "Unreadable photos": [f"{path}: {reason}" for path, reason in bad.items()],
        **{f"Photos in {where}": [f"{a} = {b}" for a, b in pairs] for where, pairs in leaks.items()},
        "Photos with odd but readable content": [*(f"{path}: {text}" for path, text in odd.items()), *remarked],
        **looks,
    }
    for what, listed in found_by_kind.items():
        more = [f"... and {len(listed) - MOST_LINES} more"] if what == BAD_QUALITY and len(listed) > MOST_LINES else []
        lines.append(f"\n{what}: {len(listed) or 'none'}")
        lines.extend(f"  {shown(line)}" for line in [*listed[: MOST_LINES if more else None], *more])
    lines.append(f"\nWhat was found is kept for the next time in {shown(cache_dir)}.")
    if bad:
        lines.append(f"Remove or replace them{skip_advice(splits.values(), bad)}.")
    leaking = any(leaks.values()) or bool(looks[ALTERED])
    if leaking:
        lines.append("Remove one photo of each pair: duplicates make the metrics too optimistic.")
    lines.append(
        "\nAfter a training, `evaluate.py run=<run> suspects=true` also finds wrong labels, and draws a page to decide "
        "which\nphotos to drop or relabel: data.decisions=decisions.csv does so without touching a file."
    )
    return "\n".join(lines), not (bad or leaking)


def _looks(
    splits: Mapping[str, Photos], classes: Sequence[str], known: Collection[tuple[str, str]]
) -> dict[str, list[str]]:
    """Find further duplicates, which are not equal byte for byte, and photos of bad quality.

    Args:
        splits: readable photos of each split.
        classes: class names.
        known: pairs that are equal byte for byte.

    Returns:
        Lines by kind.
    """
    photos = joined(splits, classes)
    if len(photos.paths) > MOST_COMPARED:
        log.warning("More than %d photos: only those that are equal byte for byte were compared.", MOST_COMPARED)
    found = find_by_appearance(photos, size=224)  # of the network's images, if it is the usual one
    pairs = {
        kind: [
            f"{suspect.path} = {suspect.twin}: {suspect.reason}"
            for suspect in found
            if suspect.kind == kind and not {(suspect.path, suspect.twin), (suspect.twin, suspect.path)} & {*known}
        ]
        for kind in ("leak", "duplicate")
    }
    bad = [f"{s.path}: {s.reason}" for s in found if s.kind == "quality" and s.score > LIKELY_SCORE]
    return {ALTERED: pairs["leak"], "Photos twice in a split": pairs["duplicate"], BAD_QUALITY: bad}


def main() -> None:
    """Print the report for a folder; the exit code is 1 if there are bad photos or leaks."""
    use_utf8()
    parser = argparse.ArgumentParser("python -m dogscats.check", description=__doc__)
    parser.add_argument("root", type=Path, help="folder of the dataset")
    parser.add_argument("--labels", help="table of paths and labels, as data.labels")
    parser.add_argument("--group", help="regular expression for photos that belong together, as data.group")
    parser.add_argument("--valid-fraction", type=float, default=0.2, help="share to set aside, as data.valid_fraction")
    options = parser.parse_args()
    root = options.root.expanduser()
    with user_errors_exit():
        if not 0 < options.valid_fraction < 1:
            raise UserError(f"--valid-fraction={options.valid_fraction:g}: expected a number between 0 and 1.")
        text, good = report(root, options.labels, options.group, options.valid_fraction)
    # Escape bytes of file names that are not valid UTF-8.
    print(text.encode(errors="backslashreplace").decode())
    sys.exit(0 if good else 1)
