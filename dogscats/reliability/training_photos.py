"""The training photos of a run: a stranger detector is fitted to them, and similar ones are found among them."""

import logging
import shutil
from collections.abc import Sequence
from contextlib import suppress
from copy import copy, deepcopy
from dataclasses import replace
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import nn

from dogscats.base.errors import UserError, user_message
from dogscats.base.text import shown
from dogscats.data.loading.dataset import PhotoDataset
from dogscats.data.photos.layouts import Photos
from dogscats.lesson.activations import Activations
from dogscats.lesson.backbone import Backbone
from dogscats.lesson.classifier import Classifier
from dogscats.lesson.stage import GROUPS, Stage
from dogscats.reliability.signs import TrainingPhotos, evenly_spaced
from dogscats.reliability.strangers import StrangerDetector

log = logging.getLogger(__name__)

MAX_PHOTOS_PASSED = 4000
"""Largest number of training photos, evenly spaced, that pass a body whose activations are not cached."""


def fit_detector(
    activations: Activations, stages: Sequence[Stage], fabric: Fabric, run_dir: Path
) -> StrangerDetector | None:
    """Fit the signs to the training photos in the feature space of the final body.

    The activations of a frozen body are cached; photos pass a trained one once.

    Args:
        activations: activations of the run.
        stages: stages of the recipe.
        fabric: Fabric of all ranks; all call this.
        run_dir: run directory, for a temporary folder.

    Returns:
        The same in all ranks; `None`, with the reason in the log, if it cannot be computed: nothing else needs it.
    """
    trained = any(stage.freeze_to < GROUPS.index("head") for stage in stages)
    cached = not trained and activations.views == 0 and any(stage.precompute for stage in stages)
    folder, detector, body = run_dir / ".features", None, activations.body
    try:
        if cached:
            features, photos = training_features(activations)
        else:
            if trained and not stages[-1].precompute:
                activations = copy(activations)
                activations.body = WithEarly(body, activations.data.size)
            features, photos = training_features(activations, MAX_PHOTOS_PASSED, folder)
        if fabric.is_global_zero:
            data, parts = activations.data, [body.num_features, features.shape[1] - body.num_features]
            features, early = torch.split(features, parts, dim=1)
            training = TrainingPhotos(
                features,
                early if parts[1] else None,
                photos.labels,
                len(data.classes),
                lambda: body.widths(data.size),
            )
            detector = StrangerDetector.fit(training, photos.paths)
    except Exception as error:  # of odd photos or networks; but no rank may wait for one that has failed
        if fabric.world_size > 1 and not isinstance(error, UserError):
            raise
        log_not_measured(error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return fabric.broadcast(detector)


def training_features(
    activations: Activations, most: int | None = None, folder: Path | None = None
) -> tuple[torch.Tensor, Photos]:
    """Compute the features of the plain training photos.

    Args:
        activations: activations of the run.
        most: largest number of photos, evenly spaced; `None` for all.
        folder: folder to compute them in; `None` for the cache.

    Returns:
        Features `(N, F)`, and the photos.
    """
    photos = activations.data.train
    if most is not None:
        some = evenly_spaced(len(photos.paths), most).tolist()
        paths, labels = ([values[row] for row in some] for values in (photos.paths, photos.labels))
        photos = replace(photos, paths=paths, labels=labels, undecided=None)
    folder_name = None if folder is None else str(folder)
    return activations.features(photos, "activations of train", folder_name), photos


class WithEarly(Backbone):
    """A body whose features are followed by its early ones; by none, if its early layer has an unusual output."""

    def __init__(self, body: Backbone, size: int):
        nn.Module.__init__(self)
        self.body, self.mean, self.std, self.num_features = body, body.mean, body.std, body.num_features
        images = torch.zeros(1, 3, size, size, dtype=torch.uint8)
        with torch.inference_mode(), suppress(AttributeError, IndexError, RuntimeError, TypeError):
            early = deepcopy(body).cpu().eval().forward_with_early(images)[1]
            self.num_features += early.shape[1]

    def extra_repr(self) -> str:
        """Name the number of features; the body below says the rest."""
        return f"{self.num_features} features"

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute both, `(B, num_features)`."""
        if self.num_features == self.body.num_features:
            features: torch.Tensor = self.body(images)
            return features
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
