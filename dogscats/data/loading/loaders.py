"""Loaders of photos and of activations, the worker processes that decode photos, and their shared memory."""

import atexit
import logging
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from dogscats.base.errors import UserError
from dogscats.base.signals import handle_signals_in_worker, signals_blocked
from dogscats.data.loading.dataset import ActivationDataset, Batch, PhotoBatches, PhotoDataset
from dogscats.data.loading.samplers import SharedBatchSampler
from dogscats.data.photos.layouts import Photos

# When the process exits, it ends workers that are still there. PyTorch's handler would take that for a failure.
atexit.register(signal.signal, signal.SIGCHLD, signal.SIG_DFL)

log = logging.getLogger(__name__)

SHARED_MEMORY = Path("/dev/shm")
"""Folder for batches of worker processes on Linux. Docker gives a container 64 MB by default."""

BATCHES_PER_WORKER = 3
"""Batches in memory at once: two prefetched, DataLoader's default, and one in use."""

LOADERS = 2
"""Loaders at once: training and validation."""

TIMEOUT = 900
"""Seconds without a batch after which loading counts as stuck. Without a limit, the loader would wait forever."""


def default_num_workers() -> int:
    """Return one worker per CPU core, at most 16; none on up to 2 cores without a GPU.

    There the network already uses all cores: with ResNet34 on 2 cores without a GPU, workers make a frozen epoch
    8 % slower and test-time augmentation 21 %. Forked workers share the network's memory copy-on-write, so every
    page written later is copied.
    """
    cores = os.cpu_count() or 1
    return min(cores, 16) if cores > 2 or torch.cuda.is_available() else 0


def fitting_workers(wanted: int, batch_bytes: int, ranks: int = 1) -> int:
    """Return how many workers have room for their batches in shared memory; the results do not depend on it.

    Args:
        wanted: number of workers if there is room.
        batch_bytes: size of a batch.
        ranks: processes on this machine that load photos.
    """
    if wanted == 0 or not SHARED_MEMORY.is_dir():
        return wanted
    room = shutil.disk_usage(SHARED_MEMORY).free
    fitting = min(wanted, room // (BATCHES_PER_WORKER * LOADERS * batch_bytes * ranks))
    if fitting < wanted:
        log.info(
            "%s has %.0f MB: %d workers decode photos instead of data.num_workers=%d (docker run --shm-size=2g)",
            *(SHARED_MEMORY, room / 1e6, fitting, wanted),
        )
    return fitting


class LazyDataLoader(DataLoader[Batch]):
    """A DataLoader that starts loading when the first batch is requested.

    Lightning creates the first iterator of a `fit` before it sets the sampler's epoch. Workers that started immediately
    would use the wrong epoch for the first batches, in a resumed run or after the LR finder.
    """

    def __iter__(self) -> Any:
        """Iterate over the batches of the epoch that is set when the first batch is requested."""
        try:
            with signals_blocked():
                batches = super().__iter__()
            yield from batches
        except UserError as error:
            # An error from a worker has its traceback in the message.
            raise UserError(str(error).rpartition("UserError: ")[2].strip()) from None


def photo_loader(
    dataset: PhotoDataset, batches: SharedBatchSampler, num_workers: int, size: int, persistent: bool = True
) -> DataLoader[Batch]:
    """Load batches of photos.

    Args:
        dataset: dataset of single photos.
        batches: sampler from `DogsCatsDataModule.batch_sampler`.
        num_workers: number of worker processes, if there is room for their batches.
        size: side of the square images, in pixels.
        persistent: whether to keep the workers between epochs.
    """
    ranks = batches.num_replicas
    workers = fitting_workers(num_workers, batches.batch_size * 3 * size**2 // ranks, ranks)
    return LazyDataLoader(
        PhotoBatches(dataset),
        sampler=batches,
        batch_size=None,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=persistent and workers > 0,
        timeout=TIMEOUT if workers else 0,
        worker_init_fn=handle_signals_in_worker,
        # A DataLoader draws a seed every epoch, even if unused. Its own generator leaves the global one alone.
        generator=torch.Generator().manual_seed(dataset.seed),
    )


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
