"""Training photos that are left out together: those of a group (`data.group`), and near-duplicates.

Near-duplicates are compared by thumbnails, which are taken from the photos as they pass the network, where they are
decoded anyway. The pairs are cached beside the activations.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
import torch.nn.functional as nnf
from lightning_fabric import Fabric

from dogscats.base.console import progress_bar
from dogscats.base.errors import Failure
from dogscats.base.files import read_json, write_json
from dogscats.base.text import listed
from dogscats.data.loading.dataset import Batch, PhotoDataset
from dogscats.data.photos.decisions import before_decisions
from dogscats.data.photos.layouts import Photos
from dogscats.data.photos.split import group_of, group_pattern
from dogscats.lesson.activations import Activations
from dogscats.suspects.appearance import LUMA, THUMBNAIL
from dogscats.suspects.duplicates import candidates_by_thumbnails, duplicates

log = logging.getLogger(__name__)

MIN_CORRELATION = 0.95
"""Least correlation of the details of near-duplicates."""

MOST_COMPARED = 20_000
"""Number of photos up to which all are compared with each other, which takes half a minute then."""

MAX_SHARE = 0.1
"""Largest share of a class that near-duplicates may have to be left out together: without more, the class would change.
A pair always is."""


def features_and_groups(
    activations: Activations, group: str | None, watch: Callable[[], None] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the features `(N, F)` of the training photos, and the number of each photo's group `(N,)`.

    All ranks call this, and get the same.

    Args:
        activations: activations of the run.
        group: the setting `data.group`.
        watch: called before each batch.
    """
    train, classes = activations.data.train, activations.data.classes
    photos, rows = before_decisions(train)
    seen = Thumbnails(activations, photos, watch)
    features = activations.features(train, "activations of train", watch=seen.look if seen.wanted or watch else None)
    pairs = seen.near_duplicates()
    if pairs is None:
        log.info("Near-duplicates are not looked for among more than %d photos", MOST_COMPARED)
    chosen = range(len(photos.paths)) if rows is None else rows
    place = {row: number for number, row in enumerate(chosen)}
    alike = [(place[a], place[b]) for a, b in pairs or () if a in place and b in place]
    return features, torch.tensor(left_out_together(train, classes, _named(train, group), alike))


def groups_of(activations: Activations, photos: Photos, group: str | None) -> torch.Tensor:
    """Number the groups of photos `(N,)`, of near-duplicates and of the setting `data.group`; all ranks together."""
    first: dict[str, int] = {}
    named = [(first.setdefault(name, row), row) for row, name in enumerate(_named(photos, group)) if name is not None]
    pairs = Thumbnails(activations, photos).near_duplicates() or ()
    return torch.tensor(joined_by(len(photos.paths), [*named, *((a, b) for a, b in pairs)]))


def _named(photos: Photos, group: str | None) -> list[str | None]:
    """Return the user's group of each photo; `None` for one on its own."""
    pattern = group_pattern(group)
    return [group_of(pattern, path) if pattern else None for path in photos.paths]


