"""Callbacks for learning rates: `LRSchedule` applies any schedule, `SGDR` the lesson's; `LRTrace` records the rates."""

import math
from functools import partial
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from dogscats.base.errors import ArgumentError, as_user_error
from dogscats.base.files import write_stage_rows
from dogscats.base.rules import SWITCH, check_values, one_of, whole
from dogscats.lesson.classifier import Classifier
from dogscats.lesson.schedules import MOMENTA, SCHEDULES, Position


class LRSchedule(Callback):
    """Sets the learning rate of each layer group before every optimizer step, with constant ratios.

    Example:
        >>> Trainer(max_epochs=3, callbacks=[LRSchedule("one_cycle")]).fit(classifier, data)

    Args:
        schedule: name of a schedule in `dogscats.lesson.schedules`.
        options: keyword arguments of the schedule.

    Raises:
        ArgumentError: for an unknown schedule or bad options.
    """

    def __init__(self, schedule: str, **options: Any):
        wrong = partial(ArgumentError, "callbacks")
        check_values({"schedule": one_of(*SCHEDULES)}, {"schedule": schedule}, raises=wrong)
        with as_user_error(f"schedule={schedule}", errors=(TypeError, ArithmeticError), raises=wrong):
            SCHEDULES[schedule](Position(1, 4, 8), **options)
        self.schedule, self.options = schedule, options

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set each group's rate to its peak rate times the factor of the current step."""
        assert isinstance(pl_module, Classifier)
        position = step_position(trainer, batch_idx)
        factor = SCHEDULES[self.schedule](position, **self.options)
        for group, rate in zip(trainer.optimizers[0].param_groups, pl_module.lrs, strict=True):
            group["lr"] = factor * rate
            if self.schedule in MOMENTA:
                momentum = MOMENTA[self.schedule](position, **self.options)
                if "betas" in group:  # AdamW
                    group["betas"] = (momentum, group["betas"][1])
                else:
                    group["momentum"] = momentum


class SGDR(LRSchedule):
    """Cosine annealing with warm restarts; see `dogscats.lesson.schedules.sgdr`.

    Example:
        >>> Trainer(max_epochs=7, callbacks=[SGDR(cycle_len=1, cycle_mult=2)]).fit(classifier, data)  # 1 + 2 + 4 epochs

    Args:
        cycle_len: length of the first cycle, in epochs.
        cycle_mult: length of each cycle relative to the previous one.
        fastai_start: whether to hold `lr / 100` for the first twentieth of the first cycle, as fastai 0.7 does.

    Raises:
        ArgumentError: for a bad value.
    """

    def __init__(self, cycle_len: int = 1, cycle_mult: int = 1, fastai_start: bool = False):
        options = {"cycle_len": cycle_len, "cycle_mult": cycle_mult, "fastai_start": fastai_start}
        rules = {"cycle_len": whole(1), "cycle_mult": whole(1), "fastai_start": SWITCH}
        check_values(rules, options, raises=partial(ArgumentError, "callbacks.sgdr"))
        super().__init__("sgdr", **options)


class LRTrace(Callback):
    """Records the learning rate of each layer group at every optimizer step.

    Example:
        >>> Trainer(max_epochs=1, callbacks=[LRTrace()], default_root_dir="mine").fit(classifier, data)
        >>> Path("mine/lr_trace.csv").read_text()

    `lr_trace.csv` in the run directory has one row per step: stage, step, and the rates of early, late and head. It is
    written every epoch. Loggers get the rates as `lr-SGD/<group>`, with AdamW too. Lightning's LearningRateMonitor
    records only steps at which the Trainer logs; logging every step would also log the loss, which synchronizes a GPU.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Record the learning rates of this step."""
        step = trainer.global_step
        rates = {str(group["name"]): group["lr"] for group in optimizer.param_groups}
        self.rows.append({"step": step, **rates})
        for logger in trainer.loggers:
            logger.log_metrics({f"lr-SGD/{group}": rate for group, rate in rates.items()}, step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the rows so far to `lr_trace.csv`."""
        assert isinstance(pl_module, Classifier)
        write_stage_rows(Path(trainer.default_root_dir) / "lr_trace.csv", pl_module.stage, self.rows)

    def state_dict(self) -> dict[str, Any]:
        """Return the rows, for a checkpoint."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the rows from a checkpoint, so that the file has no duplicate steps."""
        self.rows = state_dict["rows"]


def step_position(trainer: Trainer, batch_idx: int) -> Position:
    """Return the position of the optimizer step that batch `batch_idx` of the current epoch belongs to.

    Positions count optimizer steps, not batches: with `accumulate_grad_batches` a step takes several batches, and the
    last step of an epoch may take fewer.
    """
    batches, accumulated = int(trainer.num_training_batches), trainer.accumulate_grad_batches
    steps, total = -(-batches // accumulated), trainer.estimated_stepping_batches
    return Position(
        step=trainer.current_epoch * steps + batch_idx // accumulated,
        steps_per_epoch=steps,
        total_steps=int(total) if math.isfinite(total) else 0,
    )
