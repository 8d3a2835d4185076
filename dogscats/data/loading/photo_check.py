"""Decode every photo of a dataset once, to find those that are unreadable or odd."""

import logging
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from dogscats.base.console import in_threads
from dogscats.base.content import fingerprint, load_samples, save_samples
from dogscats.base.errors import Failure, UserError
from dogscats.base.files import read_json, write_csv, write_json
from dogscats.base.locks import locked
from dogscats.base.text import counted, listed, shown
from dogscats.data.loading.resident import Keep, Resident
from dogscats.data.photos.layouts import Photos
from dogscats.data.photos.listing import natural_key
from dogscats.data.pixels.images import LARGE, UnreadableImageError, decode, is_large, read_image
from dogscats.data.pixels.shrink import Shrink, completed, planned, resized

log = logging.getLogger(__name__)

MUCH_CUT_OFF = 0.4
"""Share of the long side of a photo that is much to cut off."""

GROUP_SIZE = 256
"""Photos that are decoded before reading what the JPEG library has printed."""


@dataclass(frozen=True)
class Findings:
    """What was found when photos were decoded.

    Attributes:
        bad: the reason for each unreadable photo.
        odd: warning of the JPEG library about each photo that it could still decode.
        sizes: width and height of each readable photo of at least `LARGE` pixels.
        elongated: paths of readable photos that lose more than `MUCH_CUT_OFF` of their long side to a square crop.
        remarks: photos that each of `Decoded.remarks` is true of.
    """

    bad: dict[str, str]
    odd: dict[str, str]
    sizes: dict[str, tuple[int, int]]
    elongated: list[str] = field(default_factory=list)
    remarks: dict[str, list[str]] = field(default_factory=dict)

    def remarked(self, count: int) -> list[str]:
        """Say what is remarkable about the photos, of `count` in all: one line for each remark."""
        return [
            f"{len(paths)} of {counted(count, 'photo')} ({len(paths) / count:.1%}) {remark}: {listed(paths, 3)}"
            for remark, paths in self.remarks.items()
        ]


def examine(root: Path, paths: Sequence[str], shrink: Shrink | None = None, keep: Keep | None = None) -> Findings:
    """Decode every photo once.

    Args:
        root: folder that `paths` are relative to.
        paths: paths of the photos.
        shrink: how large photos are decoded; their copies are made in passing, unless they cannot be written. `None`
            to decode all in full.
        keep: function that gets the path and pixels of each readable photo, as `PhotoDataset` decodes it, in any order.
    """
    sizes: dict[str, tuple[int, int]] = {}
    elongated: list[str] = []
    remarks: dict[str, list[str]] = defaultdict(list)
    keeps = shrink is not None and shrink.folder is not None

    def reason(path: str) -> str | None:
        nonlocal keeps
        try:
            path.encode()
            photo = decode(root / path, least=shrink.side if shrink else None, inspect=True)
            if photo.doubtful:
                read_image(root / path)  # the JPEG library prints what it finds odd
        except UnicodeEncodeError:
            return "its name is not valid UTF-8; rename it"
        except UnreadableImageError as error:
            return str(error)
        for remark in photo.remarks:
            remarks[remark].append(path)
        if photo.size[0] * photo.size[1] >= LARGE:
            sizes[path] = photo.size
        if min(photo.size) < (1 - MUCH_CUT_OFF) * max(photo.size):
            elongated.append(path)
        pixels, large = photo.pixels, shrink is not None and is_large(photo.size, shrink.side)
        if shrink and keeps and large:
            try:
                shrink.keep(root, path, pixels)
            except Failure:
                keeps = False  # the disk is full, or read-only
        if keep:
            keep(path, resized(pixels, shrink.side) if shrink and large else pixels)
        return None

    bad: dict[str, str] = {}
    odd: dict[str, str] = {}
    if not paths:
        return Findings(bad, odd, {})
    in_order = in_threads(reason, paths, "Checking photos", at_once=GROUP_SIZE)
    with captured_stderr() as printed, closing(in_order) as reasons:
        for start in range(0, len(paths), GROUP_SIZE):
            group = paths[start : start + GROUP_SIZE]
            bad.update((path, why) for path in group if (why := next(reasons)) is not None)
            if printed():  # to find out by which photo, decode them again, one by one
                for path in group:
                    if reason(path) is None and (text := printed()):
                        odd[path] = text
    # Threads end in any order, and some photos are decoded twice.
    ordered = {remark: sorted({*remarks[remark]}, key=natural_key) for remark in sorted(remarks)}
    return Findings(bad, odd, dict(sorted(sizes.items())), sorted({*elongated}), ordered)


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


