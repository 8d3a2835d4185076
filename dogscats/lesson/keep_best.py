"""What a stage does when training goes wrong: it keeps its best weights, and stops at divergence."""

import logging
import math
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from dogscats.base.errors import Diverged, UserError
from dogscats.lesson.classifier import Classifier

log = logging.getLogger(__name__)

MIN_SCALE = 1e-4
"""Loss scale below which a stage stops, as in fairseq: the gradients would not be finite at any scale."""


class KeepBest(Callback):
    """Restores the weights with the lowest validation loss: after some epoch, or before the first. Not in the lesson.

    The start is validated by Lightning's sanity check, which must run on all validation photos:
    `Trainer(num_sanity_val_steps=-1)`. The weights are those that were validated, even if a weight-averaging callback
    (EMA) put them there for it. They are part of the callback's state, so a resumed stage ends with the same.

    Attributes:
        epoch: the best epoch so far, numbered from 0 as in `history.csv`; `None` before the first.
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
        """Copy the validated weights: after validation, a weight-averaging callback (EMA) restores the raw ones."""
        self.validated = {name: value.detach().clone() for name, value in pl_module.state_dict().items()}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the copy if its validation loss is the lowest so far."""
        logged = {k: v.item() for k, v in trainer.callback_metrics.items() if k.startswith("valid_")}
        if logged["valid_loss"] < self.metrics["valid_loss"]:
            self.epoch = None if trainer.sanity_checking else trainer.current_epoch
            self.metrics, self.weights = logged, self.validated

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load the best weights into the classifier."""
        if not self.weights:  # no loss was a number
            return
        pl_module.load_state_dict(self.weights)
        kept = "the start, since no epoch was better" if self.epoch is None else f"epoch {self.epoch}"
        log.info("Kept the weights of %s: lowest validation loss, %.5f", kept, self.metrics["valid_loss"])

    def state_dict(self) -> dict[str, Any]:
        """Return the best weights and their metrics, for a checkpoint."""
        return {"epoch": self.epoch, "metrics": self.metrics, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best weights and their metrics."""
        self.epoch, self.metrics, self.weights = (state_dict[key] for key in ("epoch", "metrics", "weights"))


class StopAtDivergence(Callback):
    """Stops a stage at the first training or validation loss that is NaN or infinite, before anything is saved.

    Steps that gradient scaling skips have finite losses. If every step is skipped, since gradients are NaN or infinite
    at any loss scale, the stage stops too.

    With `keep=best` the stage ends early, with its best weights. Otherwise the run fails.

    On a GPU, reading the loss of a step waits for that step. It is therefore read after the next step has been
    queued, so that the GPU does not run idle. Only rank 0 stops: gradients are averaged, so a loss that diverges on
    another rank does so on rank 0 one step later.

    Raises:
        Diverged: with the stage, the step and the learning rate.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the losses of a former fit."""
        self.unread: list[tuple[tuple[int, int, float], torch.Tensor]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        """Keep the loss of this step, and read that of the step before."""
        loss = outputs["loss"].detach()
        self.unread.append((_now(trainer), loss))
        self._read(pl_module, trainer, 0 if loss.device.type == "cpu" else 1)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the last loss of the epoch, and the loss scale, before a checkpoint is saved."""
        self._read(pl_module, trainer, 0)
        if loss_scale(trainer) < MIN_SCALE:
            self._stop(pl_module, trainer, "gradients", *_now(trainer))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the validation loss, which shows what the last step of the epoch did."""
        loss = float(trainer.callback_metrics.get("valid_loss", 0.0))
        if not math.isfinite(loss) and not trainer.sanity_checking:
            self._read(pl_module, trainer, 0)
            self._stop(pl_module, trainer, "validation loss", *_now(trainer))

    def _read(self, module: LightningModule, trainer: Trainer, keep: int) -> None:
        while len(self.unread) > keep:
            then, loss = self.unread.pop(0)
            if not math.isfinite(loss.item()):
                self._stop(module, trainer, "training loss", *then)

    def _stop(self, module: LightningModule, trainer: Trainer, what: str, step: int, epoch: int, lr: float) -> None:
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


def _now(trainer: Trainer) -> tuple[int, int, float]:
    """Return the step, the epoch, and the learning rate of the head."""
    return trainer.global_step, trainer.current_epoch, trainer.optimizers[0].param_groups[-1]["lr"]


def loss_scale(trainer: Trainer) -> float:
    """Return the scale of the loss; 1 without gradient scaling."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return 1.0 if scaler is None else float(scaler.get_scale())
