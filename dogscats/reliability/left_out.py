"""What leave-one-out says of the training photos, and what a run keeps of it.

It is kept beside the checkpoints when the stage ends: a run that is killed later resumes with it.
"""

import logging
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from dogscats.base.errors import UserError, as_user_error
from dogscats.base.files import DAMAGED, atomic_path
from dogscats.base.text import counted
from dogscats.base.weights import check_stored
from dogscats.data.loading.datamodule import DogsCatsDataModule
from dogscats.data.loading.dataset import ActivationDataset, Batch, PhotoDataset
from dogscats.data.loading.loaders import activation_loader
from dogscats.data.photos.layouts import Photos
from dogscats.kernel.kernel_head import KernelFit
from dogscats.lesson.activations import Activations
from dogscats.lesson.backbone import PrecomputedBody
from dogscats.lesson.classifier import Classifier
from dogscats.lesson.predictions import Predictions
from dogscats.reliability.measured import LeftOutPredictions
from dogscats.reliability.signs import evenly_spaced
from dogscats.reliability.thresholds import are_enough, lost

log = logging.getLogger(__name__)

FILE = "left_out.npz"

MIN_JUDGED = 100
"""With fewer training photos in `data.root`, leave-one-out judges the photos of `data.add`, too."""

MAX_AUGMENTED = 500
"""Largest number of training photos whose augmented versions are predicted, left out."""


@dataclass(frozen=True)
class LeftOut:
    """What a kernel head says of the training photos by leave-one-out.

    Attributes:
        logits: logits of each photo, left out with its group `(N, C)`.
        groups: number of the group of each photo `(N,)`.
        scored: whether a photo can be judged `(N,)`; see `KernelFit`.
        augmented: photos of which augmented versions were predicted, too `(M,)`; all are scored.
        averaged: mean probabilities of all versions of these `(M, C)`.
    """

    logits: torch.Tensor
    groups: torch.Tensor
    scored: torch.Tensor
    augmented: torch.Tensor
    averaged: torch.Tensor

    def write(self, run_dir: Path) -> None:
        """Write it beside the checkpoints."""
        with atomic_path(run_dir / "checkpoints" / FILE) as temporary, temporary.open("wb") as file:
            np.savez(file, **{name: values.numpy() for name, values in vars(self).items()})

    @classmethod
    def read(cls, run_dir: Path) -> "LeftOut | None":
        """Read it; `None` if there is no such file, and `None` with a warning if it is damaged."""
        file = run_dir / "checkpoints" / FILE
        if not file.is_file():
            return None
        try:
            with as_user_error(file, *DAMAGED):
                check_stored(file)
                with np.load(file, allow_pickle=False) as archive:
                    return cls(**{field.name: torch.from_numpy(archive[field.name]) for field in fields(cls)})
        except UserError as error:
            log.warning("%s The stage is repeated.", error)
            return None

    def predictions(self, data: DogsCatsDataModule, scores: torch.Tensor | None) -> LeftOutPredictions:
        """Return the predictions of the photos that can be judged.

        Args:
            data: data module of the run.
            scores: signs of a stranger of all training photos, left out, `(N, S)`; `None` if unknown.
        """
        kept = self.scored.nonzero().flatten()

        def predicted(rows: torch.Tensor, probabilities: torch.Tensor) -> Predictions:
            photos = data.train.select(rows.tolist())
            return Predictions(photos.paths, data.classes, torch.tensor(photos.labels), probabilities, photos.root)

        plain = predicted(kept, self.logits[kept].softmax(dim=1))
        averaged = predicted(self.augmented, self.averaged) if len(self.augmented) else None
        rows = torch.searchsorted(kept, self.augmented)
        return LeftOutPredictions(plain, averaged, rows, None if scores is None else scores[kept])


def judged_alone(photos: Photos) -> torch.Tensor | None:
    """Return which photos leave-one-out judges `(N,)`, `None` for all: those of `data.root`, if they are enough.

    Added photos may have been chosen because they are difficult, or be easier than others.
    """
    own = torch.tensor([path not in photos.added for path in photos.paths])
    count = int(own.sum())
    if count < MIN_JUDGED or count == len(own):
        return None
    log.info("Leave-one-out judges the %d training photos of data.root, not the %d added ones", count, len(own) - count)
    return own


def needs_training_photos(data: DogsCatsDataModule) -> bool:
    """Return whether validation photos are too few for thresholds, and training photos are enough for one."""
    unsure, none = lost()
    return not are_enough(len(data.valid.paths), unsure) and are_enough(len(data.train.paths), none)


def keep_left_out(run_dir: Path, fit: KernelFit | None, activations: Activations, n_aug: int) -> None:
    """Keep what a fit says of the training photos, and of augmented versions of some of them if they are needed.

    Args:
        run_dir: run directory.
        fit: the fit; `None` on other ranks than 0. All call this.
        activations: activations of the run.
        n_aug: number of augmented versions per photo in test-time augmentation.
    """
    fabric, photos = activations.fabric, activations.data.train
    rows = torch.empty(0, dtype=torch.long)
    if n_aug and needs_training_photos(activations.data):
        kept = fabric.broadcast(torch.empty(0) if fit is None else fit.scored.nonzero().flatten())
        rows = kept[evenly_spaced(len(kept), MAX_AUGMENTED)]
    some = photos.select(rows.tolist())
    views = [
        activations.augmented(some, view, f"activations of {counted(len(rows), 'augmented photo')}")
        for view in range(n_aug if len(rows) else 0)
    ]
    if fit is None:
        return
    versions = [fit.log_probabilities[rows], *(fit.left_out(features, rows) for features in views)]
    averaged = torch.stack(versions).exp().mean(dim=0)
    LeftOut(fit.logits, fit.groups, fit.scored, rows, averaged).write(run_dir)


class LeftOutClassifier(Classifier):
    """Stands in for a classifier in the final prediction of a run without validation photos.

    It predicts the training photos as leave-one-out did, so that all callbacks and figures get these predictions.

    Args:
        model: classifier of the run.
    """

    def __init__(self, model: Classifier):
        super().__init__(PrecomputedBody(), model.classes, model.heads)
        self.scorer = model.scorer

    def predict_step(
        self, batch: Batch, batch_idx: int = 0, dataloader_idx: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return photo indices `(B,)` and probabilities `(B, C)`, which come with signs of a stranger `(B, C + S)`."""
        self.scores = batch.inputs[:, len(self.classes) :]
        return batch.indices, batch.inputs[:, : len(self.classes)]


def left_out_loader(data: DogsCatsDataModule, predicted: LeftOutPredictions) -> DataLoader[Batch]:
    """Make the loader of left-out training photos for a `LeftOutClassifier`."""
    plain, scores = predicted.plain, predicted.scores
    photos = Photos(plain.root, plain.paths, plain.labels.tolist())
    inputs = plain.probabilities if scores is None else torch.cat([plain.probabilities, scores], dim=1)
    batches = data.batch_sampler(PhotoDataset(photos, data.evaluation, data.seed))
    return activation_loader(ActivationDataset([inputs], photos, data.seed), batches)
