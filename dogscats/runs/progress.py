"""Progress of a run: its finished stages, and the training state of an interrupted one."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import Timeout
from lightning_fabric import Fabric
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from dogscats.base.errors import UserError
from dogscats.base.files import read_json
from dogscats.base.locks import locked
from dogscats.lesson.stage import Stage
from dogscats.runs.checkpoint import read_checkpoint

log = logging.getLogger(__name__)


@contextmanager
def run_lock(run_dir: Path, fabric: Fabric) -> Iterator[None]:
    """Let one process at a time, with its ranks, work on a run.

    Raises:
        UserError: if another process works on it.
    """
    if not fabric.is_global_zero:
        yield
        return
    try:
        # Workers of a process that was killed may hold the lock for a few seconds more.
        with locked(run_dir / ".lock", str(run_dir), timeout=10):
            yield
    except Timeout as error:
        raise UserError(
            f"{run_dir}: another process is working on this run. Wait until it ends, or stop it."
        ) from error


class ResumeCheckpoint(ModelCheckpoint):
    """Saves the training state after every epoch except the last, to resume an interrupted stage.

    After the last epoch the stage's own checkpoint is written at once. If the run is killed before that, the last epoch
    is repeated, including what callbacks do at the end of training.

    Args:
        file: checkpoint file.
    """

    def __init__(self, file: Path):
        super().__init__(file.parent, file.stem, save_on_train_epoch_end=True, enable_version_counter=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, unless this is the last epoch."""
        if not trainer.fit_loop.done:
            super().on_train_epoch_end(trainer, pl_module)


@dataclass
class RunProgress:
    """Progress of a run.

    Attributes:
        metrics: content of its `metrics.json`; empty if no stage is finished.
        stages: names of the stages to skip.
        checkpoint: checkpoint after the last skipped stage; `None` to start from the beginning.
    """

    metrics: dict[str, Any] = field(default_factory=dict)
    stages: Sequence[str] = ()
    checkpoint: Path | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return bool(self.metrics.get("final"))


def read_progress(run_dir: Path, stages: Sequence[Stage]) -> RunProgress:
    """Find the newest intact state of a run.

    A stage is finished once its metrics are in `metrics.json`. If its checkpoint is damaged, the newest intact one
    before it is used, and later stages are repeated.
    """
    file = run_dir / "metrics.json"
    metrics = read_json(file)
    if not isinstance(metrics, dict) or "stages" not in metrics:  # a failed job of a sweep has an error alone
        return RunProgress()
    if not _is_progress(metrics):
        raise UserError(f"{file}: it is not the metrics.json of a run. Remove it to repeat the stages, or restore it.")
    finished = [stage for stage in stages if stage.name in metrics["stages"]]
    for number in range(len(finished), 0, -1):
        stage = finished[number - 1]
        for name in ("last", *([stage.save] if stage.save else [])):
            saved = run_dir / "checkpoints" / f"{name}.ckpt"
            checkpoint = read_whole(saved)
            if checkpoint is not None and checkpoint.get("stage") == stage.name:
                return RunProgress(metrics, [stage.name for stage in finished[:number]], saved)
    return RunProgress(metrics)


def _is_progress(metrics: Mapping[str, Any]) -> bool:
    """Check the types of what is used of a `metrics.json`."""
    stages, final, found = metrics["stages"], metrics.get("final", {}), metrics.get("lr_finder")
    rows = isinstance(stages, dict) and all(isinstance(row, dict) and "seconds" in row for row in stages.values())
    return (
        rows and isinstance(final, dict) and isinstance(found, dict) and isinstance(metrics.get("seconds"), int | float)
    )


def read_whole(file: Path) -> dict[str, Any] | None:
    """Read a checkpoint; `None` if it does not exist, and `None` with a warning if it is damaged."""
    if not file.exists():
        return None
    try:
        return read_checkpoint(file)
    except UserError as error:
        log.warning("%s Resuming from an earlier one.", error)
        return None