class Thumbnails:
    """Thumbnails of photos, taken as they pass the network or else from the files; their pairs are cached.

    Args:
        activations: activations of the run.
        photos: the `N` photos.
        watch: called before each batch.

    Attributes:
        wanted: whether thumbnails are needed: the pairs are not cached, and the photos are not too many.
    """

    def __init__(self, activations: Activations, photos: Photos, watch: Callable[[], None] | None = None):
        self._data, self._fabric, self._photos, self._watch = activations.data, activations.fabric, photos, watch
        self._file = activations.file("duplicates", photos)
        self._pairs: list[list[int]] | None = self._fabric.broadcast(_read(self._file))
        self.wanted = self._pairs is None and len(photos.paths) <= MOST_COMPARED
        self._thumbnails = torch.zeros(len(photos.paths) if self.wanted else 0, THUMBNAIL, THUMBNAIL)

    def look(self, batch: Batch) -> None:
        """Take the thumbnails of a batch, if they are needed."""
        if self._watch:
            self._watch()
        if not self.wanted:
            return
        gray = (batch.inputs.cpu() * LUMA).sum(dim=1, keepdim=True)
        small = nnf.interpolate(gray, (THUMBNAIL, THUMBNAIL), mode="bilinear", antialias=True)
        self._thumbnails[batch.indices] = small[:, 0]

    def near_duplicates(self) -> list[list[int]] | None:
        """Find pairs of near-duplicates; all ranks together. `None` among too many photos."""
        if self.wanted:
            seen = _summed(self._fabric, self._thumbnails.flatten(1).any(dim=1).float())
            if len(unseen := (seen == 0).nonzero().flatten()):  # their activations were cached
                dataset = PhotoDataset(self._photos.select(unseen.tolist()), self._data.evaluation, self._data.seed)
                loader = self._data.loader(dataset, persistent=False, whole=True)
                for batch in progress_bar(loader, "Looking at photos", len(loader), "batch"):
                    self.look(batch._replace(indices=unseen[batch.indices]))
            thumbnails = _summed(self._fabric, self._thumbnails)
            self._pairs = self._fabric.broadcast(
                _compare(thumbnails, self._file) if self._fabric.is_global_zero else None
            )
        return self._pairs


def _summed(fabric: Fabric, share: torch.Tensor) -> torch.Tensor:
    """Add up the shares of all ranks, on the CPU."""
    total = fabric.all_reduce(share.to(fabric.device), reduce_op="sum")
    assert isinstance(total, torch.Tensor)
    return total.cpu()


def _compare(thumbnails: torch.Tensor, file: Path) -> list[list[int]]:
    """Find pairs of near-duplicates, and cache them."""
    started = time.perf_counter()
    found = duplicates(thumbnails, candidates_by_thumbnails(thumbnails))
    pairs = sorted([first, second] for first, second, correlation in found if correlation > MIN_CORRELATION)
    log.info("Near-duplicates: %d pairs, found in %.1f s", len(pairs), time.perf_counter() - started)
    with suppress(Failure):  # a read-only cache
        write_json(file, pairs)
    return pairs


def _read(file: Path) -> list[list[int]] | None:
    try:
        return [[int(first), int(second)] for first, second in read_json(file)]
    except (OSError, ValueError, TypeError):  # absent or damaged
        return None


def left_out_together(
    photos: Photos, classes: Sequence[str], named: Sequence[str | None], alike: Iterable[tuple[int, int]]
) -> list[int]:
    """Number the groups of photos, and say which near-duplicates are too many to be left out together.

    Args:
        photos: the `N` photos.
        classes: class names.
        named: the user's group of each photo; `None` for one on its own.
        alike: pairs of near-duplicates.
    """
    of_class, together = Counter(photos.labels), list[tuple[int, int]]()
    for members in _members(joined_by(len(named), alike)):
        counts = Counter(photos.labels[member] for member in members)
        too_many = [label for label, count in counts.items() if count > max(2, MAX_SHARE * of_class[label])]
        if too_many:
            log.warning(
                "%d near-duplicates are over a tenth of class %s, and are not left out together: %s",
                *(len(members), classes[too_many[0]], listed([photos.paths[member] for member in members], 3)),
            )
        else:
            together += [(members[0], member) for member in members]
    first: dict[str, int] = {}
    together += [(first.setdefault(name, number), number) for number, name in enumerate(named) if name is not None]
    return joined_by(len(named), together)


def joined_by(count: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """Return the lowest number that each of `count` numbers is joined with by pairs."""
    lower = list(range(count))

    def lowest(number: int) -> int:
        while lower[number] != number:
            lower[number] = number = lower[lower[number]]
        return number

    for pair in pairs:
        first, second = sorted(map(lowest, pair))
        lower[second] = first
    return [lowest(number) for number in range(count)]


def _members(groups: Sequence[int]) -> list[list[int]]:
    """List the numbers in each group."""
    members: dict[int, list[int]] = {}
    for number, group in enumerate(groups):
        members.setdefault(group, []).append(number)
    return list(members.values())
