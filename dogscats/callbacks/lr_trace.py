"""Every learning rate that was used, kept in `lr_trace.csv`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from pytorch_lightning import Callback, LightningModule, Trainer

from dogscats.plots import new_figure
from dogscats.stage import GROUPS, Stage
from dogscats.stage_table import StageTable


def draw_lr_schedule(rows: Sequence[dict[str, str]], stages: Sequence[Stage]) -> Figure:
    """Draw the lesson's plot, learning rate against iteration, for each stage beside the other.

    Args:
        rows: of `lr_trace.csv`.
        stages: whose rates to draw.
    """
    figure = new_figure(1 + 3.6 * len(stages), 3.6)
    panels = figure.subplots(1, len(stages), squeeze=False, sharey=True)[0]
    for axes, stage in zip(panels, stages, strict=True):
        axes.plot([float(row["head"]) for row in rows if row["stage"] == stage.name])
        title = stage.name
        if stage.freeze_to < 2:
            ratios = [f"{group} x{ratio:g}" for group, ratio in zip(GROUPS, stage.lr_ratios, strict=True)]
            title += f"\n({', '.join(ratios[stage.freeze_to : -1])})"
        axes.set(title=title, xlabel="iteration", ylim=(0, None))
    panels[0].set_ylabel("learning rate of the head")
    return figure


class LRTrace(Callback):
    """Records the learning rate of each layer group at every step.

    TensorBoard shows them as `lr-SGD/<group>`. Lightning's LearningRateMonitor records only the steps at
    which the Trainer logs, and logging the loss at every step would make a GPU wait at every step.

    Args:
        path: the file; each row is stage, step and the rates of early, late and head. Written every epoch.
        stage: name of the stage.
    """

    def __init__(self, path: Path, stage: str):
        self.table = StageTable(path, stage, ["step", *GROUPS])

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Record the rates that this step is about to use."""
        rates = {str(group["name"]): group["lr"] for group in trainer.optimizers[0].param_groups}
        self.table.rows.append([trainer.global_step, *(rates[group] for group in GROUPS)])
        for logger in trainer.loggers:
            logger.log_metrics({f"lr-SGD/{g}": rate for g, rate in rates.items()}, trainer.global_step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file."""
        self.table.write()

    def state_dict(self) -> dict[str, Any]:
        """Give the rows to a checkpoint."""
        return {"rows": self.table.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the rows from a checkpoint: the file then has no step twice."""
        self.table.rows = state_dict["rows"]
