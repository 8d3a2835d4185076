"""Optimizer steps that gradient scaling skips, in mixed precision with fp16."""

import logging
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

log = logging.getLogger(__name__)

MANY = 0.1
"""Share of skipped steps that is worth a warning: a long stage skips its first few, and loses nothing."""


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
        if self.skipped > MANY * trainer.global_step:
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
