"""Signs that a photo is a stranger: numbers that are larger for photos unlike the training photos.

A sign learns from the training photos, and then scores other photos in the pass that predicts them. To add one, write a
subclass of `Sign` and list it in `dogscats.reliability.strangers.SIGNS`. `benchmarks/strangers.py` measures them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple, Self

import torch
import torch.nn.functional as nnf
from torch import nn

from dogscats.reliability.neighbors import ROWS

MAX_PHOTOS_KEPT = 20_000
"""Largest number of training photos that are kept, evenly spaced: enough for 10 MB."""

MAX_PHOTOS_FITTED = 5_000
"""Number of photos for the principal components and the regressions."""

MAX_COMPONENTS = 128
"""Largest number of principal components."""

NEIGHBORS = 10
"""Number of nearest training photos."""


class GivenStrangers(NamedTuple):
    """Strangers that were given with the training photos.

    Attributes:
        features: features `(M, F)`.
        early: early features `(M, E)` of a trained body; `None` for a frozen one.
        parts: number of the part of each, which is held out with it `(M,)`.
        kinds: number of the kind of each `(M,)`.
    """

    features: torch.Tensor
    early: torch.Tensor | None
    parts: torch.Tensor
    kinds: torch.Tensor


class TrainingPhotos(NamedTuple):
    """What signs learn from.

    Attributes:
        features: features `(N, F)`; may be memory-mapped, as only some are in memory at once.
        early: early features `(N, E)` of a trained body; `None` for a frozen one.
        labels: class index of each photo.
        num_classes: number of classes.
        widths: function that counts the features of each depth of the network.
        strangers: photos of no class; `None` without any.
    """

    features: torch.Tensor
    early: torch.Tensor | None
    labels: Sequence[int]
    num_classes: int
    widths: Callable[[], Sequence[int]]
    strangers: GivenStrangers | None = None


class ForwardPass(NamedTuple):
    """What the network computes for photos in the pass that predicts them.

    Attributes:
        features: features `(B, F)`.
        logits: logits of each head `(heads, B, C)`.
        early: early features `(B, E)`, if a sign needs them.
    """

    features: torch.Tensor
    logits: torch.Tensor
    early: torch.Tensor | None = None


class Sign(nn.Module):
    """One sign of a stranger.

    Args:
        arrays: what it learned, by the names in `names`.

    Attributes:
        ordinary: quantile of the validation photos up to which a value is ordinary.
        names: names of its arrays.
        large: those that are saved in half precision.
        prefix: prefix of the names in `strangers.npz`.
        space: the features that it is computed from: `features`, or `early`.
    """

    ordinary: ClassVar[float]
    names: ClassVar[tuple[str, ...]] = ()
    large: ClassVar[tuple[str, ...]] = ()
    prefix: ClassVar[str] = ""
    space: ClassVar[Literal["features", "early"]] = "features"

    def __init__(self, **arrays: torch.Tensor):
        super().__init__()
        for name in self.names:  # not persistent: checkpoints stay as they are
            values = arrays[name]
            self.register_buffer(name, values.float() if values.is_floating_point() else values, persistent=False)

    @classmethod
    def fit(cls, photos: TrainingPhotos) -> Self | None:
        """Learn from training photos; `None` if this sign does not apply to the network or its classes."""
        return cls()  # of a sign that has nothing to learn

    def score(self, computed: ForwardPass) -> torch.Tensor:
        """Compute the sign of each photo `(B,)`; larger for strangers."""
        raise NotImplementedError

    def arrays(self) -> dict[str, torch.Tensor]:
        """Return the arrays by their names in `strangers.npz`, in the precision in which they are saved."""
        arrays = {name: getattr(self, name) for name in self.names}
        return {f"{self.prefix}{name}": a.half() if name in self.large else a for name, a in arrays.items()}

    @classmethod
    def restore(cls, arrays: Mapping[str, torch.Tensor]) -> Self | None:
        """Restore the sign from all arrays of `strangers.npz`; `None` if its own are not among them."""
        if any(f"{cls.prefix}{name}" not in arrays for name in cls.names):
            return None
        return cls(**{name: arrays[f"{cls.prefix}{name}"] for name in cls.names})


class Distance(Sign):
    """Distance to the nearest training photos: photos of another kind are far from them.

    Sun et al., "Out-of-Distribution Detection with Deep Nearest Neighbors", https://arxiv.org/abs/2204.06507. Features
    are divided by their norm and standardized, since those of several depths differ in scale. Points are their
    principal components, divided by the square root of their deviation, so that the largest do not outweigh all. What
    the components leave out of a new photo is part of its distance, too.

    Args:
        mean: mean of each feature `(F,)`.
        deviation: standard deviation of each feature `(F,)`, infinite for one that does not vary.
        directions: principal directions `(F, D)`.
        scales: what each component is divided by, and then the length of the rest `(D + 1,)`.
        points: principal components of the training photos `(N, D)`.
    """

    ordinary = 0.98  # higher than for other signs: photos of another kind lie far beyond all validation photos
    names = ("mean", "deviation", "directions", "scales", "points")
    large = ("directions", "points")
    mean: torch.Tensor
    deviation: torch.Tensor
    directions: torch.Tensor
    scales: torch.Tensor
    points: torch.Tensor
    lengths: torch.Tensor

    def __init__(self, **arrays: torch.Tensor):
        super().__init__(**arrays)
        self.register_buffer("lengths", self.points.square().sum(dim=1), persistent=False)

    @classmethod
    def fit(cls, photos: TrainingPhotos) -> Self | None:
        """Keep training photos; of more than `MAX_PHOTOS_KEPT`, evenly spaced ones."""
        features: torch.Tensor | None = getattr(photos, cls.space)
        if features is None:
            return None
        some = nnf.normalize(features[evenly_spaced(len(features), MAX_PHOTOS_FITTED)].float(), dim=1)
        mean, deviation = some.mean(dim=0), some.std(dim=0, correction=0)
        deviation[deviation < 1e-8] = torch.inf
        standardized = (some - mean) / deviation
        count = min(MAX_COMPONENTS, max(len(some) - 1, 1), some.shape[1])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            directions = torch.svd_lowrank(standardized, count, niter=2)[2].half()
        variances = (standardized @ directions.float()).square().mean(dim=0)
        rest = (standardized.square().sum() / len(some) - variances.sum()) / max(some.shape[1] - count, 1)
        if rest < 1e-6:  # so few photos that their components leave nothing out
            rest = variances.mean()
        scales = torch.cat([variances, rest[None]]).clamp_min(1e-6) ** 0.25
        arrays = {"mean": mean, "deviation": deviation, "directions": directions, "scales": scales}
        space = cls(**arrays, points=torch.empty(0, count))
        kept = evenly_spaced(len(features), MAX_PHOTOS_KEPT)
        points = torch.cat([space.components(features[rows])[0] for rows in torch.split(kept, ROWS)])
        return cls(**arrays, points=points.half())  # as it is read from the file

    def components(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute scaled components `(B, D)` of features `(B, F)`, and the scaled square of the rest `(B, 1)`."""
        standardized = (nnf.normalize(features.float(), dim=1) - self.mean) / self.deviation
        components = standardized @ self.directions
        length, explained = (values.square().sum(dim=1, keepdim=True) for values in (standardized, components))
        rest = (length - explained).clamp_min(0) / self.scales[-1].square()
        return components / self.scales[:-1], rest

    def score(self, computed: ForwardPass) -> torch.Tensor:
        """Compute the mean distance `(B,)` to the nearest training photos."""
        components, rest = self.components(getattr(computed, self.space))
        squares = components.square().sum(dim=1, keepdim=True) + self.lengths
        distances = squares - 2 * components @ self.points.T + rest
        nearest = distances.topk(min(NEIGHBORS, len(self.points)), dim=1, largest=False).values
        return nearest.clamp_min(0).sqrt().mean(dim=1)


class EarlyDistance(Distance):
    """Distance to the nearest training photos in the space of the early features of a trained body.

    After all layers were trained, the depths agree on anything. The early features change least.
    """

    prefix = "early_"
    space = "early"


class Energy(Sign):
    """Small logits: Liu et al., "Energy-based Out-of-distribution Detection", https://arxiv.org/abs/2010.03759."""

    ordinary = 0.95

    def score(self, computed: ForwardPass) -> torch.Tensor:
        """Compute the negative log of the summed exponentials of the logits `(B,)`, averaged over the heads."""
        return -computed.logits.float().logsumexp(dim=2).mean(dim=0)


def evenly_spaced(count: int, most: int) -> torch.Tensor:
    """Return the indices of at most `most` of `count` items, evenly spaced, so that all classes appear."""
    return torch.linspace(0, count - 1, min(count, most), dtype=torch.double).round().long()