def check_images(
    root: Path, paths: Iterable[str], cache_dir: Path, shrink: Shrink | None = None, resident: Resident | None = None
) -> Findings:
    """Decode every photo. If the same files were checked before, decode only the bad ones, unless some became readable.

    Args:
        root: folder that `paths` are relative to.
        paths: paths of the photos.
        cache_dir: folder for the cached result, `checked-<fingerprint>.json`.
        shrink: how large photos are decoded, as in `examine`.
        resident: where decoded photos are kept; all are decoded if they are not there.
    """
    paths = sorted(paths)
    load_samples(samples := cache_dir / "checked-samples.bin")
    remembered = cache_dir / f"checked-{(version := fingerprint(root, paths))}.json"
    save_samples(samples)

    def known() -> Findings | None:
        is_kept = resident is None or resident.find(f"{version} {shrink and shrink.side}")
        before = _remembered(remembered) if is_kept else None
        if before is None or not before.bad.keys() <= set(paths):  # written where names were decoded otherwise
            return None
        return before if examine(root, list(before.bad), shrink).bad == before.bad else None

    with ExitStack() as stack:
        if (found := known()) is None:
            # One of all ranks and runs that need the same photos decodes them; the others wait.
            stack.enter_context(locked(remembered.with_suffix(".lock"), f"{remembered}"))
            found = known()
        if found is None:
            shrink = shrink and planned(shrink, root, paths)
            try:
                with resident.keeping() if resident else nullcontext() as keep:
                    found = examine(root, paths, shrink, keep)
            except Failure as error:
                if resident is None or resident.required:
                    raise
                log.warning("%s Photos are decoded in every epoch.", error)
                found = examine(root, paths, shrink)
            for path, text in found.odd.items():
                log.warning("%s: %s (the photo is still used)", shown(root / path), text)
            with suppress(Failure):  # a read-only cache
                write_json(remembered, {"photos": len(paths), **asdict(found)})
        return found


def _remembered(file: Path) -> Findings | None:
    try:
        content = read_json(file)
        sizes = {str(path): (int(width), int(height)) for path, (width, height) in content["sizes"].items()}
        elongated, remarks = list(content["elongated"]), dict(content["remarks"])
        return Findings(dict(content["bad"]), dict(content["odd"]), sizes, elongated, remarks)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # absent, damaged, or of an older version
        return None


def write_bad_images(path: Path, bad: Mapping[str, str]) -> None:
    """Write a CSV file of the unreadable photos: `path,reason`. The photos are left untouched."""
    write_csv(path, ["path", "reason"], bad.items())


def bad_listed(root: Path, bad: Mapping[str, str]) -> str:
    """List unreadable photos for a message, one in a line, each with its reason."""
    return "\n".join(f"  {shown(root / path)}: {reason}" for path, reason in bad.items())


def usable_photos(
    splits: Sequence[Photos], cache_dir: Path, shrink: Shrink | None, dropped: Container[str], skip: bool,
    resident: Resident | None = None,
) -> tuple[list[Photos], Findings]:  # fmt: skip
    """Decode the photos of all splits, unless they were checked before, and leave out unreadable ones.

    Args:
        splits: photos of each split, all with the same root.
        cache_dir: folder for the cached result.
        shrink: how large photos are read.
        dropped: paths of photos that will not be used: unreadable ones among them are no error.
        skip: whether to leave out unreadable photos.
        resident: where decoded photos are kept, if they are.

    Returns:
        The readable photos of each split; and what was found, without unreadable photos that are dropped.

    Raises:
        UserError: if photos are unreadable, unless they are skipped.
    """
    root = splits[0].root
    paths = [path for photos in splits for path in photos.paths]
    found = check_images(root, paths, cache_dir, shrink, resident)
    for line in found.remarked(len(paths)):
        log.warning("%s", line)
    bad = {path: reason for path, reason in found.bad.items() if path not in dropped}
    if bad and not skip:
        raise UserError(
            f"{counted(len(bad), 'photo')} cannot be read. Remove or replace them{skip_advice(splits, bad)}:\n"
            f"{bad_listed(root, bad)}"
        )
    if shrink:
        shrink = completed(shrink, root, found.sizes)
    usable = [replace(leave_out(photos, found.bad), odd=found.odd, shrink=shrink) for photos in splits]
    return usable, replace(found, bad=bad)


def skip_advice(splits: Iterable[Photos], bad: Container[str]) -> str:
    """Say how to train without unreadable photos; empty if a class of a split would have none left."""
    enough = all({*leave_out(photos, bad).labels} == {*photos.labels} for photos in splits)
    return ", or leave them out with data.on_bad_image=skip" if enough else ""


def leave_out(photos: Photos, bad: Container[str]) -> Photos:
    """Remove the labelled photos whose paths are in `bad`."""
    return photos.select([row for row, path in enumerate(photos.paths) if path not in bad])


def check_classes(split: str, given: Photos, readable: Photos, classes: Sequence[str], bad: Mapping[str, str]) -> None:
    """Refuse a split whose photos, or those of a class of train or valid, are all unreadable.

    Raises:
        UserError: listing the unreadable photos.
    """
    gone = sorted({*given.labels} - {*readable.labels})  # a class of added photos has none to validate
    if gone and (split != "test" or not readable.paths):
        of_class = "" if split == "test" else f"of class {classes[gone[0]]!r} "
        raise UserError(
            f"data.root={given.root}: no photo {of_class}in {split} can be read. Replace some of these:\n"
            + bad_listed(given.root, bad)
        )
