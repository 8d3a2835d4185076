"""Learning rates of every optimizer step, in `lr_trace.csv`."""

from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from dogscats.lesson.classifier import Classifier
from dogscats.lesson.stage import GROUPS
from dogscats.lesson.stage_table import StageTable, named


class LRTrace(Callback):
    """Records the learning rate of each layer group at every optimizer step.

    `lr_trace.csv` in the run directory has one row per step: stage, step, and the rates of early, late and head. It is
    written every epoch. Loggers get them as `lr-SGD/<group>`. Lightning's LearningRateMonitor records only steps at
    which the Trainer logs; logging at every step would also log the loss, which synchronises a GPU.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the table."""
        assert isinstance(pl_module, Classifier)
        self.table = StageTable(Path(trainer.default_root_dir) / "lr_trace.csv", pl_module.stage)
        self.table.rows = self.rows

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Record the learning rates of this step."""
        step = trainer.global_step
        rates = {str(group["name"]): group["lr"] for group in optimizer.param_groups}
        self.rows.append({"step": step, **rates})
        for logger in trainer.loggers:
            logger.log_metrics({f"lr-SGD/{group}": rate for group, rate in rates.items()}, step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file."""
        self.table.write()

    def state_dict(self) -> dict[str, Any]:
        """Return the rows, for a checkpoint."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the rows from a checkpoint, so that the file has no duplicate steps."""
        self.rows = named(state_dict["rows"], ["step", *GROUPS])
