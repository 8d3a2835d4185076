"""Check a dataset for unreadable photos and duplicates across splits: `python -m dogscats.check <root>`."""

import argparse
import logging
import os
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, combinations
from pathlib import Path

from dogscats.base.console import progress_bar
from dogscats.base.content import cache_folder, fingerprint, load_samples, save_samples
from dogscats.base.errors import Failure, UserError, user_errors_exit
from dogscats.base.files import digest, read_json, write_csv, write_json
from dogscats.base.locks import locked
from dogscats.base.text import shown, text_table
from dogscats.data.photos.layouts import Photos, find_dataset, leave_out, left_out, left_out_summary
from dogscats.data.pixels.images import LARGE, UnreadableImageError, decode, is_large, read_image
from dogscats.data.pixels.shrink import Shrink, planned

log = logging.getLogger(__name__)

MOST_LINES = 20
"""Number of photos of bad quality that are listed: all photos of a dataset may be small."""

SIZE = 224
"""Side in pixels of the images that the network is assumed to take; it tells which photos are too small."""

GROUP = 256
"""Photos that are decoded at once before looking at what the JPEG library has printed."""


@dataclass(frozen=True)
class Findings:
    """What was found when photos were decoded.

    Attributes:
        bad: the reason for each unreadable photo.
        odd: warning of the JPEG library about each photo that it could still decode.
        sizes: width and height of each readable photo of at least `LARGE` pixels.
    """

    bad: dict[str, str]
    odd: dict[str, str]
    sizes: dict[str, tuple[int, int]]


def examine(root: Path, paths: Sequence[str], shrink: Shrink | None = None) -> Findings:
    """Decode every photo once.

    Args:
        root: folder that `paths` are relative to.
        paths: paths of the photos.
        shrink: how large photos are decoded; their copies are made in passing, unless they cannot be written. `None`
            to decode all in full.
    """
    sizes: dict[str, tuple[int, int]] = {}
    keeps = shrink is not None and shrink.folder is not None

    def reason(path: str) -> str | None:
        nonlocal keeps
        try:
            path.encode()
            photo = decode(root / path, least=shrink.side if shrink else None)
            if photo.doubtful:
                read_image(root / path)  # the JPEG library prints what it finds odd
        except UnicodeEncodeError:
            return "its name is not valid UTF-8; rename it"
        except UnreadableImageError as error:
            return str(error)
        if photo.size[0] * photo.size[1] >= LARGE:
            sizes[path] = photo.size
        if shrink and keeps and is_large(photo.size, shrink.side):
            try:
                shrink.keep(root, path, photo.pixels)
            except Failure:
                keeps = False  # the disk is full, or read-only
        return None

    bad: dict[str, str] = {}
    odd: dict[str, str] = {}
    if not paths:
        return Findings(bad, odd, {})
    # Threads suffice: the decoders release the GIL. The limit bounds memory: each may hold one large image.
    with (
        captured_stderr() as printed,
        ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool,
        progress_bar(paths, "Checking photos", len(paths), "photo") as bar,
    ):
        for start in range(0, len(paths), GROUP):
            group = paths[start : start + GROUP]
            for path, why in zip(group, pool.map(reason, group), strict=True):
                bar.update()
                if why is not None:
                    bad[path] = why
            if printed():  # by which photo is not known: decode them once more, one by one
                for path in group:
                    if reason(path) is None and (text := printed()):
                        odd[path] = text
    return Findings(bad, odd, dict(sorted(sizes.items())))  # threads end in any order


