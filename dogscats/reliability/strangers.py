"""How unlike the training photos a photo is: several signs of a stranger, combined into one number from 0 to 1.

A detector is fitted to the training photos of a run, and similar ones are found among them.
"""

import logging
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from dogscats.base.errors import UserError, user_message
from dogscats.base.text import shown
from dogscats.data.loading.dataset import PhotoDataset
from dogscats.kernel.kernel_head import KernelHead
from dogscats.lesson.backbone import Backbone, PrecomputedBody
from dogscats.lesson.classifier import Classifier
from dogscats.lesson.heads import Heads
from dogscats.reliability.agreement import Disagreement
from dogscats.reliability.depths import forward_with_depths
from dogscats.reliability.known_strangers import KnownStrangers
from dogscats.reliability.neighbors import nearest
from dogscats.reliability.signs import (
    MAX_PHOTOS_KEPT,
    Distance,
    Energy,
    ForwardPass,
    Sign,
    TrainingPhotos,
    evenly_spaced,
    of_all_depths,
)

log = logging.getLogger(__name__)

SIGNS: tuple[tuple[type[Sign], ...], ...] = (
    (Distance,),  # for photos of another kind
    (Disagreement, Energy),  # of a frozen body, for photos of an unknown class that resembles the known ones
    (KnownStrangers,),  # for photos like the strangers that were given
)
"""The signs of a stranger. Of each row, the first that applies is used, if any does."""


class StrangerDetector(nn.Module):
    """Scores how unlike the training photos other photos are; the `Scorer` of a trained classifier.

    Args:
        signs: the `S` signs, fitted; the first is a `Distance`.
        paths: paths of the training photos that the distance keeps, below the root of the data.

    Attributes:
        median: median of each sign for the validation photos `(S,)`; see `calibrate`.
        spread: from there to the largest ordinary value `(S,)`.
    """

    signs: Sequence[Sign]
    median: torch.Tensor
    spread: torch.Tensor

    def __init__(self, signs: Sequence[Sign], paths: Sequence[str]):
        super().__init__()
        self.signs = nn.ModuleList(signs)  # type: ignore[assignment]
        self.paths, self.num_scores = list(paths), len(signs)
        # Not persistent: checkpoints stay as they are.
        self.register_buffer("median", torch.zeros(len(signs)), persistent=False)
        self.register_buffer("spread", torch.ones(len(signs)), persistent=False)

    @classmethod
    def fit(cls, photos: TrainingPhotos, paths: Sequence[str]) -> "StrangerDetector":
        """Fit all signs to training photos.

        Args:
            photos: what the signs learn from.
            paths: path of each photo, below the root of the data.
        """
        kept = evenly_spaced(len(paths), MAX_PHOTOS_KEPT).tolist()
        return cls(fit_signs(photos), [paths[row] for row in kept])

    def arrays(self) -> dict[str, torch.Tensor]:
        """Return the arrays of all signs, `median` and `spread`, as saved in `strangers.npz`."""
        arrays = {"median": self.median.float(), "spread": self.spread.float()}
        for sign in self.signs:
            arrays |= sign.arrays()
        return arrays

    @classmethod
    def restore(cls, arrays: Mapping[str, torch.Tensor], paths: Sequence[str]) -> "StrangerDetector":
        """Restore the detector from the arrays of `strangers.npz`.

        Raises:
            UserError: for signs of another version.
        """
        detector = cls(_first(lambda sign: sign.restore(arrays)), paths)
        if detector.num_scores != len(arrays["median"]):
            advice = "Remove it and reliability.json to predict without decisions, or train again."
            raise UserError(f"strangers.npz has signs of another version. {advice}")
        detector.median, detector.spread = arrays["median"].float(), arrays["spread"].float()
        return detector

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "StrangerDetector":
        """Move to a device, but stay in single precision: half precision would make distances coarse."""
        super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)  # type: ignore[no-untyped-call]
        return self

    def compute(self, body: Backbone | PrecomputedBody, heads: Heads | KernelHead, inputs: torch.Tensor) -> ForwardPass:
        """Compute what the signs need, and the logits, in one forward pass per photo.

        Args:
            body: body of the classifier.
            heads: its heads.
            inputs: photos `(B, 3, H, W)`, or features `(B, F)`.
        """
        if isinstance(body, Backbone) and self.needs_depths(body):
            features, depths = forward_with_depths(body, inputs)
            return ForwardPass(features, heads.each(features), torch.cat(depths, dim=1))
        features = body(inputs)
        return ForwardPass(features, heads.each(features))

    def needs_depths(self, body: Backbone) -> bool:
        """Return whether the signs are of features of earlier depths, too."""
        return len(self.distance.mean) > body.num_features

    @property
    def distance(self) -> Distance:
        """The first sign."""
        distance = self.signs[0]
        assert isinstance(distance, Distance)
        return distance

    def scores(self, computed: ForwardPass) -> torch.Tensor:
        """Compute all signs `(B, S)`; larger for strangers."""
        return torch.stack([sign.score(computed) for sign in self.signs], dim=1)

    def forward(
        self, body: Backbone | PrecomputedBody, heads: Heads | KernelHead, inputs: torch.Tensor
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
            features: features `(B, F)`, as of `of_all_depths`.
            count: number of training photos for each; fewer if there are fewer.
        """
        found = nearest(self.distance.components(features)[0], count, self.distance.points, skip_same=False)
        return [
            [(self.paths[row], value) for row, value in zip(rows, values, strict=True)]
            for rows, values in zip(found.indices.tolist(), found.similarities.tolist(), strict=True)
        ]


def fit_signs(photos: TrainingPhotos) -> list[Sign]:
    """Fit the signs that apply to training photos."""
    return _first(lambda sign: sign.fit(photos))


def _first(make: Callable[[type[Sign]], Sign | None]) -> list[Sign]:
    """Make of each row of `SIGNS` the first that applies, if any does."""
    found = (next(filter(None, map(make, row)), None) for row in SIGNS)
    return [sign for sign in found if sign is not None]


def similar_photos(model: Classifier, dataset: PhotoDataset, count: int) -> list[list[tuple[str, float]]]:
    """List the most similar training photos of each photo, best first.

    Args:
        model: trained classifier, whose scorer has the training photos.
        dataset: photos with the evaluation transform.
        count: number of training photos for each; fewer if there are fewer.

    Returns:
        For each photo, paths of training photos below the root of the data, with their cosine similarity.

    Raises:
        UserError: if a photo cannot be read, or the run has not kept its training photos.
    """
    if not isinstance(model.scorer, StrangerDetector):
        raise UserError("This run has not kept its training photos (strangers.npz), or this checkpoint is another one.")
    with torch.inference_mode():
        images = (dataset[index, 0][0][None].to(model.device) for index in range(len(dataset)))
        features = [of_all_depths(model.scorer.compute(model.body, model.heads, image)) for image in images]
        return model.scorer.similar(torch.cat(features), count) if features else []


def log_not_measured(error: Exception) -> None:
    """Log why a run has no calibration and calls no photo unsure or none."""
    reason = shown(user_message(error) or repr(error))
    log.warning("No calibration, and no photo is called unsure or none: %s", reason)
    log.debug("", exc_info=True)
