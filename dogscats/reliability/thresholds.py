"""Selective classification: a photo is classified only if it is probable enough and like the training photos.

Geifman and El-Yaniv, "Selective Classification for Deep Neural Networks", https://arxiv.org/abs/1705.08500. Photos
whose class is improbable are "unsure"; those unlike the training photos are "none".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

KEEP = 0.95
"""Share of the validation photos that are classified."""


@dataclass(frozen=True)
class Thresholds:
    """When a photo is not classified.

    Attributes:
        unsure_below: lowest probability of the most probable class.
        none_above: highest value of `unlike`.
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


MAX_MARGIN = 1e-3
"""Largest distance of a threshold from the nearest kept photo."""

UNSURE_PER_NONE = 0.25
"""Validation photos that may become `unsure` for each that may become `none`."""


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
