"""Figures of the final predictions."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure
from pytorch_lightning import Callback, LightningModule, Trainer

from dogscats.base.errors import optional
from dogscats.lesson.predictions import Predictions
from dogscats.lesson.tta import TTA
from dogscats.report.figures.publish import publish


class Report(Callback):
    """Draws figures after prediction, to PNG files in the run directory and to all loggers.

    A figure that cannot be drawn is named in the log, and costs nothing else.

    To add your own, write a function and name it in the config:

        +callbacks.reports.mine='{_target_: dogscats.Report, draw: {_target_: my.draw, _partial_: true}}'

    Args:
        draw: function from predictions to a figure, or to figures by name.
        prefix: prefix of the figures' names in the loggers.
    """

    def __init__(self, draw: Callable[[Predictions], Figure | Mapping[str, Figure]], prefix: str = ""):
        self.draw, self.prefix = draw, prefix

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the figures, save them and send them to the loggers."""
        if not trainer.is_global_zero:  # what other ranks draw would be thrown away
            return
        function = self.draw.func if isinstance(self.draw, partial) else self.draw
        default = getattr(function, "__name__", type(function).__name__)
        with optional(default):
            figures = self.draw(TTA.of(trainer).best)
            for name, figure in {default: figures}.items() if isinstance(figures, Figure) else figures.items():
                path = Path(trainer.default_root_dir) / f"{name}.png"
                publish(figure, path, trainer.loggers, f"{self.prefix}{name}")
