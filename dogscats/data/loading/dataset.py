"""Datasets of photos and of features computed beforehand; random numbers depend only on seed, photo and epoch."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
from torch.utils.data import Dataset, get_worker_info
from torchvision.transforms import v2

from dogscats.base.content import stable_seed
from dogscats.base.errors import UserError
from dogscats.base.text import shown
from dogscats.data.photos.layouts import Photos
from dogscats.data.pixels.images import UnreadableImageError, read_image, stack_images

B = TypeVar("B", bound=tuple[Any, ...])


class Batch(NamedTuple):
    """A batch: `inputs` `(B, 3, size, size)` uint8, `labels` `(B,)` and photo `indices` `(B,)`."""

    inputs: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor


class PhotoDataset(Dataset[tuple[torch.Tensor, int, int]]):
    """Decoded and transformed photos: `(image (3, size, size) uint8, label or -1, index)`.

    Indexed by `(index, epoch)`. The transform's random numbers depend only on `seed`, the photo's path and the epoch,
    not on the worker or on earlier photos.

    Raises:
        UserError: if a photo became unreadable after the check.
    """

    def __init__(self, photos: Photos, transform: v2.Transform, seed: int):
        self.photos, self.transform, self.seed = photos, transform, seed

    def __len__(self) -> int:
        return len(self.photos.paths)

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, int, int]:
        index, epoch = key
        image = self.decoded(index)
        with self.drawing(index, epoch):
            image = self.transform(image)
        return image, self.photos.labels[index] if self.photos.labels else -1, index

    def decoded(self, index: int) -> torch.Tensor:
        """Decode a photo `(3, H, W)`, not yet transformed."""
        root, path = self.photos.root, self.photos.paths[index]
        shrink, quietly = self.photos.shrink, path in self.photos.odd
        try:
            return shrink.read(root, path, quietly) if shrink else read_image(root / path, quietly)
        except UnreadableImageError as error:
            raise UserError(f"{shown(root / path)}: it became unreadable ({error}).") from None

    @contextmanager
    def drawing(self, index: int, epoch: int) -> Iterator[None]:
        """Let torch's global generator give the random numbers of a photo and epoch."""
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which seeds GPUs too, and without one takes a stack trace each time.
            torch.default_generator.manual_seed(stable_seed(self.seed, epoch, self.photos.paths[index]))
            yield


class PhotoBatches(Dataset[Batch]):
    """Batches of photos in channels_last memory format, indexed by lists of `(index, epoch)`.

    Args:
        dataset: dataset of single photos.

    Attributes:
        version: what keys of the cache add for batches with other pixels.
    """

    version = ""

    def __init__(self, dataset: PhotoDataset):
        self.dataset, self.photos = dataset, dataset.photos

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, keys: Sequence[tuple[int, int]]) -> Batch:
        images, labels, indices = zip(*(self.dataset[key] for key in keys), strict=True)
        return shared(Batch(stack_images(images), torch.tensor(labels), torch.tensor(indices)))


def shared(batch: B) -> B:
    """Move a batch of a worker process to shared memory.

    Otherwise the thread that sends the batch moves it: an error there, for lack of room, would be lost, and the loader
    would wait forever.
    """
    if get_worker_info() is not None:
        for tensor in batch:
            tensor.share_memory_()
    return batch


class ActivationDataset(Dataset[Batch]):
    """Features of `K` views of each photo; each epoch draws one of them.

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
