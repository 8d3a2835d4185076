"""Signs that a photo is a stranger: numbers that are larger for photos unlike the training photos.

A sign learns from the training photos, and then scores other photos in the pass that predicts them. To add one, write a
subclass of `Sign` and list it in `dogscats.reliability.strangers.SIGNS`. `benchmarks/strangers.py` measures them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, NamedTuple, Self

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
        depths: those of earlier depths of a trained body `(M, E)`; `None` for a frozen one.
        parts: number of the part of each, which is held out with it `(M,)`.
        kinds: number of the kind of each `(M,)`.
    """

    features: torch.Tensor
    depths: torch.Tensor | None
    parts: torch.Tensor
    kinds: torch.Tensor


class TrainingPhotos(NamedTuple):
    """What signs learn from.

    Attributes:
        features: features `(N, F)`; may be memory-mapped, as only some are in memory at once.
        depths: those of earlier depths of a trained body `(N, E)`; `None` for a frozen one.
        labels: class index of each photo.
        num_classes: number of classes.
        widths: function that counts the features of each depth of the network: of `features`, then of `depths`.
        strangers: photos of no class; `None` without any.
    """

    features: torch.Tensor
    depths: torch.Tensor | None
    labels: Sequence[int]
    num_classes: int
    widths: Callable[[], Sequence[int]]
    strangers: GivenStrangers | None = None


class ForwardPass(NamedTuple):
    """What the network computes for photos in the pass that predicts them.

    Attributes:
        features: features `(B, F)`.
        logits: logits of each head `(heads, B, C)`.
        depths: those of earlier depths `(B, E)`, if a sign needs them.
    """

    features: torch.Tensor
    logits: torch.Tensor
    depths: torch.Tensor | None = None


def of_all_depths(computed: TrainingPhotos | GivenStrangers | ForwardPass) -> torch.Tensor:
    """Return the features; if the body was trained, divided by their norm and followed by those of earlier depths."""
    if computed.depths is None:
        return computed.features
    return torch.cat([nnf.normalize(computed.features.float(), dim=1), computed.depths], dim=1)


class Sign(nn.Module):
    """One sign of a stranger.

    Args:
        arrays: what it learned, by the names in `names`.

    Attributes:
        ordinary: quantile of the validation photos up to which a value is ordinary.
        names: names of its arrays.
        large: those that are saved in half precision.
        prefix: prefix of the names in `strangers.npz`.
    """

    ordinary: float
    names: ClassVar[tuple[str, ...]] = ()
    large: ClassVar[tuple[str, ...]] = ()
    prefix: ClassVar[str] = ""

    def __init__(self, **arrays: torch.Tensor):
        super().__init__()
        for name in self.names:  # not persistent: checkpoints stay as they are
            values = arrays[name]
            self.register_buffer(name, values.float() if values.is_floating_point() else values, persistent=False)

    @classmethod
    def fit(cls, photos: TrainingPhotos) -> Self | None:
        """Learn from training photos; `None` if this sign does not apply to the network or its classes."""
        raise NotImplementedError

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

    After all layers were trained, the last features have forgotten what the classes do not need. Earlier depths, each
    with the same weight, are then part of the distance: a stranger that is a little unusual at each of them stands out.

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
        features = of_all_depths(photos)
        some = nnf.normalize(features[evenly_spaced(len(features), MAX_PHOTOS_FITTED)].float(), dim=1)
        mean, deviation = some.mean(dim=0), some.std(dim=0, correction=0)
        deviation[deviation < 1e-8] = torch.inf
        if photos.depths is not None:
            sizes = torch.tensor(photos.widths(), dtype=torch.float)
            deviation *= (sizes * len(sizes) / len(mean)).sqrt().repeat_interleave(sizes.long())
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
        components, rest = self.components(of_all_depths(computed))
        squares = components.square().sum(dim=1, keepdim=True) + self.lengths
        distances = squares - 2 * components @ self.points.T + rest
        nearest = distances.topk(min(NEIGHBORS, len(self.points)), dim=1, largest=False).values
        return nearest.clamp_min(0).sqrt().mean(dim=1)


class Energy(Sign):
    """Small logits: Liu et al., "Energy-based Out-of-distribution Detection", https://arxiv.org/abs/2010.03759.

    It learns nothing; its array only says that a run has it.
    """

    ordinary = 0.95
    names = ("energy",)

    @classmethod
    def fit(cls, photos: TrainingPhotos) -> Self | None:
        """Return the sign; `None` for a trained body, whose logits are large for anything."""
        return cls(energy=torch.ones(1)) if photos.depths is None else None

    def score(self, computed: ForwardPass) -> torch.Tensor:
        """Compute the negative log of the summed exponentials of the logits `(B,)`, averaged over the heads."""
        return -computed.logits.float().logsumexp(dim=2).mean(dim=0)


def evenly_spaced(count: int, most: int) -> torch.Tensor:
    """Return the indices of at most `most` of `count` items, evenly spaced, so that all classes appear."""
    return torch.linspace(0, count - 1, min(count, most), dtype=torch.double).round().long()
