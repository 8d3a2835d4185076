"""Datasets of features that were computed beforehand."""

from collections.abc import Sequence

import torch
from torch.utils.data import DataLoader, Dataset

from dogscats.base.content import stable_seed
from dogscats.data.loading.dataset import Batch
from dogscats.data.loading.samplers import SharedBatchSampler
from dogscats.data.photos.layouts import Photos


class ActivationDataset(Dataset[Batch]):
    """Features of `K` versions of each photo; each epoch draws one of them.

    Indexed by batch: a list of `(index, epoch)`.

    Args:
        views: `K` tensors `(M, F)`.
        photos: the `N` labelled photos.
        seed: seeds the draw, together with the epoch and the photo.
        rows: row of each photo in `views`, which may have further ones; `None` if they have `N` in the same order.
    """

    def __init__(self, views: Sequence[torch.Tensor], photos: Photos, seed: int, rows: Sequence[int] | None = None):
        self.views, self.photos, self.seed = views, photos, seed
        self.labels = torch.tensor(photos.labels)
        self.rows = torch.arange(len(self.labels)) if rows is None else torch.tensor(rows)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, keys: Sequence[tuple[int, int]]) -> Batch:
        indices = torch.tensor([index for index, _ in keys])
        rows = self.rows[indices]
        if len(self.views) == 1:
            inputs = self.views[0][rows]
        else:
            draws = [stable_seed(self.seed, epoch, index) % len(self.views) for index, epoch in keys]
            inputs = torch.stack([self.views[draw][row] for draw, row in zip(draws, rows.tolist(), strict=True)])
        return Batch(inputs, self.labels[indices], indices)


def activation_loader(
    views: Sequence[torch.Tensor],
    photos: Photos,
    batches: SharedBatchSampler,
    seed: int,
    rows: Sequence[int] | None = None,
) -> DataLoader[Batch]:
    """Load batches of features.

    Args:
        views: `K` tensors `(M, F)`.
        photos: the `N` labelled photos.
        batches: sampler from `DogsCatsDataModule.batch_sampler`, in the same order as for photos.
        seed: seeds the draw among the views.
        rows: row of each photo in `views`, as in `ActivationDataset`.
    """
    return DataLoader(
        ActivationDataset(views, photos, seed, rows),
        sampler=batches,
        batch_size=None,
        generator=torch.Generator().manual_seed(seed),
    )
