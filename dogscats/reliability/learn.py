"""The training photos that a run keeps to say how unlike them a photo is."""

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
from dogscats.data.loading.datamodule import DogsCatsDataModule
from dogscats.data.photos.layouts import Photos
from dogscats.lesson.activations import Activations
from dogscats.lesson.backbone import Backbone
from dogscats.lesson.stage import GROUPS, Stage
from dogscats.lesson.tta import TTA
from dogscats.reliability.agreement import MOST_CLASSES, Agreement
from dogscats.reliability.measured import Reliability, measure
from dogscats.reliability.strangers import MOST_FITTED, Likeness, evenly_spaced

log = logging.getLogger(__name__)

MOST_PASSED = 4000
"""Largest number of training photos, evenly spaced, that pass a body whose activations are not cached."""


def learn_likeness(activations: Activations, stages: Sequence[Stage], fabric: Fabric, run_dir: Path) -> Likeness | None:
    """Keep the training photos in the feature space of the final body.

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
    folder, likeness, body = run_dir / ".features", None, activations.body
    try:
        if cached:
            features, photos = training_features(activations)
        else:
            if trained and not stages[-1].precompute:
                activations = copy(activations)
                activations.body = WithEarly(body, activations.data.size)
            features, photos = training_features(activations, MOST_PASSED, folder)
        if fabric.is_global_zero:
            features, early = torch.split(features, [body.num_features, features.shape[1] - body.num_features], dim=1)
            if early.shape[1]:
                likeness = Likeness.of(features, photos.paths, early=early)
            else:
                depths = agreement(body, activations.data, features, photos.labels)
                likeness = Likeness.of(features, photos.paths, depths)
    except Exception as error:  # of odd photos or networks; but no rank may wait for one that has failed
        if fabric.world_size > 1 and not isinstance(error, UserError):
            raise
        not_measured(error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return fabric.broadcast(likeness)


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


def agreement(
    body: Backbone, data: DogsCatsDataModule, features: torch.Tensor, labels: Sequence[int]
) -> Agreement | None:
    """Learn how the depths of the body agree on training photos, evenly spaced ones; `None` for too many classes."""
    classes = len(data.classes)
    if classes > MOST_CLASSES:
        return None
    some = evenly_spaced(len(labels), MOST_FITTED)
    widths = body.widths(data.size)
    return Agreement.of(features[some], torch.tensor(labels)[some], classes, widths)


def measured(tta: TTA) -> Reliability | None:
    """Measure on predicted validation photos; `None`, with the reason in the log, if there is nothing to measure."""
    if tta.likeness is None:
        return None
    try:
        if not tta.scores.isfinite().all():
            raise UserError("features of validation photos give no finite distances")
        tta.likeness.calibrate(tta.scores)
        return measure(tta.likeness, tta.plain, tta.averaged)
    except Exception as error:  # of odd predictions
        not_measured(error)
        return None


def not_measured(error: Exception) -> None:
    """Say in the log why a run has no calibration and calls no photo unsure or none."""
    reason = shown(user_message(error) or repr(error))
    log.warning("No calibration, and no photo is called unsure or none: %s", reason)
    log.debug("", exc_info=True)
