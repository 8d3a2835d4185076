"""Ranks of a distributed run, by Lightning Fabric."""

import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning_fabric import Fabric
from lightning_fabric.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig

from dogscats.base.activity import Activity
from dogscats.base.errors import Failure, UserError, as_user_error, user_message
from dogscats.base.signals import Interrupt, Interrupted
from dogscats.runs.trainer_settings import own_environment

SECONDS_TO_STOP = 4
"""Seconds that this process has to stop after the death of a rank; it may wait in a call that cannot be interrupted."""

MOST_SECONDS_TO_STOP = 20
"""The same for a process that works, slowly."""

CONNECTION_LOST = "Connection (closed|reset)|[Bb]roken pipe|failed to recv|Socket|NCCL"
"""Pattern of PyTorch's errors after the process of another rank has ended."""


@contextmanager
def distributed(trainer: DictConfig) -> Iterator[Fabric]:
    """Prepare the ranks configured by `trainer`; `Fabric.launch` starts them, once for all Trainers.

    With `strategy=ddp` the script is started again for each further device, unless torchrun or Slurm has done so. All
    ranks run the whole script; only rank 0 logs. If it fails, it kills the ranks it started.

    Args:
        trainer: Trainer arguments: accelerator, devices, num_nodes and strategy.

    Raises:
        UserError: for hardware this machine does not have, or several ranks within a multirun.
    """
    if any(word in str(trainer.strategy) for word in ("spawn", "fork", "notebook")):
        raise UserError(f"trainer.strategy={trainer.strategy}: ranks run the whole script here; use trainer=ddp.")
    chosen = {key: trainer[key] for key in ("accelerator", "devices", "num_nodes", "strategy")}
    named = ", ".join(f"{key}={value}" for key, value in chosen.items())
    with as_user_error("trainer", raises=lambda message: UserError(f"{message} (trainer has {named})")):
        fabric = Fabric(**chosen, plugins=[*own_environment(chosen)])
    environment = getattr(fabric.strategy, "cluster_environment", None)
    starts_others = fabric.world_size > 1 and not getattr(environment, "creates_processes_externally", False)
    if starts_others and HydraConfig.get().mode is RunMode.MULTIRUN:
        raise UserError(
            f"trainer.devices={trainer.devices}: a multirun (-m) cannot start several ranks per job, since each "
            "would run the whole multirun again. Run one job at a time, without -m, or use a cluster with "
            "hydra/launcher=slurm."
        )
    if fabric.world_size == 1:
        # Else Lightning and its loggers would believe a rank that the platform has set.
        rank_zero_only.rank = 0  # type: ignore[attr-defined]
    if not fabric.is_global_zero:
        _be_silent()
    watch = Watch(getattr(fabric.strategy.launcher, "procs", []))
    try:
        watch.start()
        yield fabric
    except BaseException as error:
        # A user error is raised by all ranks: those that have ended before this one are not the reason.
        lost = None if isinstance(error, UserError) else watch.lost(error)
        for process in watch.processes:
            process.kill()
        if not fabric.is_global_zero and (user_message(error) or re.search(CONNECTION_LOST, str(error))):
            raise SystemExit(1) from error  # rank 0 prints the message
        if lost:
            raise Failure(lost) from error
        raise
    finally:
        watch.stopped.set()
        if not fabric.is_global_zero:
            with suppress(OSError):  # rank 0's, if they share one
                Path(HydraConfig.get().runtime.output_dir).rmdir()


class Watch(threading.Thread):
    """Watches the ranks that this process started, and interrupts it if one of them dies.

    Without it, this process would wait for a dead rank, or Lightning would kill it without a message.

    Args:
        processes: processes of the ranks from 1 on; filled when they are started.
    """

    def __init__(self, processes: list[subprocess.Popen[bytes]]):
        super().__init__(daemon=True)
        self.processes, self.stopped, self.interrupted = processes, threading.Event(), False

    def run(self) -> None:
        """Look for dead ranks until stopped. A process that waits for one, and cannot be interrupted, is ended."""
        while not self.stopped.wait(0.5):
            for thread in threading.enumerate():
                if thread.name == "child-process-observer":  # Lightning's, which kills this process without a message
                    thread._child_processes = []  # type: ignore[attr-defined]
            if any(process.poll() for process in self.processes):
                self.interrupted = Interrupt.pending is None  # otherwise this signal is ignored, as the second one
                os.kill(os.getpid(), signal.SIGTERM)
                activity, until = Activity.of_thread(threading.main_thread()), time.monotonic() + MOST_SECONDS_TO_STOP
                while not self.stopped.wait(SECONDS_TO_STOP):
                    if not activity.worked() or time.monotonic() > until:
                        self._end()
                return

    def _end(self) -> None:
        for process in self.processes:
            process.kill()
        codes = [process.poll() or 0 for process in self.processes]
        signalled = next(
            (abs(code) % 128 for code in codes if abs(code) % 128 in (signal.SIGINT, signal.SIGTERM)), None
        )
        if Interrupt.farewell is not None:
            Interrupt.farewell()
        if signalled is None:
            print(f"error: {self.lost(RuntimeError())}", file=sys.stderr, flush=True)
        os._exit(1 if signalled is None else 128 + signalled)

    def lost(self, error: BaseException) -> str | None:
        """Say which rank died, if that is why `error` was raised."""
        if isinstance(error, Interrupted) and not self.interrupted:
            return None
        waiting = time.monotonic() + (2 if re.search(CONNECTION_LOST, str(error)) else 0)
        while not any(process.poll() for process in self.processes) and time.monotonic() < waiting:
            time.sleep(0.05)
        for rank, process in enumerate(self.processes, 1):
            code = process.poll()
            if code and code not in (-signal.SIGINT, -signal.SIGTERM, 128 + signal.SIGINT, 128 + signal.SIGTERM):
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
                hint = ", perhaps for lack of memory" if code == -signal.SIGKILL else ""
                return f"The process of rank {rank} {how}{hint}."
        return None


def _be_silent() -> None:
    """Disable logging."""
    logging.disable(logging.CRITICAL)
