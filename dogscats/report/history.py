"""Metrics of each epoch, on the console and in `history.csv`."""

import logging
import time
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from dogscats.base.files import write_stage_rows
from dogscats.lesson.classifier import Classifier
from dogscats.lesson.metrics import epoch_columns

log = logging.getLogger(__name__)


def column_heading(name: str) -> str:
    """Return the heading of a metric on the console; a long one without its prefix."""
    return name.removeprefix("valid_") if len(name) > 11 else name


class History(Callback):
    """Prints losses and metrics of each epoch, and writes them to `history.csv` in the run directory.

    Columns: stage, epoch, train_loss, valid_loss, valid_acc, valid_balanced_acc, valid_macro_f1, further metrics of
    `dogscats.lesson.metrics.METRICS`, then those that other callbacks log, and seconds. Missing values are empty; for
    example, an epoch without validation has no `valid_loss`.

    Attributes:
        seconds_before: seconds spent on epochs before the stage was resumed.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.seconds_before = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the header."""
        self.started, self.validated = time.perf_counter(), False  # an epoch that is resumed at its end does not start
        log.info("epoch  %s    seconds", "  ".join(map(column_heading, epoch_columns())))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self.started, self.validated = time.perf_counter(), False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Mark the validation metrics as current; Lightning keeps those of earlier epochs."""
        self.validated = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print and write the row of the epoch."""
        logged = {
            name: value.item()
            for name, value in trainer.callback_metrics.items()
            if name.startswith("train_") or (name.startswith("valid_") and self.validated)
        }
        columns = epoch_columns()
        metrics = {name: logged[name] for name in dict.fromkeys([*columns, *logged]) if name in logged}
        seconds = round(time.perf_counter() - self.started, 3)
        cells = [
            (f"{metrics[name]:.5f}" if name in metrics else "-").rjust(len(column_heading(name))) for name in columns
        ]
        others = "".join(f"  {name} {value:.5f}" for name, value in metrics.items() if name not in columns)
        log.info("%5d  %s  %9.1f%s", trainer.current_epoch, "  ".join(cells), seconds, others)
        ordered = dict.fromkeys(columns, "") | metrics
        self.rows.append({"epoch": trainer.current_epoch, **ordered, "seconds": seconds})
        assert isinstance(pl_module, Classifier)
        write_stage_rows(Path(trainer.default_root_dir) / "history.csv", pl_module.stage, self.rows)

    def metrics(self, epoch: int | str | None = None) -> dict[str, float]:
        """Losses and metrics of an epoch, by default of the last; empty if there was none."""
        rows = self.rows if epoch is None else [row for row in self.rows if row["epoch"] == epoch]
        row = rows[-1] if rows else {}
        return {k: v for k, v in row.items() if k not in ("epoch", "seconds") and v != ""}

    def state_dict(self) -> dict[str, Any]:
        """Return the rows, for a checkpoint."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the rows from a checkpoint, so that the file has no duplicate epochs."""
        self.rows = state_dict["rows"]
        self.seconds_before = sum(row["seconds"] for row in self.rows)
