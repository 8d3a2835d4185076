"""Loaders of photos and of activations, their order and its split across ranks."""

import math
from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, DistributedSampler, Sampler

from dogscats.base.content import stable_seed
from dogscats.data.loading.dataset import ActivationDataset, Batch, PhotoBatches
from dogscats.data.loading.workers import SECONDS_BETWEEN_LOOKS, WorkerLoader, fitting_workers, prepare_worker


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields `(index, epoch)`, so that a dataset can derive random numbers from both.

    Args:
        size: number of photos.
        seed: seeds a new shuffle in every epoch; `None` keeps the order.
    """

    def __init__(self, size: int, seed: int | None = None):
        self.size, self.seed, self.epoch = size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; called by Lightning at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        if self.seed is None:
            order = list(range(self.size))
        else:
            generator = torch.Generator().manual_seed(stable_seed(self.seed, self.epoch))
            order = torch.randperm(self.size, generator=generator).tolist()
        return ((index, self.epoch) for index in order)


class SharedBatchSampler(DistributedSampler[list[tuple[int, int]]]):
    """Batch sampler that splits each global batch of an `EpochSampler` across ranks.

    The shares of all ranks add up to the batch of a single-process run. As in the lesson, the last batch may be
    smaller. In training, all ranks get the same number of photos, at least two: gradients are averaged over ranks,
    and BatchNorm cannot train on one photo. The rest is dropped. In evaluation, no photo is dropped or repeated. It
    subclasses DistributedSampler so that Lightning does not replace it.

    Args:
        sampler: sampler of single photos.
        batch_size: global batch size.
        training: whether shares must be equal.
        rank: index of this rank.
        world_size: number of ranks.
        whole: whether ranks take whole batches in turn instead, so that each batch is that of a single-process run.
    """

    def __init__(
        self,
        sampler: EpochSampler,
        batch_size: int,
        training: bool,
        rank: int = 0,
        world_size: int = 1,
        whole: bool = False,
    ):
        super().__init__(range(len(sampler)), world_size, rank)  # type: ignore[arg-type]
        self.sampler, self.batch_size, self.training, self.whole = sampler, batch_size, training, whole

    @property
    def count(self) -> int:
        """Number of batches of all ranks together."""
        return math.ceil(len(self.sampler) / self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch."""
        self.sampler.set_epoch(epoch)

    def _share(self, start: int) -> range:
        """Return the positions of this rank's photos in the batch that starts at `start`."""
        end = min(start + self.batch_size, len(self.sampler))
        if self.whole:
            turn = start // self.batch_size % self.num_replicas
            return range(start, end if turn == self.rank else start)
        share = range(start + self.rank, end, self.num_replicas)
        if self.training:
            count = (end - start) // self.num_replicas
            return share[: count if count >= 2 else 0]
        return share

    def __len__(self) -> int:
        return sum(len(self._share(start)) > 0 for start in range(0, len(self.sampler), self.batch_size))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = list(self.sampler)
        for start in range(0, len(order), self.batch_size):
            if share := self._share(start):
                yield [order[position] for position in share]


def process_rank() -> tuple[int, int]:
    """Return this process's rank and the world size."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def photo_loader(
    dataset: PhotoBatches,
    batches: SharedBatchSampler,
    num_workers: int,
    photo_bytes: int,
    persistent: bool = True,
    loader: type[WorkerLoader] = WorkerLoader,
) -> DataLoader[Batch]:
    """Load batches of photos.

    Args:
        dataset: dataset of batches.
        batches: sampler from `DogsCatsDataModule.batch_sampler`.
        num_workers: number of worker processes, if there is room for their batches.
        photo_bytes: what a worker sends of each photo, in bytes.
        persistent: whether to keep the workers between epochs.
        loader: class of the loader.
    """
    ranks = batches.num_replicas
    workers = fitting_workers(num_workers, batches.batch_size * photo_bytes // ranks, ranks)
    return loader(
        dataset,
        sampler=batches,
        batch_size=None,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=persistent and workers > 0,
        timeout=SECONDS_BETWEEN_LOOKS if workers else 0,
        worker_init_fn=prepare_worker,
        # A DataLoader draws a seed every epoch, even if unused. Its own generator leaves the global one alone.
        generator=torch.Generator().manual_seed(dataset.dataset.seed),
    )


def activation_loader(dataset: ActivationDataset, batches: SharedBatchSampler) -> DataLoader[Batch]:
    """Load batches of features.

    Args:
        dataset: dataset of features; its seed is the loader's, too.
        batches: sampler from `DogsCatsDataModule.batch_sampler`, in the same order as for photos.
    """
    generator = torch.Generator().manual_seed(dataset.seed)
    return DataLoader(dataset, sampler=batches, batch_size=None, generator=generator)
