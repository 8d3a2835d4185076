"""Worker processes that decode photos, and the shared memory through which their batches come."""

import atexit
import logging
import os
import shutil
import signal
from pathlib import Path

import torch

# When the process exits, it ends workers that are still there. PyTorch's handler would take that for a failure.
atexit.register(signal.signal, signal.SIGCHLD, signal.SIG_DFL)

log = logging.getLogger(__name__)

SHARED_MEMORY = Path("/dev/shm")
"""Where batches of worker processes are on Linux. Docker gives a container 64 MB, unless told otherwise."""

BATCHES = 3
"""Batches of a worker at once: two prefetched, DataLoader's default, and one in use."""

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
    fitting = min(wanted, room // (BATCHES * LOADERS * batch_bytes * ranks))
    if fitting < wanted:
        log.info(
            "%s has %.0f MB: %d workers decode photos instead of data.num_workers=%d (docker run --shm-size=2g)",
            *(SHARED_MEMORY, room / 1e6, fitting, wanted),
        )
    return fitting
