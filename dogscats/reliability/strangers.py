"""How unlike the training photos a photo is: several signs of a stranger, combined into one number from 0 to 1.

A detector is fitted to the training photos of a run, and similar ones are found among them.
"""

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import copy, deepcopy
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import nn

from dogscats.base.console import progress_bar
from dogscats.base.errors import UserError, user_message
from dogscats.base.text import shown
from dogscats.data.loading.dataset import PhotoDataset
from dogscats.lesson.activations import Activations
from dogscats.lesson.backbone import Backbone, PrecomputedBody
from dogscats.lesson.classifier import Classifier
from dogscats.lesson.heads import Heads
from dogscats.lesson.kernel_head import KernelHead
from dogscats.lesson.stage import Stage
from dogscats.reliability.agreement import Disagreement
from dogscats.reliability.neighbors import ROWS, nearest
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

log = logging.getLogger(__name__)

FOLDS = 10
"""Parts of the training photos without which the signs are fitted anew."""

MAX_PHOTOS_PASSED = 4000
"""Largest number of training photos, evenly spaced, that pass a body whose activations are not cached."""

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
        return cls(_fit_signs(photos), [paths[row] for row in kept])

    def arrays(self) -> dict[str, torch.Tensor]:
        """Return the arrays of all signs, `median` and `spread`, as saved in `strangers.npz`."""
        arrays = {"median": self.median.float(), "spread": self.spread.float()}
        for sign in self.signs:
            arrays |= sign.arrays()
        return arrays

    @classmethod
    def restore(cls, arrays: Mapping[str, torch.Tensor], paths: Sequence[str]) -> "StrangerDetector":
        """Restore the detector from the arrays of `strangers.npz`."""
        detector = cls([next(filter(None, (sign.restore(arrays) for sign in row))) for row in SIGNS], paths)
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
        if all(sign.space == "features" for sign in self.signs):
            features, early = body(inputs), None
        else:
            assert isinstance(body, Backbone)
            features, early = body.forward_with_early(inputs)
        return ForwardPass(features, heads.each(features), early)

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
            features: features `(B, F)`.
            count: number of training photos for each; fewer if there are fewer.
        """
        distance = self.signs[0]
        assert isinstance(distance, Distance)
        found = nearest(distance.components(features)[0], count, distance.points, skip_same=False)
        return [
            [(self.paths[row], value) for row, value in zip(rows, values, strict=True)]
            for rows, values in zip(found.indices.tolist(), found.similarities.tolist(), strict=True)
        ]


def _fit_signs(photos: TrainingPhotos) -> list[Sign]:
    return [next(filter(None, (sign.fit(photos) for sign in row))) for row in SIGNS]


def out_of_fold_scores(photos: TrainingPhotos, groups: torch.Tensor, logits: torch.Tensor) -> torch.Tensor | None:
    """Compute the signs of training photos, each by what was learned without its fold: otherwise they are too small.

    Args:
        photos: what the signs learn from.
        groups: number of the group of each photo `(N,)`; a group is in one fold.
        logits: logits of each photo, left out, `(N, C)`.

    Returns:
        Signs `(N, S)`; `None` if all photos are of one group.
    """
    _, places = torch.unique(groups, return_inverse=True)
    folds, labels = places % FOLDS, torch.tensor(photos.labels)  # photos are in the order of the classes
    if places.max() == 0:
        return None
    scores = torch.empty(len(labels), len(SIGNS))
    chosen = torch.unique(folds).tolist()
    for fold in progress_bar(chosen, "Leaving out folds", len(chosen), "fold"):
        (others,), (rows,) = (which.nonzero(as_tuple=True) for which in (folds != fold, folds == fold))
        known = photos._replace(features=photos.features[others], labels=labels[others].tolist())
        signs = _fit_signs(known)
        for some in torch.split(rows, ROWS):
            computed = ForwardPass(photos.features[some], logits[None, some])
            scores[some] = torch.stack([sign.score(computed) for sign in signs], dim=1)
    return scores


def fit_detector(
    activations: Activations,
    stages: Sequence[Stage],
    fabric: Fabric,
    run_dir: Path,
    left_out: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> tuple[StrangerDetector, torch.Tensor | None] | None:
    """Fit the signs to the training photos in the feature space of the final body.

    The activations of a frozen body are cached; photos pass a trained one once.

    Args:
        activations: activations of the run.
        stages: stages of the recipe.
        fabric: Fabric of all ranks; all call this.
        run_dir: run directory, for a temporary folder.
        left_out: groups and logits of the training photos, as for `out_of_fold_scores`, if their signs are needed.

    Returns:
        The detector, and those signs; the same in all ranks. `None`, with the reason in the log, if they cannot be
        computed: nothing else needs them.
    """
    trained = any(stage.trains_body for stage in stages)
    plain = any(stage.is_closed_form or (stage.precompute and activations.views == 0) for stage in stages)
    cached, folder, found = not trained and plain, run_dir / ".features", None
    body, data, photos = activations.body, activations.data, activations.data.train
    try:
        if not cached:
            photos = photos.select(evenly_spaced(len(photos.paths), MAX_PHOTOS_PASSED).tolist())
        if trained and not stages[-1].precompute:
            activations = copy(activations)
            with suppress(AttributeError, IndexError, RuntimeError, TypeError):  # an unusual output of the early layer
                activations.body = WithEarly(body, data.size)
        features = activations.features(photos, "activations of train", None if cached else str(folder))
        if fabric.is_global_zero:
            features, early = features[:, : body.num_features], features[:, body.num_features :]
            training = TrainingPhotos(
                features,
                early if early.shape[1] else None,
                photos.labels,
                len(data.classes),
                lambda: body.widths(data.size),
            )
            scores = out_of_fold_scores(training, *left_out) if left_out else None
            found = StrangerDetector.fit(training, photos.paths), scores
    except Exception as error:  # of odd photos or networks; but no rank may wait for one that has failed
        if fabric.world_size > 1 and not isinstance(error, UserError):
            raise
        log_not_measured(error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return fabric.broadcast(found)


class WithEarly(Backbone):
    """A body whose features are followed by its early ones.

    Args:
        body: the body.
        size: side of the images in pixels.
    """

    def __init__(self, body: Backbone, size: int):
        nn.Module.__init__(self)
        self.body, self.mean, self.std, self.method = body, body.mean, body.std, body.method
        with torch.inference_mode():
            images = torch.zeros(1, 3, size, size, dtype=torch.uint8)
            self.num_features = deepcopy(self).cpu().eval()(images).shape[1]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute both, `(B, num_features)`."""
        return torch.cat(self.body.forward_with_early(images), dim=1)


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
        features = [model.body(image) for image in images]
        return model.scorer.similar(torch.cat(features), count) if features else []


def log_not_measured(error: Exception) -> None:
    """Log why a run has no calibration and calls no photo unsure or none."""
    reason = shown(user_message(error) or repr(error))
    log.warning("No calibration, and no photo is called unsure or none: %s", reason)
    log.debug("", exc_info=True)