@contextmanager
def captured_stderr() -> Iterator[Callable[[], str]]:
    """Capture what libraries print directly to the error output; Python's own still appears.

    Yields:
        Function that returns the last line since its last call.
    """
    with tempfile.TemporaryFile() as file, os.fdopen(os.dup(2), "w", buffering=1) as terminal:
        before = sys.stderr

        def printed() -> str:
            file.seek(0)
            lines = file.read().decode(errors="replace").split("\n")
            file.seek(0)
            file.truncate()
            return next((line.strip() for line in reversed(lines) if line.strip()), "")

        if before is sys.__stderr__:
            sys.stderr = terminal
        os.dup2(file.fileno(), 2)
        try:
            yield printed
        finally:
            os.dup2(terminal.fileno(), 2)
            sys.stderr = before


def check_images(root: Path, paths: Iterable[str], cache_dir: Path, shrink: Shrink | None = None) -> Findings:
    """Decode every photo. If the same files were checked before, decode only the bad ones.

    Args:
        root: folder that `paths` are relative to.
        paths: paths of the photos.
        cache_dir: folder for the cached result, `checked-<fingerprint>.json`.
        shrink: how large photos are decoded, as in `examine`.
    """
    paths = sorted(paths)
    load_samples(samples := cache_dir / "checked-samples.bin")
    remembered = cache_dir / f"checked-{fingerprint(root, paths)}.json"
    save_samples(samples)
    if (before := _remembered(remembered)) is not None:
        return _check(root, paths, remembered, before, shrink)
    # Of the ranks that torchrun or Slurm start, and of other runs, one decodes the photos and the others wait.
    with locked(remembered.with_suffix(".lock"), f"{remembered}"):
        return _check(root, paths, remembered, _remembered(remembered), shrink)


def _check(
    root: Path, paths: Sequence[str], remembered: Path, before: Findings | None, shrink: Shrink | None
) -> Findings:
    if before is None and shrink:
        shrink = planned(shrink, root, paths)
    found = examine(root, paths if before is None else list(before.bad), shrink)
    if before is None:
        for path, text in found.odd.items():
            log.warning("%s: %s (the photo is still used)", shown(root / path), text)
    elif found.bad == before.bad:
        return before
    if before is not None:
        found = Findings(found.bad, before.odd | found.odd, before.sizes | found.sizes)
    with suppress(Failure):  # a read-only cache
        write_json(remembered, {"photos": len(paths), "bad": found.bad, "odd": found.odd, "sizes": found.sizes})
    return found


