"""Several processes that train together, by Lightning Fabric."""

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

from dogscats.errors import UserError, user_message


@contextmanager
def distributed(trainer: DictConfig) -> Iterator[Fabric]:
    """Prepare the processes that `trainer` asks for; `Fabric.launch` starts them, once for all Trainers.

    With `strategy=ddp` the script is run again for each further device, unless torchrun or Slurm has done so.
    All processes then run the whole script; only the first speaks. If it fails, it ends the others that it
    started.

    Args:
        trainer: arguments of Lightning's Trainer: accelerator, devices, num_nodes and strategy.

    Raises:
        UserError: for what this machine does not have, and for several processes within a multirun.
    """
    try:
        fabric = Fabric(
            accelerator=trainer.accelerator,
            devices=trainer.devices,
            num_nodes=trainer.num_nodes,
            strategy=trainer.strategy,
        )
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise UserError(f"trainer: {error}") from error
    environment = getattr(fabric.strategy, "cluster_environment", None)
    starts_others = fabric.world_size > 1 and not getattr(environment, "creates_processes_externally", False)
    if starts_others and HydraConfig.get().mode is RunMode.MULTIRUN:
        raise UserError(
            f"trainer.devices={trainer.devices}: a multirun (-m) cannot start several processes a job, since "
            "each would run the whole multirun again. Run one job at a time, without -m, or the jobs on a "
            "cluster with hydra/launcher=slurm."
        )
    if not fabric.is_global_zero:
        _be_silent()
    try:
        yield fabric
    except BaseException as error:
        for process in getattr(fabric.strategy.launcher, "procs", []):
            process.kill()
        if not fabric.is_global_zero and user_message(error):
            raise SystemExit(1) from error  # the first process says what is wrong
        raise


def _be_silent() -> None:
    """Log nothing, and remove the log file, and the run directory under torchrun, that Hydra has made."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.close()
            Path(handler.baseFilename).unlink(missing_ok=True)
    logging.disable(logging.CRITICAL)
    hydra = HydraConfig.get()
    if hydra.output_subdir is not None:  # Lightning's own processes share the first one's directory
        shutil.rmtree(hydra.runtime.output_dir, ignore_errors=True)
