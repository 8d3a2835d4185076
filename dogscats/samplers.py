"""The order of photos, and the share of each process in it."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from dogscats.seed import stable_seed


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields `(index, epoch)`, so that a dataset can make randomness a function of both.

    Args:
        size: number of photos.
        seed: orders the photos anew in every epoch; `None` keeps their order.
    """

    def __init__(self, size: int, seed: int | None = None):
        self.size, self.seed, self.epoch = size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this as each begins."""
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


class SharedBatchSampler(Sampler[list[tuple[int, int]]]):
    """Batches of an `EpochSampler`, of each of which every process gets its share.

    A batch of all processes together is the batch that one process alone would get. As in the lesson the last
    one may be smaller. When training, shares are equal and of at least two photos, since gradients are
    averaged over the processes and BatchNorm cannot train on one: what is left over is dropped. When
    evaluating nothing is dropped or repeated.

    Args:
        sampler: the photos.
        batch_size: photos in a batch, all processes together.
        training: whether shares must be equal.
        rank: number of this process.
        world_size: number of processes.
    """

    def __init__(
        self, sampler: EpochSampler, batch_size: int, training: bool, rank: int = 0, world_size: int = 1
    ):
        self.sampler, self.batch_size, self.training = sampler, batch_size, training
        self.rank, self.world_size = rank, world_size

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch."""
        self.sampler.set_epoch(epoch)

    def _share(self, start: int) -> int:
        """Photos of this process in the batch that starts at `start`."""
        count = min(self.batch_size, len(self.sampler) - start)
        if self.training:
            share = count // self.world_size
            return share if share >= 2 else 0
        return len(range(self.rank, count, self.world_size))

    def __len__(self) -> int:
        return sum(self._share(start) > 0 for start in range(0, len(self.sampler), self.batch_size))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = list(self.sampler)
        for start in range(0, len(order), self.batch_size):
            share = self._share(start)
            if share:
                yield order[start + self.rank : start + self.batch_size : self.world_size][:share]
