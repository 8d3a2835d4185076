"""Test-time augmentation. A plain photo has the evaluation transform: resized and cropped, not augmented."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import LambdaCallback
from pytorch_lightning.loggers import Logger
from torch.utils.data import DataLoader

from dogscats.base.content import stable_seed
from dogscats.base.errors import ArgumentError
from dogscats.base.rules import check_values, whole
from dogscats.data.loading.datamodule import DogsCatsDataModule
from dogscats.data.loading.dataset import Batch, PhotoDataset
from dogscats.data.photos.layouts import Photos
from dogscats.lesson.classifier import Classifier
from dogscats.lesson.predictions import Predictions


class TTA(Callback):
    """Collects the predictions of several versions of the same photos, and averages their probabilities.

    The first loader has the plain version, each further one an augmented version; see `tta_loaders`. As in the
    lesson, all versions have equal weight. Must precede callbacks that use its predictions.

    Example:
        >>> tta = TTA()
        >>> Trainer(callbacks=[tta]).predict(classifier, [data.val_dataloader()])  # one loader per version
        >>> tta.plain.accuracy, tta.best.accuracy  # without and with test-time augmentation

    Args:
        n_aug: number of augmented versions per photo, in addition to the plain one.

    Raises:
        ArgumentError: for a bad number.
    """

    def __init__(self, n_aug: int = 4):
        rule = whole(0)[0], "a whole number, 0 or more"
        check_values({"n_aug": rule}, {"n_aug": n_aug}, raises=partial(ArgumentError, "callbacks.tta"))
        self.n_aug = n_aug

    @staticmethod
    def of(trainer: Trainer) -> "TTA":
        """Return the `TTA` callback of a Trainer; its predictions are complete at the end of prediction."""
        return next(callback for callback in trainer.callbacks if isinstance(callback, TTA))  # type: ignore[attr-defined]

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Allocate the probabilities `(versions, N, C)`; zeros mark photos not predicted on this rank."""
        assert isinstance(pl_module, Classifier)
        loaders: Any = trainer.predict_dataloaders
        loaders = loaders if isinstance(loaders, list) else [loaders]
        self.photos: Photos = loaders[0].dataset.photos
        self.classes = pl_module.classes
        self.probabilities = torch.zeros(len(loaders), len(self.photos.paths), len(self.classes))
        self.scorer = pl_module.scorer
        self.scores = torch.zeros(len(self.photos.paths), self.scorer.num_scores if self.scorer else 0)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, _: int, dataloader_idx: int = 0
    ) -> None:
        """Store the probabilities of a batch by photo index, and the scores of plain photos."""
        assert isinstance(pl_module, Classifier)
        indices, probabilities = outputs[0].cpu(), outputs[1]
        self.probabilities[dataloader_idx, indices] = probabilities.float().cpu()
        if self.scorer and dataloader_idx == 0:
            self.scores[indices] = pl_module.scores.float().cpu()

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather the predictions of all ranks: the sum over them, since no photo is predicted twice.

        With `limit_predict_batches` or `fast_dev_run`, only photos with a prediction are kept.

        Raises:
            RuntimeError: if a photo has no prediction otherwise.
        """
        shares = self.probabilities.to(pl_module.device)
        self.probabilities = trainer.strategy.reduce(shares, reduce_op="sum").cpu()
        if self.scorer:
            self.scores = trainer.strategy.reduce(self.scores.to(pl_module.device), reduce_op="sum").cpu()
        predicted = (self.probabilities.sum(dim=2) != 0).all(dim=0)
        if not predicted.all():
            if not is_limited(trainer):
                raise RuntimeError(f"Photos without a prediction: {int((~predicted).sum())}.")
            kept = predicted.nonzero().flatten().tolist()
            self.probabilities, self.scores = self.probabilities[:, kept], self.scores[kept]
            self.photos = self.photos.select(kept)

    @property
    def plain(self) -> Predictions:
        """Predictions from the plain version only."""
        return self._predictions(self.probabilities[0])

    @property
    def averaged(self) -> Predictions | None:
        """Mean over all versions; `None` if there was only the plain one."""
        return self._predictions(self.probabilities.mean(dim=0)) if len(self.probabilities) > 1 else None

    @property
    def best(self) -> Predictions:
        """Averaged predictions if available, plain ones otherwise."""
        return self.averaged or self.plain

    def _predictions(self, probabilities: torch.Tensor) -> Predictions:
        labels = torch.tensor(self.photos.labels, dtype=torch.long)
        unlike = self.scorer.unlike(self.scores) if self.scorer else None
        return Predictions(self.photos.paths, self.classes, labels, probabilities, self.photos.root, unlike)


def is_limited(trainer: Trainer) -> bool:
    """Return whether a Trainer predicts some batches only: 1.0 means all, 1 means one."""
    return trainer.limit_predict_batches != 1.0 or isinstance(trainer.limit_predict_batches, int)


def tta_loaders(data: DogsCatsDataModule, photos: Photos, n_aug: int) -> list[DataLoader[Batch]]:
    """Make one loader for the plain version of `photos`, and one per augmented version."""
    plain = PhotoDataset(photos, data.evaluation, data.seed)
    augmented = [
        PhotoDataset(photos, data.augmentation, stable_seed(data.seed, "tta", version)) for version in range(n_aug)
    ]
    return [data.loader(dataset, persistent=False) for dataset in (plain, *augmented)]


def predict(
    classifier: Classifier,
    loaders: Sequence[DataLoader[Batch]],
    make_trainer: Callable[..., Trainer] = Trainer,
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[Logger] = (),
    write: Callable[[TTA], None] | None = None,
) -> TTA:
    """Predict photos with a new Trainer.

    Args:
        classifier: classifier to predict with.
        loaders: loaders from `tta_loaders`, or one loader of activations.
        make_trainer: function that makes the Trainer.
        callbacks: callbacks of the Trainer; a `TTA` is added if there is none.
        loggers: loggers for the callbacks' figures.
        write: called with the predictions before other callbacks use them, so that they are kept if one fails.

    Returns:
        The `TTA` callback with the predictions.
    """
    tta = next((callback for callback in callbacks if isinstance(callback, TTA)), None) or TTA()
    others = [callback for callback in callbacks if callback is not tta]
    if write is not None:
        others.insert(0, LambdaCallback(on_predict_end=lambda *_: write(tta)))
    trainer = make_trainer(logger=list(loggers) or False, enable_checkpointing=False, callbacks=[tta, *others])
    trainer.predict(classifier, list(loaders), return_predictions=False)
    return tta
