"""Learning rate finder."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.seed import isolate_rng
from torch.utils.data import DataLoader

from dogscats.base.console import progress_bar
from dogscats.base.errors import ArgumentError
from dogscats.base.files import read_csv, write_csv
from dogscats.base.rules import check_values, one_of, whole
from dogscats.data.loading.dataset import Batch
from dogscats.lesson.classifier import Classifier

MIN_LR, MAX_LR = 1e-5, 10.0
"""Range of the last layer group's learning rate, as in fastai 0.7."""

STEPS_PRECOMPUTED, STEPS_PHOTOS = 300, 100
"""Number of steps in which the rate rises, on precomputed activations and on photos.

The lesson's epoch had 360 steps. With fewer steps the suggested rate is higher, so short epochs are repeated. On
photos, 100 steps keep the run time short.
"""

SMOOTHING = 0.98
"""Decay of the exponential moving average of the loss, as in fastai 0.7."""

SKIP = 10
"""Number of initial steps left out when the lowest loss is sought, as in fastai 0.7: their average is unreliable."""

MIN_RELATIVE_RISE = 0.05
"""A minimum counts only if the loss is 5 % higher at both ends of the curve; smaller differences may be noise."""

FALLBACK_LR = 1e-2
"""The lesson's learning rate; `lr=find` uses it if the curve has no minimum."""


@dataclass
class LRCurve:
    """Learning rates and losses recorded by the LR finder, per step.

    Attributes:
        lrs: learning rates of the last layer group.
        losses: training losses.
        smoothed: debiased exponential moving average of the losses.
    """

    lrs: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    smoothed: list[float] = field(default_factory=list)

    def add(self, lr: float, loss: float) -> None:
        """Add a step."""
        steps = len(self.losses)
        # Undo the debiasing of the last average.
        average = self.smoothed[-1] * (1 - SMOOTHING**steps) if steps else 0.0
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        self.lrs.append(lr)
        self.losses.append(loss)
        self.smoothed.append(average / (1 - SMOOTHING ** (steps + 1)))

    @property
    def diverged(self) -> bool:
        """Whether the average loss is not finite, or exceeds 4 times its minimum."""
        latest = self.smoothed[-1]
        lowest = min(self.smoothed[SKIP:], default=math.inf)
        return not math.isfinite(latest) or latest > 4 * lowest

    @property
    def suggestion(self) -> float:
        """Suggested learning rate: a tenth of the rate at the lowest average loss, as in the lesson."""
        candidates = [(loss, lr) for loss, lr in zip(self.smoothed, self.lrs, strict=True) if math.isfinite(loss)]
        return min(candidates[SKIP:] or candidates, default=(0.0, 10 * MIN_LR))[1] / 10

    @property
    def has_minimum(self) -> bool:
        """Whether the average loss fell and rose again, by `MIN_RELATIVE_RISE`; otherwise nothing is suggested."""
        losses = [loss if math.isfinite(loss) else math.inf for loss in self.smoothed][SKIP:]
        if len(losses) < 3:
            return False
        lowest = min(losses)
        return losses[0] > (1 + MIN_RELATIVE_RISE) * lowest and losses[-1] > (1 + MIN_RELATIVE_RISE) * lowest

    def write(self, path: Path) -> None:
        """Write a CSV file: iteration, lr, loss, smoothed_loss."""
        rows = zip(range(len(self.lrs)), self.lrs, self.losses, self.smoothed, strict=True)
        write_csv(path, ["iteration", "lr", "loss", "smoothed_loss"], rows)

    @classmethod
    def read(cls, path: Path) -> "LRCurve":
        """Read what `write` wrote."""
        columns = zip(*((row["lr"], row["loss"], row["smoothed_loss"]) for row in read_csv(path)), strict=True)
        return cls(*([float(value) for value in column] for column in columns))

    def log(self, loggers: Sequence[Logger]) -> None:
        """Log the points as scalars."""
        for logger in loggers:
            for step, (lr, loss) in enumerate(zip(self.lrs, self.smoothed, strict=True)):
                logger.log_metrics({"lr_finder/lr": lr, "lr_finder/smoothed_loss": loss}, step)


