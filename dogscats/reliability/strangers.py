"""How unlike the training photos a photo is: several signs of a stranger, combined into one number from 0 to 1."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from dogscats.lesson.backbone import Backbone, PrecomputedBody
from dogscats.lesson.heads import Heads
from dogscats.reliability.agreement import Disagreement
from dogscats.reliability.signs import (
    MAX_PHOTOS_KEPT,
    Distance,
    EarlyDistance,
    Energy,
    ForwardPass,
    Sign,
    TrainingPhotos,
    evenly_spaced,
)

SIGNS: tuple[tuple[type[Sign], ...], ...] = (
    (Distance,),  # for photos of another kind
    (EarlyDistance, Disagreement, Energy),  # for photos of an unknown class that resembles the known ones
)
"""The signs of a stranger. Of each row, the first that applies is used."""


class StrangerDetector(nn.Module):
    """Scores how unlike the training photos other photos are; the `Scorer` of a trained classifier.

    Args:
        signs: the `S` signs, fitted; the first is a `Distance`.
        paths: paths of the training photos that the distance keeps, below the root of the data.
        median: median of each sign for the validation photos `(S,)`; see `calibrate`.
        spread: from there to the largest ordinary value `(S,)`.
    """

    signs: Sequence[Sign]
    median: torch.Tensor
    spread: torch.Tensor

    def __init__(
        self,
        signs: Sequence[Sign],
        paths: Sequence[str],
        median: torch.Tensor | None = None,
        spread: torch.Tensor | None = None,
    ):
        super().__init__()
        self.signs = nn.ModuleList(signs)  # type: ignore[assignment]
        self.paths, self.num_scores = list(paths), len(signs)
        arrays = {"median": torch.zeros(len(signs)) if median is None else median}
        arrays["spread"] = torch.ones(len(signs)) if spread is None else spread
        for name, values in arrays.items():  # not persistent: checkpoints stay as they are
            self.register_buffer(name, values.float(), persistent=False)

    @classmethod
    def fit(cls, photos: TrainingPhotos, paths: Sequence[str]) -> "StrangerDetector":
        """Fit all signs to training photos.

        Args:
            photos: what the signs learn from.
            paths: path of each photo, below the root of the data.
        """
        kept = evenly_spaced(len(paths), MAX_PHOTOS_KEPT).tolist()
        return cls(_first_of_each_row(lambda sign: sign.fit(photos)), [paths[row] for row in kept])

    def arrays(self) -> dict[str, torch.Tensor]:
        """Return the arrays of all signs, `median` and `spread`, as saved in `strangers.npz`."""
        arrays = {"median": self.median.float(), "spread": self.spread.float()}
        for sign in self.signs:
            arrays |= sign.arrays()
        return arrays

    @classmethod
    def restore(cls, arrays: Mapping[str, torch.Tensor], paths: Sequence[str]) -> "StrangerDetector":
        """Restore the detector from the arrays of `strangers.npz`."""
        signs = _first_of_each_row(lambda sign: sign.restore(arrays))
        return cls(signs, paths, arrays["median"], arrays["spread"])

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "StrangerDetector":
        """Move to a device, but stay in single precision: half precision would make distances coarse."""
        super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)  # type: ignore[no-untyped-call]
        return self

    def compute(self, body: Backbone | PrecomputedBody, heads: Heads, inputs: torch.Tensor) -> ForwardPass:
        """Compute what the signs need, and the logits, in one forward pass per photo.

        Args:
            body: body of the classifier.
            heads: its heads.
            inputs: photos `(B, 3, H, W)`, or features `(B, F)`.
        """
        if not any(sign.needs_early for sign in self.signs):
            features, early = body(inputs), None
        else:
            assert isinstance(body, Backbone)
            features, early = body.forward_with_early(inputs)
        return ForwardPass(features, heads.each(features), early)

    def scores(self, computed: ForwardPass) -> torch.Tensor:
        """Compute all signs `(B, S)`; larger for strangers."""
        return torch.stack([sign.score(computed) for sign in self.signs], dim=1)

    def forward(
        self, body: Backbone | PrecomputedBody, heads: Heads, inputs: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute log-probabilities `(B, C)` and all signs `(B, S)`; arguments as for `compute`."""
        computed = self.compute(body, heads, inputs)
        with torch.autocast(inputs.device.type, enabled=False):  # half precision would make distances coarse
            scores = self.scores(computed)
        return heads.mean(computed.logits), scores

    def calibrate(self, scores: torch.Tensor) -> None:
        """Set what is ordinary by the signs of validation photos `(N, S)`."""
        scores = scores.double()
        limits = [scores[:, column].quantile(sign.ordinary) for column, sign in enumerate(self.signs)]
        self.median = scores.quantile(0.5, dim=0).float()
        self.spread = (torch.stack(limits) - scores.quantile(0.5, dim=0)).clamp_min(1e-6).float()

    def unlike(self, scores: torch.Tensor) -> torch.Tensor:
        """Return how unlike the training photos each photo is `(B,)`, from 0 to 1, by its signs `(B, S)`.

        That is 0.12 if all signs are those of a typical validation photo, and above 0.5 if one is not ordinary.
        """
        median, spread = self.median.to(scores.device), self.spread.to(scores.device)
        return (2 * ((scores - median) / spread).amax(dim=1) - 2).sigmoid()

    def similar(self, features: torch.Tensor, count: int) -> list[list[tuple[str, float]]]:
        """List the `count` most similar training photos of each photo, as path and cosine similarity, best first.

        Args:
            features: features `(B, F)`.
            count: number of training photos for each; fewer if there are fewer.
        """
        distance = self.signs[0]
        assert isinstance(distance, Distance)
        neighbors = distance.similar(features, count)
        return [
            [(self.paths[row], value) for row, value in zip(*pair, strict=True)]
            for pair in zip(*(values.tolist() for values in neighbors), strict=True)
        ]


def _first_of_each_row(make: Callable[[type[Sign]], Sign | None]) -> list[Sign]:
    """Make the first sign of each row of `SIGNS` for which that does not give `None`."""
    rows = (map(make, row) for row in SIGNS)
    found = (next((sign for sign in row if sign is not None), None) for row in rows)
    return [sign for sign in found if sign is not None]
