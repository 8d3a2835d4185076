"""Selective classification: a photo is classified only if it is probable enough and like the training photos.

Geifman and El-Yaniv, "Selective Classification for Deep Neural Networks", https://arxiv.org/abs/1705.08500. Photos
whose class is improbable are "unsure"; those unlike the training photos are "none".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from dogscats.lesson.metrics import wilson_interval

KEEP = 0.95
"""Share of the photos that are classified."""

UNSURE_PER_NONE = 0.25
"""Photos that may become `unsure` for each that may become `none`."""

MAX_MARGIN = 1e-3
"""Largest distance of a threshold from the nearest kept photo."""


@dataclass(frozen=True)
class Thresholds:
    """When a photo is not classified.

    Attributes:
        unsure_below: lowest probability of the most probable class; 0 if none is too low.
        none_above: highest value of `unlike`; 1 if none is too high.
    """

    unsure_below: float
    none_above: float

    def decide(self, classes: Sequence[str], probabilities: torch.Tensor, unlike: torch.Tensor) -> list[str]:
        """Name the class of each photo, or why it gets none; see `words`.

        Args:
            classes: names of the `C` classes.
            probabilities: class probabilities `(N, C)`.
            unlike: how unlike the training photos each photo is `(N,)`.
        """
        unsure, none = words(classes)
        probable, predicted = probabilities.double().max(dim=1)
        decisions = []
        for index, likely, far in zip(predicted.tolist(), probable.tolist(), unlike.double().tolist(), strict=True):
            kept = none if far > self.none_above else unsure if likely < self.unsure_below else classes[index]
            decisions.append(kept)
        return decisions


def words(classes: Sequence[str]) -> tuple[str, str]:
    """Return the words for photos without a class: `unsure` and `none`, in parentheses if a class is called so."""
    unsure, none = "unsure", "none"
    while unsure in classes:
        unsure = f"({unsure})"
    while none in classes:
        none = f"({none})"
    return unsure, none


class Judged(NamedTuple):
    """How photos were predicted by a network that was not trained on them.

    Attributes:
        kind: what these photos are called: `validation`, or `left-out training`.
        probable: calibrated probability of the most probable class `(N,)`.
        unlike: how unlike the training photos each photo is `(N,)`.
        right: whether the most probable class is correct `(N,)`.
    """

    kind: str
    probable: torch.Tensor
    unlike: torch.Tensor
    right: torch.Tensor


Basis = tuple[Judged | None, Judged | None]
"""The photos that each threshold is chosen by: those for `unsure_below` and for `none_above`; `None` for too few."""


def are_enough(count: int, share: float) -> bool:
    """Return whether photos are enough for a threshold beyond which a share of new ones lies.

    The lowest of `n` values is above `1 / (n + 1)` of new values, in the mean: Vovk, Gammerman and Shafer, "Algorithmic
    Learning in a Random World", 2005, section 2.2.
    """
    return (count + 1) * share > 1 - 1e-9


def lost(keep: float = KEEP) -> tuple[float, float]:
    """Return the shares of new photos that become `unsure`, and `none`: 0.01 and 0.04 with the default."""
    none = (1 - keep) / (1 + UNSURE_PER_NONE)
    return UNSURE_PER_NONE * none, none


def basis(photos: Sequence[Judged], keep: float = KEEP) -> Basis:
    """Choose the photos for `unsure_below`, and those for `none_above`: of several kinds, the first that are enough."""
    unsure, none = (next((kind for kind in photos if are_enough(len(kind.right), share)), None) for share in lost(keep))
    return unsure, none


def best_thresholds(photos: Sequence[Judged], keep: float = KEEP) -> Thresholds:
    """Choose thresholds that classify a share `keep` of new photos, as far as there are enough photos to choose by.

    Args:
        photos: photos to choose by; of several kinds, the first that are enough for a threshold.
        keep: share of new photos.
    """
    unsure, none = basis(photos, keep)
    if unsure is not None and unsure is none:
        return choose_thresholds(unsure.probable, unsure.unlike, keep)
    beyond = lost(keep)
    return Thresholds(
        0.0 if unsure is None else _quantile(unsure.probable, beyond[0]),
        1.0 if none is None else -_quantile(-none.unlike, beyond[1]),
    )


def expected_share(thresholds: Thresholds, chosen_by: Basis) -> tuple[float, float, float]:
    """Estimate the share of new photos of the same kind that are classified.

    Returns:
        The share, and the limits of its 95 % interval; all 1 without thresholds.
    """
    unsure, none = chosen_by
    kept = []
    if unsure is not None:
        kept.append(unsure.probable >= thresholds.unsure_below)
    if none is not None:
        kept.append(none.unlike <= thresholds.none_above)
    if unsure is none is not None:
        kept = [kept[0] & kept[1]]
    counts = [(int(values.sum()), len(values)) for values in kept]
    lows, highs = zip((1.0, 1.0), *(wilson_interval(*count) for count in counts), strict=True)
    share = 1 - sum(1 - right / (n + 1) for right, n in counts)
    return share, max(0.0, 1 - sum(1 - low for low in lows)), min(highs)


def standing(probable: torch.Tensor, unlike: torch.Tensor) -> torch.Tensor:
    """Rank photos by the worse of two ranks: that of their probability, and that of being like the training photos.

    Args:
        probable: probability of the most probable class `(N,)`.
        unlike: how unlike the training photos each photo is `(N,)`.

    Returns:
        Rank of each photo `(N,)`, from 0 for the worst; they are not whole numbers.
    """
    by_probability, by_likeness = (values.argsort(stable=True).argsort().double() for values in (probable, -unlike))
    return torch.minimum(by_probability / UNSURE_PER_NONE, by_likeness)


def choose_thresholds(probable: torch.Tensor, unlike: torch.Tensor, keep: float = KEEP) -> Thresholds:
    """Choose thresholds that classify at least a share `keep` of the photos; arguments as for `standing`."""
    rank = standing(probable, unlike)
    kept = rank >= rank.sort(descending=True).values[math.ceil(keep * len(rank) - 1e-9) - 1]
    return Thresholds(_just_below(probable, kept), -_just_below(-unlike, kept))


def _quantile(values: torch.Tensor, share: float) -> float:
    """Return a threshold that at most a share of new values is below."""
    lowest = values.sort().values[math.floor((len(values) + 1) * share + 1e-9) - 1]
    return _just_below(values, values >= lowest)


def _just_below(values: torch.Tensor, kept: torch.Tensor) -> float:
    """Return a threshold below the kept values, and not at the lowest: rounding must not change what is decided."""
    lowest = values[kept].double().min()
    others = values[values < lowest].double()
    gap = (lowest - others.max()).item() if len(others) else MAX_MARGIN
    return lowest.item() - min(gap / 2, MAX_MARGIN)


def accuracy_kept(
    probable: torch.Tensor, unlike: torch.Tensor, right: torch.Tensor, points: int = 100
) -> list[tuple[float, float]]:
    """Compute the accuracy of the photos that are classified against their share, from few to all.

    Args:
        probable: probability of the most probable class `(N,)`.
        unlike: how unlike the training photos each photo is `(N,)`.
        right: whether the most probable class is correct `(N,)`.
        points: largest number of points.
    """
    order = standing(probable, unlike).argsort(descending=True, stable=True)
    count = len(order)
    accuracy = right[order].double().cumsum(dim=0) / torch.arange(1, count + 1)
    kept = torch.linspace(1, count, min(points, count), dtype=torch.double).round().long()
    return [(number / count, accuracy[number - 1].item()) for number in kept.tolist()]
