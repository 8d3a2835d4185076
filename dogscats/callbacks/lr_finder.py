"""The lesson's learning-rate finder."""

import copy
import csv
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.seed import isolate_rng
from torch.utils.data import DataLoader

from dogscats.atomic import atomic_path
from dogscats.classifier import Classifier
from dogscats.console import progress_bar
from dogscats.data import Batch
from dogscats.plots import new_figure, publish

MIN_LR, MAX_LR = 1e-5, 10.0
"""fastai 0.7's range of the last layer group's learning rate."""

STEPS_PRECOMPUTED, STEPS_PHOTOS = 300, 100
"""Steps over which the rate rises, on precomputed activations and on photos.

The lesson's epoch had 360. With fewer the suggestion drifts upwards, so that short epochs are repeated;
on photos 100 have to do, which take long enough.
"""

SMOOTHING = 0.98
"""fastai 0.7's decay of the exponential moving average of the loss."""

SKIP = 10
"""Steps before the average means anything, in which fastai 0.7 does not look for the lowest loss."""


@dataclass
class LRCurve:
    """What the finder saw, step by step.

    Attributes:
        lrs: of the last layer group.
        losses: of each batch.
        smoothed: debiased exponential moving average of the losses.
    """

    lrs: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    smoothed: list[float] = field(default_factory=list)

    def add(self, lr: float, loss: float) -> None:
        """Add a step."""
        steps = len(self.losses)
        # Undo the debiasing of the last average to continue it.
        average = self.smoothed[-1] * (1 - SMOOTHING**steps) if steps else 0.0
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        self.lrs.append(lr)
        self.losses.append(loss)
        self.smoothed.append(average / (1 - SMOOTHING ** (steps + 1)))

    @property
    def diverged(self) -> bool:
        """Whether the loss is not a number, or the average exceeds 4 times its lowest value."""
        latest = self.smoothed[-1]
        lowest = min(self.smoothed[SKIP:], default=math.inf)
        return not math.isfinite(latest) or latest > 4 * lowest

    @property
    def suggestion(self) -> float:
        """The lesson's rule: the rate at the lowest average loss, one order of magnitude less."""
        candidates = [
            (loss, lr) for loss, lr in zip(self.smoothed, self.lrs, strict=True) if math.isfinite(loss)
        ]
        return min(candidates[SKIP:] or candidates, default=(0.0, 10 * MIN_LR))[1] / 10

    def write(self, path: Path) -> None:
        """Write a CSV file: iteration, lr, loss and smoothed_loss."""
        with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["iteration", "lr", "loss", "smoothed_loss"])
            writer.writerows(zip(range(len(self.lrs)), self.lrs, self.losses, self.smoothed, strict=True))

    def publish(self, path: Path, logger: TensorBoardLogger | None) -> None:
        """Draw the lesson's two plots to `path` and to TensorBoard, and log the points there."""
        figure = new_figure(11, 4.2)
        left, right = figure.subplots(1, 2)
        left.plot(self.lrs)
        left.set(xlabel="iteration", ylabel="learning rate", title="Learning rate, step by step")
        start = SKIP if len(self.lrs) > 2 * SKIP else 0
        right.plot(self.lrs[start:], self.smoothed[start:])
        right.axvline(
            self.suggestion, color="tab:red", linestyle="--", label=f"suggestion {self.suggestion:.2g}"
        )
        # What follows the divergence would flatten all that matters.
        losses = [loss if math.isfinite(loss) else math.inf for loss in self.smoothed[start:]]
        lowest = losses.index(min(losses))
        if lowest > 0:
            right.set_ylim(0.9 * losses[lowest], 1.05 * max(losses[: lowest + 1]))
        right.set(xscale="log", xlabel="learning rate (log scale)", ylabel="smoothed loss", title="Loss")
        right.legend()
        publish(figure, path, logger, "lr_finder/plots")
        if logger is not None:
            for step, (lr, loss) in enumerate(zip(self.lrs, self.smoothed, strict=True)):
                logger.log_metrics({"lr_finder/lr": lr, "lr_finder/smoothed_loss": loss}, step)


class LRFinder(Callback):
    """Raises the learning rates exponentially from step to step, records the loss, stops when it diverges.

    The groups keep their ratios; the last one goes from `MIN_LR` to `MAX_LR`.

    Args:
        steps: in which the highest rate is reached.
    """

    def __init__(self, steps: int):
        self.steps = steps
        self.curve = LRCurve()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show a progress bar."""
        self.progress = progress_bar(range(self.steps), "Finding the learning rate", self.steps, "batch")

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set this step's rates."""
        assert isinstance(pl_module, Classifier)
        self.lr = MIN_LR * (MAX_LR / MIN_LR) ** (trainer.global_step / (self.steps - 1))
        for group, rate in zip(trainer.optimizers[0].param_groups, pl_module.lrs, strict=True):
            group["lr"] = self.lr * rate / pl_module.lrs[-1]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the loss."""
        assert isinstance(pl_module, Classifier)
        loss = outputs["loss"].detach() / len(pl_module.heads)
        # All processes must see the same loss, to stop at the same step.
        self.curve.add(self.lr, float(trainer.strategy.reduce(loss, reduce_op="mean")))
        self.progress.update()
        if self.curve.diverged:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the progress bar."""
        self.progress.close()


def find_lr(
    classifier: Classifier, loader: DataLoader[Batch], make_trainer: Callable[..., Trainer], steps: int
) -> LRCurve:
    """Run the finder on a copy of `classifier`: nothing of the run is changed by it.

    Args:
        classifier: as the stage would begin with it.
        loader: training batches, of no other use afterwards; read again from the start as often as needed.
        make_trainer: makes a Trainer from the arguments that are the finder's own.
        steps: in which the learning rate rises; the more, the lower the suggestion.
    """
    finder = LRFinder(steps)
    with isolate_rng():
        trainer = make_trainer(
            max_epochs=-1,
            max_steps=steps,
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            callbacks=[finder],
        )
        trainer.fit(copy.deepcopy(classifier), loader)
    return finder.curve
