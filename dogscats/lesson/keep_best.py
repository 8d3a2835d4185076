"""What a stage does when training goes wrong: it keeps its best weights, stops at divergence, reports skipped steps."""

import logging
import math
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from dogscats.base.errors import Diverged, UserError
from dogscats.lesson.classifier import Classifier

log = logging.getLogger(__name__)

MIN_SCALE = 1e-4
"""Loss scale below which no scale fits, as in fairseq: the gradients are not finite at any."""

MAX_SKIPPED_SHARE = 0.1
"""Largest share of skipped steps without a warning: a long stage skips its first few, and loses nothing."""


class KeepBest(Callback):
    """Ends a stage with the weights of the epoch, or of its start, that have the lowest validation loss.

    The start is validated by Lightning's sanity check, which must run on all validation photos:
    `Trainer(num_sanity_val_steps=-1)`. The weights are those that were validated, also if another callback averages
    them for the validation. They are part of the callback's state, so a resumed stage ends with the same.

    Attributes:
        epoch: the best epoch so far, numbered from 0 as in `history.csv`; `None` for the start.
        metrics: its validation metrics.
    """

    def __init__(self) -> None:
        self.epoch: int | None = None
        self.metrics = {"valid_loss": float("inf")}
        self.weights: dict[str, torch.Tensor] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to run without validation."""
        if not trainer.enable_validation:
            raise UserError("keep=best needs the validation loss, but trainer.limit_val_batches=0 turns it off.")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copy the validated weights, before a callback that averages weights puts the others back."""
        self.validated = {name: value.detach().clone() for name, value in pl_module.state_dict().items()}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the copy if its loss is the lowest."""
        logged = {k: v.item() for k, v in trainer.callback_metrics.items() if k.startswith("valid_")}
        if logged["valid_loss"] < self.metrics["valid_loss"]:
            self.epoch = None if trainer.sanity_checking else trainer.current_epoch
            self.metrics, self.weights = logged, self.validated

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load the weights of the best epoch."""
        if not self.weights:  # no loss was a number
            return
        pl_module.load_state_dict(self.weights)
        kept = "the start, since no epoch was better" if self.epoch is None else f"epoch {self.epoch}"
        log.info("Kept the weights of %s: lowest validation loss, %.5f", kept, self.metrics["valid_loss"])

    def state_dict(self) -> dict[str, Any]:
        """Return the best weights and their metrics, for a checkpoint."""
        return {"epoch": self.epoch, "metrics": self.metrics, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them."""
        self.epoch, self.metrics, self.weights = (state_dict[key] for key in ("epoch", "metrics", "weights"))


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


class LossScale(Callback):
    """Warns if gradient scaling skipped many of a stage's optimizer steps.

    With `16-mixed` the loss is multiplied by a scale that starts high. A step whose gradients overflow is skipped, and
    the scale is halved. Skipped steps count as steps everywhere: in the schedules, `lr_trace.csv` and `global_step`.
    """

    def __init__(self) -> None:
        self.skipped = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the scale, which a checkpoint may have restored."""
        self.scale = loss_scale(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the step if it lowered the scale. The scaler has waited for the GPU already."""
        scale = loss_scale(trainer)
        self.skipped += scale < self.scale
        self.scale = scale

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn."""
        if self.skipped > MAX_SKIPPED_SHARE * trainer.global_step:
            log.warning(
                "Warning   %d of %d optimizer steps were skipped, since gradients overflowed in fp16. For so few steps "
                "set trainer.precision=32-true.",
                *(self.skipped, trainer.global_step),
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the count, for a checkpoint."""
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore it."""
        self.skipped = state_dict["skipped"]


def loss_scale(trainer: Trainer) -> float:
    """Return the scale of the loss; 1 without gradient scaling."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return 1.0 if scaler is None else float(scaler.get_scale())