def _remembered(file: Path) -> Findings | None:
    try:
        content = read_json(file)
        sizes = {str(path): (int(width), int(height)) for path, (width, height) in content["sizes"].items()}
        findings = Findings(dict(content["bad"]), dict(content["odd"]), sizes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # absent, damaged, or of an older version
        return None
    return findings


def write_bad_images(path: Path, bad: Mapping[str, str]) -> None:
    """Write a CSV file of the unreadable photos: `path,reason`. The photos are left untouched."""
    write_csv(path, ["path", "reason"], bad.items())


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
        valid_fraction: share to hold out, as in the data module.

    Returns:
        The report as text: layout, class balance, unreadable photos and leaks; and whether there are no such photos
        and no leaks.
    """
    dataset = find_dataset(root, valid_fraction, labels=labels, group=group)
    classes, unlabelled, cache_dir = dataset.classes, dataset.unlabelled, cache_folder(root)
    splits = {"train": dataset.train, "valid": dataset.valid} | ({"test": dataset.test} if dataset.test else {})
    found = check_images(dataset.train.root, [path for photos in splits.values() for path in photos.paths], cache_dir)
    bad, odd = dict(found.bad), dict(found.odd)
    if unlabelled.paths:
        found = check_images(unlabelled.root, unlabelled.paths, cache_dir)
        bad, odd = bad | found.bad, odd | found.odd

    rows = [["photos", *classes, "all"]]
    for name, photos in splits.items():
        counts = Counter(photos.labels)
        rows.append([name, *(str(counts[label]) for label in range(len(classes))), str(len(photos.paths))])
    if unlabelled.paths:
        name = "unlabelled" if dataset.test else "test"
        rows.append([name, *[""] * len(classes), str(len(unlabelled.paths))])
    lines = [*text_table(rows), f"Layout: {dataset.layout}.", *dataset.notes]
    if unused := left_out_summary(left_out(root, dataset.used), dataset.hollow):
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
    for count, what, listed in [
        (len(bad), "cannot be read", [f"{path}: {reason}" for path, reason in bad.items()]),
        *(
            (len(pairs), f"in {where}", [f"{ours} = {theirs}" for ours, theirs in pairs])
            for where, pairs in leaks.items()
        ),
        (len(odd), "with odd but readable content", [f"{path}: {text}" for path, text in odd.items()]),
        *looks,
    ]:
        lines.append(f"\nPhotos {what}: {count or 'none'}")
        lines.extend(f"  {shown(line)}" for line in listed)
    if bad:
        lines.append("Remove or replace them, or train without them: data.on_bad_image=skip.")
    leaking = any(leaks.values()) or looks[0][0] > 0
    if leaking:
        lines.append("Remove one photo of each pair: duplicates make the metrics too optimistic.")
    lines.append(
        "\nAfter a training, `evaluate.py run=<run> suspects=true` also finds wrong labels, and draws a page to decide "
        "which\nphotos to drop or relabel: data.decisions=decisions.csv does so without touching a file."
    )
    return "\n".join(lines), not (bad or leaking)


def _looks(
    splits: Mapping[str, Photos], classes: Sequence[str], known: Collection[tuple[str, str]]
) -> list[tuple[int, str, list[str]]]:
    """Find further duplicates, which are not equal byte for byte, and photos of bad quality.

    Args:
        splits: readable photos of each split.
        classes: class names.
        known: pairs that are equal byte for byte.

    Returns:
        Number, kind and lines of each kind; leaks first.
    """
    from dogscats.suspects.search import CERTAIN, MOST_COMPARED, find_by_appearance, joined  # imports this package

    photos = joined(splits, classes)
    if len(photos.paths) > MOST_COMPARED:
        log.warning("More than %d photos: only those that are equal byte for byte were compared.", MOST_COMPARED)
    found = find_by_appearance(photos, SIZE)
    pairs = {
        kind: [
            f"{suspect.path} = {suspect.twin}: {suspect.reason}"
            for suspect in found
            if suspect.kind == kind and not {(suspect.path, suspect.twin), (suspect.twin, suspect.path)} & {*known}
        ]
        for kind in ("leak", "duplicate")
    }
    bad = [f"{s.path}: {s.reason}" for s in found if s.kind == "quality" and s.score > CERTAIN]
    more = [f"... and {len(bad) - MOST_LINES} more"] if len(bad) > MOST_LINES else []
    return [
        (len(pairs["leak"]), "in two splits, altered", pairs["leak"]),
        (len(pairs["duplicate"]), "twice in a split", pairs["duplicate"]),
        (len(bad), "of bad quality", bad[:MOST_LINES] + more),
    ]


def main() -> None:
    """Print the report for a folder; the exit code is 1 if there are bad photos or leaks."""
    parser = argparse.ArgumentParser("python -m dogscats.check", description=__doc__)
    parser.add_argument("root", type=Path, help="folder of the dataset")
    parser.add_argument("--labels", help="table of paths and labels, as data.labels")
    parser.add_argument("--group", help="regular expression for photos that belong together, as data.group")
    parser.add_argument("--valid-fraction", type=float, default=0.2, help="share to hold out, as data.valid_fraction")
    options = parser.parse_args()
    root = options.root.expanduser()
    with user_errors_exit():
        if not 0 < options.valid_fraction < 1:
            raise UserError(f"--valid-fraction={options.valid_fraction:g}: expected a number between 0 and 1.")
        text, good = report(root, options.labels, options.group, options.valid_fraction)
    # Escape bytes of file names that are not valid UTF-8.
    print(text.encode(errors="backslashreplace").decode())
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
