"""The lines that the lesson prints as it trains, kept in `history.csv`."""

import logging
import time
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from dogscats.stage_table import StageTable

log = logging.getLogger(__name__)

FIGURES = ("train_loss", "valid_loss", "valid_acc")


class History(Callback):
    """Prints losses and accuracy of every epoch, and writes them to `history.csv`.

    Args:
        path: the file; each row is stage, epoch, train_loss, valid_loss, valid_acc and seconds.
        stage: name of the stage.

    Attributes:
        seconds_before: that the epochs took which were trained before the stage was resumed.
    """

    def __init__(self, path: Path, stage: str):
        self.table = StageTable(path, stage, ["epoch", *FIGURES, "seconds"])
        self.seconds_before = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the headings."""
        log.info("%5s %11s %11s %11s %9s", "epoch", "train_loss", "valid_loss", "valid_acc", "seconds")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print and write the epoch's row."""
        values = [trainer.callback_metrics[name].item() for name in FIGURES]
        seconds = time.perf_counter() - self.started
        log.info("%5d %11.5f %11.5f %11.5f %9.1f", trainer.current_epoch, *values, seconds)
        self.table.rows.append([trainer.current_epoch, *values, round(seconds, 3)])
        self.table.write()

    @property
    def figures(self) -> dict[str, float]:
        """The last epoch's losses and accuracy."""
        return dict(zip(FIGURES, self.table.rows[-1][1:], strict=False))

    def state_dict(self) -> dict[str, Any]:
        """Give the rows to a checkpoint."""
        return {"rows": self.table.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the rows from a checkpoint: the file then has no epoch twice."""
        self.table.rows = state_dict["rows"]
        self.seconds_before = sum(row[-1] for row in self.table.rows)