class LRFinder(Callback):
    """Increases the learning rates exponentially per step, records the loss, and stops on divergence.

    Ratios between layer groups are kept; the last group's rate goes from `MIN_LR` to `MAX_LR` in the Trainer's
    `max_steps`. `find_lr` makes its own, for a separate short fit. A configured one (`callbacks.lr_finder`) only says
    before which stages to do so; it never joins a stage's callbacks.

    Example:
        >>> finder = LRFinder(before="all")  # as callbacks.lr_finder.before=all does

    Args:
        before: stages before which `train.py` runs it: `first`, `all` or `none`.

    Raises:
        ArgumentError: for any other value.
    """

    def __init__(self, before: str = "first"):
        rule = one_of("first", "all", "none")
        check_values({"before": rule}, {"before": before}, raises=partial(ArgumentError, "callbacks.lr_finder"))
        self.before = before
        self.curve = LRCurve()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the progress bar."""
        self.curve = LRCurve()
        self.batch_losses: list[float] = []
        steps = trainer.max_steps
        self.progress = progress_bar(range(steps), "Finding the learning rate", steps, "step")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the learning rates of the current step."""
        assert isinstance(pl_module, Classifier)
        self.step = trainer.global_step
        self.lr = MIN_LR * (MAX_LR / MIN_LR) ** (self.step / max(trainer.max_steps - 1, 1))
        for group, rate in zip(trainer.optimizers[0].param_groups, pl_module.lrs, strict=True):
            group["lr"] = self.lr * rate / pl_module.lrs[-1]

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        """Record the loss of a step: the mean over its batches."""
        assert isinstance(pl_module, Classifier)
        # Lightning has divided the loss by `accumulate_grad_batches`.
        loss = outputs["loss"].detach() * trainer.accumulate_grad_batches / len(pl_module.heads)
        # All ranks must see the same loss, so that they stop at the same step.
        self.batch_losses.append(float(trainer.strategy.reduce(loss, reduce_op="mean")))
        if trainer.global_step == self.step:
            return  # gradients are still accumulating
        self.curve.add(self.lr, sum(self.batch_losses) / len(self.batch_losses))
        self.batch_losses = []
        self.progress.update()
        if self.curve.diverged:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the progress bar."""
        self.progress.close()


def find_lr(
    classifier: Classifier,
    loader: DataLoader[Batch] | LightningDataModule,
    make_trainer: Callable[..., Trainer] = Trainer,
    steps: int = STEPS_PHOTOS,
) -> LRCurve:
    """Run the LR finder on a copy of `classifier`, without changing the state of the run.

    Example:
        >>> curve = find_lr(classifier, data, steps=100)
        >>> curve.suggestion  # a tenth of the rate with the lowest smoothed loss
        >>> curve.lrs, curve.losses  # of each step

    Args:
        classifier: classifier at the start of the stage.
        loader: training batches; repeated as often as needed.
        make_trainer: function that makes a Trainer from the finder's arguments.
        steps: number of optimizer steps in which the learning rate rises; more steps lower the suggestion.

    Returns:
        Learning rates and losses by step, and the suggestion.

    Raises:
        ArgumentError: for a bad number of steps.
    """
    check_values({"steps": whole(1)}, {"steps": steps}, raises=partial(ArgumentError, ""))
    finder = LRFinder()
    unset = dict.fromkeys(("min_epochs", "min_steps", "max_time", "val_check_interval", "profiler"))
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    with isolate_rng():
        trainer = make_trainer(max_epochs=-1, max_steps=steps, limit_val_batches=0, callbacks=[finder], **unset, **off)
        trainer.fit(copy.deepcopy(classifier), loader)
    return finder.curve
