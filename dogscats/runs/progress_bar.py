"""Progress bar of a stage."""

import sys
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm


class Progress(TQDMProgressBar):
    """Lightning's progress bar, removed when done: `History` prints the results.

    Disabled if the output is not a terminal.
    """

    def __init__(self) -> None:
        super().__init__(refresh_rate=1 if sys.stdout.isatty() else 0)

    def init_train_tqdm(self) -> Tqdm:
        """Make the training bar, removed at the end."""
        bar = super().init_train_tqdm()
        bar.leave = False
        return bar

    def init_validation_tqdm(self) -> Tqdm:
        """Disable the validation bar."""
        return Tqdm(disable=True)

    def init_predict_tqdm(self) -> Tqdm:
        """Make the prediction bar, removed at the end."""
        bar = super().init_predict_tqdm()
        bar.leave = False
        return bar

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Omit the stage name, which Lightning would show as a version."""
        return {k: v for k, v in super().get_metrics(trainer, pl_module).items() if k != "v_num"}
