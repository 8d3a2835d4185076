"""Worker processes that decode photos: how many, and what happens if they die, hang or cannot send."""

import atexit
import logging
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Listener
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import torch
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader

from dogscats.base.activity import TASKS, Activity
from dogscats.base.errors import Failure, UserError, as_user_error, first_line
from dogscats.base.signals import do_nothing, handle_signals_in_worker, signals_blocked
from dogscats.base.text import counted
from dogscats.data.loading.dataset import Batch

# When the process exits, it ends workers that are still there. PyTorch's handler would take that for a failure.
atexit.register(signal.signal, signal.SIGCHLD, do_nothing)

log = logging.getLogger(__name__)

SHARED_MEMORY = Path("/dev/shm")
"""Folder for batches of worker processes on Linux. Docker gives a container 64 MB by default."""

BATCHES_PER_WORKER = 3
"""Batches in memory at once: two prefetched, DataLoader's default, and one in use."""

LOADERS = 2
"""Loaders at once: training and validation."""

SECONDS_BETWEEN_LOOKS = 5
"""Seconds after which workers are looked at, again and again."""

MOST_IDLE = 20
"""Seconds without a batch for which workers may be idle: they wait for something that does not come."""

FEWER_WORKERS = "Set fewer data.num_workers; 0 needs none."

TIMEOUT = 900
"""Seconds without a batch after which loading counts as stuck, although workers seem to work."""


def default_num_workers() -> int:
    """Return one worker per CPU core, at most 16; none on up to 2 cores without a GPU.

    There the network already uses all cores: with ResNet34 on 2 cores without a GPU, workers make a frozen epoch
    8 % slower and test-time augmentation 21 %. Forked workers share the network's memory copy-on-write, so every
    page written later is copied.
    """
    cores = os.cpu_count() or 1
    return min(cores, 16) if cores > 2 or torch.cuda.is_available() else 0


def fitting_workers(wanted: int, batch_bytes: int, ranks: int = 1) -> int:
    """Return how many workers can send their batches; the results do not depend on it.

    Args:
        wanted: number of workers if they can send and there is room in shared memory.
        batch_bytes: size of a batch.
        ranks: processes on this machine that load photos.
    """
    if wanted == 0:
        return 0
    if hasattr(socket, "AF_UNIX"):
        try:
            Listener(family="AF_UNIX").close()  # as workers open one, in TMPDIR
        except OSError as error:
            log.warning(
                "Warning   photos are decoded without workers, which cannot open sockets in TMPDIR (%s); set another, "
                "such as TMPDIR=/tmp",
                first_line(error),
            )
            return 0
    if not SHARED_MEMORY.is_dir():
        return wanted
    room = shutil.disk_usage(SHARED_MEMORY).free
    fitting = min(wanted, room // (BATCHES_PER_WORKER * LOADERS * batch_bytes * ranks))
    if fitting < wanted:
        log.info(
            "%s has %.0f MB: %s for photos instead of data.num_workers=%d (docker run --shm-size=2g)",
            *(SHARED_MEMORY, room / 1e6, counted(fitting, "worker"), wanted),
        )
    return fitting


def prepare_worker(worker: int) -> None:
    """Let a worker leave signals to the main process, and report batches that it cannot send."""
    handle_signals_in_worker()
    Queue._on_queue_feeder_error = _send_error  # type: ignore[attr-defined]  # else it prints a traceback, and no more


def _send_error(queue: "Queue[Any]", error: Exception, batch: Any) -> None:
    """Send the error in place of a batch `(index, data)`."""
    if not isinstance(batch, tuple):  # sending has begun
        os._exit(1)
    message = f"Worker processes cannot send photos ({first_line(error)}). {FEWER_WORKERS}"
    failure = UserError(message)
    report = ExceptionWrapper((UserError, failure, None), "in a worker")  # type: ignore[no-untyped-call]
    queue.put((batch[0], report))


class Watch(threading.Thread):
    """Watches workers while a batch is waited for, and kills them if they hang: that ends the wait.

    Nothing else would: the loader may wait for a worker in a call without a time limit.

    Args:
        workers: processes of the workers.

    Attributes:
        since: when the wait began, by `time.monotonic`; `None` between two.
        hung: seconds that the workers had sent nothing for, once they were killed; else `None`.
    """

    def __init__(self, workers: Sequence[Any]):
        super().__init__(daemon=True)
        self.workers, self.stopped = workers, threading.Event()
        self.since: float | None = None
        self.hung: float | None = None

    def run(self) -> None:
        """Look at the workers until stopped."""
        activity, worked = Activity.of_processes(worker.pid for worker in self.workers), time.monotonic()
        while not self.stopped.wait(SECONDS_BETWEEN_LOOKS):
            now, since = time.monotonic(), self.since
            if activity.worked() or not TASKS.is_dir():  # it may be another system
                worked = now
            if since is not None and (now - max(worked, since) >= MOST_IDLE or now - since > TIMEOUT):
                self.hung = now - since
                for worker in self.workers:
                    worker.kill()
                return


class WorkerLoader(DataLoader[Batch]):
    """A DataLoader that starts loading when the first batch is requested, and watches its workers.

    Lightning creates the first iterator of a `fit` before it sets the sampler's epoch. Workers that started immediately
    would use the wrong epoch for the first batches, in a resumed run or after the LR finder.
    """

    def __iter__(self) -> Any:
        """Iterate over the batches of the epoch that is set when the first batch is requested.

        Raises:
            UserError: for what a worker reports.
            Failure: if workers cannot be started or reached, or hang.
        """
        what = f"data.num_workers={self.num_workers}"
        with as_user_error(what, "they cannot be started", FEWER_WORKERS, OSError, Failure), signals_blocked():
            batches = super().__iter__()
        yield from self._watched(batches) if self.num_workers else batches

    def _watched(self, batches: Any) -> Iterator[Batch]:
        """Yield batches, each as soon as it comes, unless the workers hang."""
        watch = Watch(batches._workers)
        watch.start()
        try:
            while True:
                watch.since = watch.since or time.monotonic()
                try:
                    batch = next(batches)
                except StopIteration:
                    return
                except UserError as error:  # from a worker, with its traceback in the message
                    kind = type(error)
                    raise kind(str(error).rpartition(f"{kind.__name__}: ")[2].strip()) from None
                except (RuntimeError, OSError, EOFError) as error:
                    if watch.hung:
                        what = "The worker processes that decode photos hang: they sent nothing for"
                        raise Failure(f"{what} {watch.hung:.0f} seconds. {FEWER_WORKERS}") from error
                    if "timed out after" in str(error):  # none has died
                        continue
                    if str(error).startswith("Caught") or not isinstance(error, OSError | EOFError):
                        raise  # what a worker raised, or its death
                    reason = first_line(error)
                    raise Failure(f"Photos of worker processes do not arrive ({reason}). {FEWER_WORKERS}") from error
                watch.since = None
                yield batch
        finally:
            watch.stopped.set()
