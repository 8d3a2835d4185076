"""One progress bar for each stage."""

import sys
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm


class Progress(TQDMProgressBar):
    """Lightning's bar, but it vanishes when done: the lines of `History` tell what happened.

    In a log, where no bar can move, those lines are all.
    """

    def __init__(self) -> None:
        super().__init__(refresh_rate=1 if sys.stdout.isatty() else 0)

    def init_train_tqdm(self) -> Tqdm:
        """Make the bar of training, removed at the end."""
        bar = super().init_train_tqdm()
        bar.leave = False
        return bar

    def init_validation_tqdm(self) -> Tqdm:
        """Make no bar for validation: a second line that jumps about tells nothing."""
        return Tqdm(disable=True)

    def init_predict_tqdm(self) -> Tqdm:
        """Make the bar of predicting, removed at the end."""
        bar = super().init_predict_tqdm()
        bar.leave = False
        return bar

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Leave out the stage's name, which Lightning would show as a version."""
        return {k: v for k, v in super().get_metrics(trainer, pl_module).items() if k != "v_num"}
