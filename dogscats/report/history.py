"""Metrics of each epoch: on the console and in `history.csv`."""

import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from dogscats.base.files import write_stage_rows
from dogscats.base.text import percent
from dogscats.lesson.classifier import Classifier
from dogscats.lesson.metrics import METRICS, loss_text

log = logging.getLogger(__name__)

TRAINING_LOSSES = ("train_loss", "loo_loss")
"""Names of the loss of the training photos: of an epoch, and by leave-one-out, of a fit in closed form."""


def epoch_columns(training: Sequence[str]) -> list[str]:
    """Names of the losses and metrics of an epoch, in order, with these losses of the training photos."""
    return [*training, "valid_loss", *(f"valid_{metric.key}" for metric in METRICS if metric.computed == "epoch")]


def epoch_text(name: str, value: float, n: int) -> str:
    """Return a loss or metric of an epoch, as `epoch_columns` name it, as text; see `Metric.text`."""
    shares = [f"valid_{metric.key}" for metric in METRICS if metric.share]
    return percent(value, n) if name in shares else loss_text(value, n)


def epoch_headings(named: Iterable[Collection[str]]) -> dict[str, str]:
    """Return the headings of losses and metrics on the console, by name; a long one without its prefix.

    Args:
        named: what there is in each epoch or stage.
    """
    training = [loss for loss in TRAINING_LOSSES if any(loss in names for names in named)] or TRAINING_LOSSES[:1]
    return {name: name.removeprefix("valid_") if len(name) > 11 else name for name in epoch_columns(training)}


class History(Callback):
    """Prints losses and metrics of each epoch, and writes them to `history.csv` in the run directory.

    Example:
        >>> Trainer(max_epochs=1, callbacks=[History()], default_root_dir="mine").fit(classifier, data)
        >>> Path("mine/history.csv").read_text()

    Columns: stage, epoch, train_loss, valid_loss, valid_acc, valid_balanced_acc, valid_macro_f1, further metrics of
    `dogscats.lesson.metrics.METRICS`, then those that other callbacks log, and seconds. Missing values are empty; for
    example, an epoch without validation has no `valid_loss`.

    Attributes:
        seconds_before: seconds spent on epochs before the stage was resumed.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.seconds_before, self.photos = 0.0, 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the header."""
        self.started, self.validated = time.perf_counter(), False  # an epoch that is resumed at its end does not start
        self.photos = 0
        self.log_header()

    @staticmethod
    def log_header(names: Collection[str] = ()) -> None:
        """Print the header of rows with these losses and metrics."""
        log.info("epoch  %s    seconds", "  ".join(epoch_headings([names]).values()))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self.started, self.validated = time.perf_counter(), False

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start to count the validation photos."""
        self.photos = 0

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Count the validation photos, of all ranks."""
        self.photos += len(batch[1]) * trainer.world_size

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
        assert isinstance(pl_module, Classifier)
        run_dir, seconds = Path(trainer.default_root_dir), time.perf_counter() - self.started
        self.add(run_dir, pl_module.stage, trainer.current_epoch, logged, round(seconds, 3))

    def add(self, run_dir: Path, stage: str, epoch: int, logged: Mapping[str, float], seconds: float) -> None:
        """Print and write a row.

        Args:
            run_dir: run directory.
            stage: name of the stage.
            epoch: number of the epoch.
            logged: losses and metrics by name.
            seconds: time that it took.
        """
        headings = epoch_headings([logged])
        cells = [
            (epoch_text(name, logged[name], self.photos) if name in logged else "-").rjust(len(heading))
            for name, heading in headings.items()
        ]
        others = "".join(f"  {name} {value:.5g}" for name, value in logged.items() if name not in headings)
        log.info("%5d  %s  %9.1f%s", epoch, "  ".join(cells), seconds, others)
        metrics = dict.fromkeys(headings, "") | dict(logged)
        self.rows.append({"epoch": epoch, **metrics, "seconds": seconds})
        write_stage_rows(run_dir / "history.csv", stage, self.rows)

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
