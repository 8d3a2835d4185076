"""How unlike the training photos a photo is.

Two signs of a stranger are combined. Photos of another kind are far from their nearest training photos (Sun et al.,
"Out-of-Distribution Detection with Deep Nearest Neighbors", https://arxiv.org/abs/2204.06507), and about photos of an
unknown class that resembles the known ones, the depths of the network do not agree as usual
(`dogscats.reliability.agreement`). After all layers were trained, the depths agree on anything; then the distance of
the early features, which change least, is the second sign. `benchmarks/strangers.py` measures them.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as nnf
from torch import nn

from dogscats.lesson.backbone import Backbone, PrecomputedBody
from dogscats.reliability.agreement import Agreement

MOST_KEPT = 20_000
"""Largest number of training photos that are kept, evenly spaced: enough for 10 MB."""

MOST_FITTED = 5_000
"""Number of photos for the principal components and the agreement."""

DIMENSIONS = 128
"""Largest number of principal components."""

NEIGHBORS = 10
"""Number of nearest training photos."""

ORDINARY_DISTANCE, ORDINARY_DISAGREEMENT = 0.98, 0.95
"""Quantiles of the validation photos up to which a value is ordinary.

The distance of photos of another kind is so large that it needs less room than the disagreement.
"""

ROWS = 4096
"""Rows of features that are in memory at once."""


class Likeness(nn.Module):
    """Training photos in feature space, and how unlike them others are.

    Features are divided by their norm and standardized, since those of several depths differ in scale. Points are their
    principal components, divided by the square root of their deviation, so that the largest do not outweigh all. What
    the components leave out of a new photo is part of its distance, too.

    Args:
        mean: mean of each feature `(F,)`.
        deviation: standard deviation of each feature `(F,)`, infinite for one that does not vary.
        directions: principal directions `(F, D)`.
        scales: what each component is divided by, and then the length of the rest `(D + 1,)`.
        points: principal components of the training photos `(N, D)`.
        paths: path of each of these photos, below the root of the data.
        agreement: agreement of the depths; `None` for very many classes, of which the energy stands for it (Liu et al.,
            "Energy-based Out-of-distribution Detection", https://arxiv.org/abs/2010.03759).
        early: training photos in the space of the early features of a trained body; `None` for a frozen one.
        median: median of both signs for the validation photos `(2,)`; see `calibrate`.
        spread: from there to the largest ordinary one `(2,)`.
    """

    mean: torch.Tensor
    deviation: torch.Tensor
    directions: torch.Tensor
    scales: torch.Tensor
    points: torch.Tensor
    lengths: torch.Tensor
    median: torch.Tensor
    spread: torch.Tensor

    def __init__(
        self,
        mean: torch.Tensor,
        deviation: torch.Tensor,
        directions: torch.Tensor,
        scales: torch.Tensor,
        points: torch.Tensor,
        paths: Sequence[str],
        agreement: Agreement | None = None,
        early: "Likeness | None" = None,
        median: torch.Tensor | None = None,
        spread: torch.Tensor | None = None,
    ):
        super().__init__()
        self.paths, self.agreement, self.early = list(paths), agreement, early
        arrays = {"mean": mean, "deviation": deviation, "directions": directions, "scales": scales, "points": points}
        arrays |= {"median": torch.zeros(2) if median is None else median}
        arrays |= {"spread": torch.ones(2) if spread is None else spread}
        arrays |= {"lengths": points.float().square().sum(dim=1)}
        for name, values in arrays.items():  # not persistent: checkpoints stay as they are
            self.register_buffer(name, values.float(), persistent=False)

    @classmethod
    def of(
        cls,
        features: torch.Tensor,
        paths: Sequence[str],
        agreement: Agreement | None = None,
        early: torch.Tensor | None = None,
    ) -> "Likeness":
        """Keep training photos; of more than `MOST_KEPT`, evenly spaced ones.

        Args:
            features: features `(N, F)`; may be memory-mapped, as only some are in memory at once.
            paths: path of each photo.
            agreement: agreement of the depths, if any.
            early: early features `(N, E)` of a trained body.
        """
        some = nnf.normalize(features[evenly_spaced(len(features), MOST_FITTED)].float(), dim=1)
        mean, deviation = some.mean(dim=0), some.std(dim=0, correction=0)
        deviation[deviation < 1e-8] = torch.inf
        standardized = (some - mean) / deviation
        count = min(DIMENSIONS, max(len(some) - 1, 1), some.shape[1])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            directions = torch.svd_lowrank(standardized, count, niter=2)[2].half()
        variances = (standardized @ directions.float()).square().mean(dim=0)
        rest = (standardized.square().sum() / len(some) - variances.sum()) / max(some.shape[1] - count, 1)
        if rest < 1e-6:  # so few photos that their components leave nothing out
            rest = variances.mean()
        scales = torch.cat([variances, rest[None]]).clamp_min(1e-6) ** 0.25
        kept = evenly_spaced(len(features), MOST_KEPT)
        photos = [paths[row] for row in kept.tolist()]
        likeness = cls(mean, deviation, directions, scales, torch.empty(0, count), photos)
        parts = [likeness.components(features[rows])[0] for rows in torch.split(kept, ROWS)]
        points = torch.cat(parts).half()  # as it is read from the file
        before = None if early is None else cls.of(early, paths)
        return cls(mean, deviation, directions, scales, points, photos, agreement, before)

    def components(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute scaled components `(B, D)` of features `(B, F)`, and the scaled square of the rest `(B, 1)`."""
        standardized = (nnf.normalize(features.float(), dim=1) - self.mean) / self.deviation
        components = standardized @ self.directions
        length, explained = (values.square().sum(dim=1, keepdim=True) for values in (standardized, components))
        rest = (length - explained).clamp_min(0) / self.scales[-1].square()
        return components / self.scales[:-1], rest

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "Likeness":
        """Move to a device, but stay in single precision: half precision would make distances coarse."""
        super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)  # type: ignore[no-untyped-call]
        return self

    def features(
        self, body: Backbone | PrecomputedBody, images: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Compute features `(B, F)` and, if they are needed, early features `(B, E)` of images."""
        if self.early is None:
            return body(images), None
        assert isinstance(body, Backbone)
        return body.forward_with_early(images)

    def forward(self, features: torch.Tensor, logits: torch.Tensor, early: torch.Tensor | None = None) -> torch.Tensor:
        """Compute both signs of a stranger.

        Args:
            features: features `(B, F)`.
            logits: logits of each head `(heads, B, C)`.
            early: early features `(B, E)`, if they are needed.

        Returns:
            Distance, and disagreement or, of a trained body, early distance `(B, 2)`; both are larger for strangers.
        """
        if self.early is not None:
            assert early is not None
            second = self.early.distance(early)
        elif self.agreement is not None:
            second = self.agreement(features)
        else:
            second = -logits.float().logsumexp(dim=2).mean(dim=0)
        return torch.stack([self.distance(features), second], dim=1)

    def distance(self, features: torch.Tensor) -> torch.Tensor:
        """Compute the mean distance `(B,)` to the nearest training photos of features `(B, F)`."""
        components, rest = self.components(features)
        squares = components.square().sum(dim=1, keepdim=True) + self.lengths
        distances = squares - 2 * components @ self.points.T + rest
        nearest = distances.topk(min(NEIGHBORS, len(self.points)), dim=1, largest=False).values
        return nearest.clamp_min(0).sqrt().mean(dim=1)

    def calibrate(self, scores: torch.Tensor) -> None:
        """Set what is ordinary by those of validation photos, as `forward` computes them, `(N, 2)`."""
        scores = scores.double()
        ordinary = ORDINARY_DISTANCE, ORDINARY_DISAGREEMENT if self.early is None else ORDINARY_DISTANCE
        limits = [scores[:, column].quantile(share) for column, share in enumerate(ordinary)]
        self.median = scores.quantile(0.5, dim=0).float()
        self.spread = (torch.stack(limits) - scores.quantile(0.5, dim=0)).clamp_min(1e-6).float()

    def unlike(self, scores: torch.Tensor) -> torch.Tensor:
        """Return how unlike the training photos each photo is `(B,)`, from 0 to 1, by `forward`'s `(B, 2)`.

        That is 0.12 if both signs are those of a typical validation photo, and above 0.5 if one is not ordinary.
        """
        median, spread = self.median.to(scores.device), self.spread.to(scores.device)
        return (2 * ((scores - median) / spread).amax(dim=1) - 2).sigmoid()

    def similar(self, features: torch.Tensor, count: int) -> list[list[tuple[str, float]]]:
        """List the `count` most similar training photos of each photo, as path and cosine similarity, best first."""
        points, found = nnf.normalize(self.points, dim=1), nnf.normalize(self.components(features)[0], dim=1)
        values, rows = (found @ points.T).topk(min(count, len(points)), dim=1)
        return [
            [(self.paths[row], value) for row, value in zip(*pair, strict=True)]
            for pair in zip(rows.tolist(), values.tolist(), strict=True)
        ]


def evenly_spaced(count: int, most: int) -> torch.Tensor:
    """Return the indices of at most `most` of `count` items, evenly spaced, so that all classes appear."""
    return torch.linspace(0, count - 1, min(count, most), dtype=torch.double).round().long()
