"""Search labelled photos for suspects: wrong labels, duplicates, outliers, and bad quality."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from dogscats.base.files import write_csv
from dogscats.data.photos.layouts import Photos
from dogscats.reliability.neighbors import Neighbors, half_whitened, nearest, principal_components
from dogscats.suspects.appearance import Appearance, look_at, quality
from dogscats.suspects.duplicates import candidates_by_features, candidates_by_thumbnails, duplicates
from dogscats.suspects.labels import VOTERS, label_scores, left_out_probabilities


class Kind(NamedTuple):
    """A kind of suspects: its heading on pages, and what one is called."""

    heading: str
    noun: str


KINDS = {
    "label": Kind("Wrong labels", "wrong label"),
    "duplicate": Kind("Duplicates", "duplicate"),
    "leak": Kind("Leaks", "leak"),
    "outlier": Kind("Outliers", "outlier"),
    "quality": Kind("Bad quality", "low-quality photo"),
}
"""Kinds of suspects, in the order in which they are listed."""

LIKELY_SCORE = 0.5
"""Score from which a suspect is likely."""

MIN_LISTED = 200
"""Number of the worst suspects of each kind that are listed, however bad they are."""

MOST_COMPARED = 100_000
"""Number of photos up to which all thumbnails are compared with each other, which takes minutes then."""

OUTLIER_DEVIATIONS = 3.0
"""Deviations below the median similarity from which a photo is an outlier."""

OUTLIER_NEIGHBORS = 10
"""Number of nearest neighbors that an outlier is far from."""


class Suspect(NamedTuple):
    """A photo to be looked at.

    Attributes:
        path: path of the photo, relative to the dataset's root.
        label: class of the photo in the dataset.
        suggested: class that it may belong to; empty if there is none.
        kind: one of `KINDS`.
        score: from 0 to 1; higher is worse.
        twin: path of the photo that it is a duplicate of; empty if there is none.
        reason: why it is suspected, in a few words.
    """

    path: str
    label: str
    suggested: str
    kind: str
    score: float
    twin: str
    reason: str


class Labelled(NamedTuple):
    """Labelled photos of one or more splits, in one list.

    Attributes:
        root: folder that `paths` are relative to.
        paths: paths of the `N` photos.
        labels: class indices `(N,)`.
        splits: split of each photo.
        classes: class names.
    """

    root: Path
    paths: list[str]
    labels: torch.Tensor
    splits: list[str]
    classes: Sequence[str]

    def label(self, index: int) -> str:
        """Return the name of the class of a photo."""
        return self.classes[int(self.labels[index])]


def joined(photos: Mapping[str, Photos], classes: Sequence[str]) -> Labelled:
    """Join the photos of several splits of one dataset."""
    parts = list(photos.values())
    return Labelled(
        parts[0].root,
        [path for part in parts for path in part.paths],
        torch.tensor([label for part in parts for label in part.labels]),
        [split for split, part in photos.items() for _ in part.paths],
        classes,
    )


def by_kind(suspects: Iterable[Suspect]) -> dict[str, list[Suspect]]:
    """Group suspects by kind, in the order of `KINDS`; those of a kind keep their order.

    Raises:
        KeyError: for a kind that is not in `KINDS`.
    """
    groups: dict[str, list[Suspect]] = {kind: [] for kind in KINDS}
    for suspect in suspects:
        groups[suspect.kind].append(suspect)
    return groups


def write_suspects(file: Path, suspects: Iterable[Suspect]) -> None:
    """Write `suspects.csv`: the fields of `Suspect`, kind by kind.

    Args:
        file: CSV file to write.
        suspects: suspects, worst first within a kind.
    """
    rows = (suspect for group in by_kind(suspects).values() for suspect in group)
    write_csv(file, Suspect._fields, (suspect._replace(score=round(float(suspect.score), 6)) for suspect in rows))


def find_suspects(photos: Labelled, features: torch.Tensor, size: int) -> list[Suspect]:
    """Search photos for suspects of all kinds.

    Args:
        photos: the `N` photos.
        features: their features `(N, F)`.
        size: side of the square images that the network takes, in pixels.

    Returns:
        Suspects, worst first within each kind; at least `MIN_LISTED` of a kind, or all photos if there are fewer, apart
        from duplicates.
    """
    appearance = look_at(photos.root, photos.paths)
    points = principal_components(features)
    around = half_whitened(points)
    neighbors = nearest(around, max(VOTERS))
    return [
        *wrong_labels(photos, points, neighbors),
        *copies(photos, appearance, candidates_by_features(around)),
        *outliers(photos, neighbors),
        *bad_quality(photos, appearance, size),
    ]


def find_by_appearance(photos: Labelled, size: int) -> list[Suspect]:
    """Search photos for what needs no network: duplicates, leaks, and bad quality; see `find_suspects`."""
    appearance = look_at(photos.root, photos.paths)
    return [*copies(photos, appearance), *bad_quality(photos, appearance, size)]


def wrong_labels(photos: Labelled, points: torch.Tensor, neighbors: Neighbors) -> list[Suspect]:
    """List photos whose label is improbable; the only photo of a class cannot be judged."""
    probabilities = left_out_probabilities(points, photos.labels, len(photos.classes), neighbors)
    scores, suggested = label_scores(probabilities, photos.labels)
    counts = torch.bincount(photos.labels, minlength=len(photos.classes))
    scores = torch.where(counts[photos.labels] > 1, scores, 0.0)
    votes = photos.labels[neighbors.indices[:, :OUTLIER_NEIGHBORS]] == suggested[:, None]
    others = [photos.classes[number] for number in suggested.tolist()]

    def reason(index: int) -> str:
        return (
            f"probability of {photos.label(index)}: {1 - scores[index]:.2f}; "
            f"{int(votes[index].sum())} of {votes.shape[1]} nearest photos are {others[index]}"
        )

    return [suspect._replace(suggested=others[index]) for index, suspect in _worst(photos, "label", scores, reason)]


def copies(photos: Labelled, appearance: Appearance, candidates: torch.Tensor | None = None) -> list[Suspect]:
    """List pairs of photos of the same picture: the one to drop first, which is not the validation photo of a leak.

    Args:
        photos: the `N` photos.
        appearance: how they look.
        candidates: pairs `(P, 2)` to compare besides those whose thumbnails are alike.
    """
    if len(photos.paths) < 2:
        return []
    none = torch.empty(0, 2, dtype=torch.long)
    alike = candidates_by_thumbnails(appearance.thumbnails) if len(photos.paths) <= MOST_COMPARED else none
    pairs = duplicates(appearance.thumbnails, torch.cat([none if candidates is None else candidates, alike]))
    suspects = []
    for first, second, score in pairs:
        leak = photos.splits[first] != photos.splits[second]
        # Of a leak the training photo goes, to leave validation unchanged; else the smaller photo.
        keeps_second = photos.splits[second] != "train" if leak else appearance.sides[first] < appearance.sides[second]
        index, twin = (first, second) if keeps_second else (second, first)
        reason = f"the same picture as a photo in {photos.splits[twin]}" if leak else "the same picture twice"
        if photos.label(index) != photos.label(twin):
            reason += f", which is {photos.label(twin)} there"
        kind, path = "leak" if leak else "duplicate", photos.paths[index]
        suspects.append(Suspect(path, photos.label(index), "", kind, score, photos.paths[twin], reason))
    return suspects


def outliers(photos: Labelled, neighbors: Neighbors) -> list[Suspect]:
    """List photos that are far from all others: by the mean cosine similarity to the nearest ones.

    The score is above .5 if it is more than `OUTLIER_DEVIATIONS` deviations below the median.
    """
    similarities = neighbors.similarities[:, :OUTLIER_NEIGHBORS].mean(dim=1)
    below = similarities.median() - similarities
    deviation = 1.4826 * below.abs().median()  # of a normal distribution, by its median absolute deviation
    far = (below / deviation.clamp_min(1e-6)).clamp_min(0) / OUTLIER_DEVIATIONS
    scores = far**2 / (1 + far**2)

    def reason(index: int) -> str:
        mean = f"mean cosine similarity {similarities[index]:.2f} to its {OUTLIER_NEIGHBORS} nearest photos"
        return f"unlike all others: {mean}"

    return [suspect for _, suspect in _worst(photos, "outlier", scores, reason)]


def bad_quality(photos: Labelled, appearance: Appearance, size: int) -> list[Suspect]:
    """List photos that show little."""
    return [suspect for _, suspect in _worst(photos, "quality", *quality(appearance, size))]


def _worst(
    photos: Labelled, kind: str, scores: torch.Tensor, reason: Callable[[int], str]
) -> Iterator[tuple[int, Suspect]]:
    """Yield the indices of the photos with the largest scores `(N,)`, and what is said about them."""
    order = scores.argsort(descending=True, stable=True).tolist()
    for index in order[: max(MIN_LISTED, int((scores > LIKELY_SCORE).sum()))]:
        score = float(scores[index])
        yield index, Suspect(photos.paths[index], photos.label(index), "", kind, score, "", reason(index))
