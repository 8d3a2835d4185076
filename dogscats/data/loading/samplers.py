"""Samplers: the order of photos, and how batches are split across ranks."""

import math
from collections.abc import Iterator

import torch
from torch.utils.data import DistributedSampler, Sampler

from dogscats.base.content import stable_seed


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

    def _share(self, start: int) -> int:
        """Return this rank's number of photos in the batch that starts at `start`."""
        count = min(self.batch_size, len(self.sampler) - start)
        if self.whole:
            return count if start // self.batch_size % self.num_replicas == self.rank else 0
        if self.training:
            share = count // self.num_replicas
            return share if share >= 2 else 0
        return len(range(self.rank, count, self.num_replicas))

    def __len__(self) -> int:
        return sum(self._share(start) > 0 for start in range(0, len(self.sampler), self.batch_size))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = list(self.sampler)
        for start in range(0, len(order), self.batch_size):
            share = self._share(start)
            if share and self.whole:
                yield order[start : start + share]
            elif share:
                yield order[start + self.rank : start + self.batch_size : self.num_replicas][:share]


def process_rank() -> tuple[int, int]:
    """Return this process's rank and the world size."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
