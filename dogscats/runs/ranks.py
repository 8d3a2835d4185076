"""Ranks of a distributed run, by Lightning Fabric."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig

from dogscats.runs.errors import UserError, user_message


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
    try:
        fabric = Fabric(
            accelerator=trainer.accelerator,
            devices=trainer.devices,
            num_nodes=trainer.num_nodes,
            strategy=trainer.strategy,
        )
    except (MisconfigurationException, ValueError, TypeError, RuntimeError, ImportError) as error:
        raise UserError(f"trainer: {error}") from error
    environment = getattr(fabric.strategy, "cluster_environment", None)
    starts_others = fabric.world_size > 1 and not getattr(environment, "creates_processes_externally", False)
    if starts_others and HydraConfig.get().mode is RunMode.MULTIRUN:
        raise UserError(
            f"trainer.devices={trainer.devices}: a multirun (-m) cannot start several processes a job, since each "
            "would run the whole multirun again. Run one job at a time, without -m, or use a cluster with "
            "hydra/launcher=slurm."
        )
    if not fabric.is_global_zero:
        _be_silent()
    try:
        yield fabric
    except BaseException as error:
        for process in getattr(fabric.strategy.launcher, "procs", []):
            process.kill()
        if not fabric.is_global_zero and user_message(error):
            raise SystemExit(1) from error  # rank 0 prints the message
        raise


def _be_silent() -> None:
    """Disable logging, and remove Hydra's log file and, under torchrun, its run directory."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.close()
            Path(handler.baseFilename).unlink(missing_ok=True)
    logging.disable(logging.CRITICAL)
    hydra = HydraConfig.get()
    if hydra.output_subdir is not None:  # ranks started by Lightning share rank 0's directory
        shutil.rmtree(hydra.runtime.output_dir, ignore_errors=True)
