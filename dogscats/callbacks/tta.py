"""Test-time augmentation."""

from collections.abc import Sequence
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from dogscats.data import Batch, DogsCatsDataModule, PhotoDataset, Photos
from dogscats.predictions import Predictions
from dogscats.seed import stable_seed


class TTA(Callback):
    """Collects what `trainer.predict` gives over several versions of the same photos, and averages.

    The first loader has the plain centre crop, each further one an augmented version. As in the lesson all
    versions count the same, and what is averaged are the probabilities.

    Args:
        photos: the photos, labelled.
        classes: names of the classes.
    """

    def __init__(self, photos: Photos, classes: Sequence[str]):
        self.photos, self.classes = photos, classes

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make room for the probabilities `(versions, N, C)`; zeros stand for those not predicted here."""
        loaders = trainer.predict_dataloaders
        versions = len(loaders) if isinstance(loaders, list) else 1
        self.probabilities = torch.zeros(versions, len(self.photos.paths), len(self.classes))

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Put a batch's probabilities where its photos belong."""
        indices, probabilities = outputs
        self.probabilities[dataloader_idx, indices.cpu()] = probabilities.float().cpu()

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring together what each process has predicted.

        Raises:
            RuntimeError: if a photo has no prediction.
        """
        shares = self.probabilities.to(pl_module.device)
        self.probabilities = trainer.strategy.reduce(shares, reduce_op="sum").cpu()
        missing = int((self.probabilities.sum(dim=2) == 0).any(dim=0).sum())
        if missing:
            raise RuntimeError(f"{missing} photos have no prediction.")

    @property
    def plain(self) -> Predictions:
        """Predictions from the centre crop alone."""
        return self._predictions(self.probabilities[0])

    @property
    def averaged(self) -> Predictions | None:
        """Mean over all versions; `None` if there was only the plain one."""
        return self._predictions(self.probabilities.mean(dim=0)) if len(self.probabilities) > 1 else None

    @property
    def best(self) -> Predictions:
        """Averaged predictions where there are any."""
        return self.averaged or self.plain

    def _predictions(self, probabilities: torch.Tensor) -> Predictions:
        return Predictions(self.photos.paths, self.classes, torch.tensor(self.photos.labels), probabilities)


def tta_loaders(data: DogsCatsDataModule, photos: Photos, n_aug: int) -> list[DataLoader[Batch]]:
    """Make the loaders of the plain version and of `n_aug` augmented versions of `photos`."""
    plain = PhotoDataset(photos, data.evaluation, data.seed)
    augmented = [
        PhotoDataset(photos, data.augmentation, stable_seed(data.seed, "tta", version))
        for version in range(n_aug)
    ]
    return [data.loader(dataset, persistent=False) for dataset in (plain, *augmented)]
