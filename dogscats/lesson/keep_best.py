"""Keeping the weights of the best epoch."""

import logging
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from dogscats.base.errors import UserError

log = logging.getLogger(__name__)


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
