"""Stops a stage at the first loss that is not a finite number."""

import logging
import math
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from dogscats.base.errors import Diverged
from dogscats.lesson.classifier import Classifier
from dogscats.lesson.keep_best import KeepBest
from dogscats.lesson.loss_scale import loss_scale

log = logging.getLogger(__name__)

MIN_SCALE = 1e-4
"""Loss scale below which no scale fits, as in fairseq: the gradients are not finite at any."""


class StopAtDivergence(Callback):
    """Stops a stage at the first training or validation loss that is NaN or infinite, before anything is saved.

    Steps that gradient scaling skips have finite losses. If their number does not end, all gradients are NaN or
    infinite, which stops the stage too.

    With `keep=best` the stage ends early, with its best weights. Otherwise the run fails.

    On a GPU, reading the loss of a step waits for that step. It is therefore read after the next step has been
    queued, so that the GPU does not run idle. Only rank 0 stops: gradients are averaged, so a loss that diverges on
    another rank does so on rank 0 one step later.

    Raises:
        Diverged: with the stage, the step and the learning rate.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the losses of a former fit."""
        self.unread: list[tuple[int, int, float, torch.Tensor]] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the loss of this step, and read that of the step before."""
        lr = trainer.optimizers[0].param_groups[-1]["lr"]
        loss = outputs["loss"].detach()
        self.unread.append((trainer.current_epoch, trainer.global_step, lr, loss))
        self._read(pl_module, trainer, 0 if loss.device.type == "cpu" else 1)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the last loss of the epoch, and the loss scale, before a checkpoint is saved."""
        self._read(pl_module, trainer, 0)
        if loss_scale(trainer) < MIN_SCALE:
            lr = trainer.optimizers[0].param_groups[-1]["lr"]
            self._stop(pl_module, trainer, trainer.current_epoch, trainer.global_step, lr, "gradients")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the validation loss, which shows what the last step of the epoch did."""
        loss = float(trainer.callback_metrics.get("valid_loss", 0.0))
        if not math.isfinite(loss) and not trainer.sanity_checking:
            self._read(pl_module, trainer, 0)
            lr = trainer.optimizers[0].param_groups[-1]["lr"]
            self._stop(pl_module, trainer, trainer.current_epoch, trainer.global_step, lr, "validation loss")

    def _read(self, module: LightningModule, trainer: Trainer, keep: int) -> None:
        while len(self.unread) > keep:
            epoch, step, lr, loss = self.unread.pop(0)
            if not math.isfinite(loss.item()):
                self._stop(module, trainer, epoch, step, lr, "training loss")

    def _stop(self, module: LightningModule, trainer: Trainer, epoch: int, step: int, lr: float, what: str) -> None:
        assert isinstance(module, Classifier)
        message = f"Stage {module.stage} diverged: non-finite {what} at step {step}, epoch {epoch}, lr={lr:.3g}."
        if any(isinstance(callback, KeepBest) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            log.warning("%s It stops, and ends with its best weights.", message)
            trainer.should_stop = True
        elif trainer.is_global_zero:
            raise Diverged(
                f"{message} Try a lower learning rate, such as lr={lr / 10:.2g}, or lr=find; in mixed "
                "precision also trainer.precision=32-true."
            )
