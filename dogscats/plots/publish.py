"""Figures are drawn once, saved as PNG and sent to every logger that supports figures."""

import logging
from collections.abc import Iterable
from pathlib import Path

from matplotlib.figure import Figure
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger

from dogscats.runs.files import atomic_path

log = logging.getLogger(__name__)

DPI = 100
"""Pixels per inch."""


def new_figure(width: float, height: float) -> Figure:
    """Make a figure of `width` by `height` inches, outside pyplot's global state."""
    return Figure(figsize=(width, height), layout="constrained")


def publish(figure: Figure, path: Path, loggers: Iterable[Logger] = (), tag: str = "") -> None:
    """Save a figure, and send it to every logger that supports figures.

    Supported are TensorBoard, MLflow, and all loggers with a method `log_image`, such as Weights & Biases and Comet.

    Args:
        figure: figure to publish.
        path: PNG file.
        loggers: loggers of the Trainer; those without support for figures, such as CSV, are skipped.
        tag: name of the figure in the loggers.
    """
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DPI)
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_figure(tag, figure)
        elif isinstance(logger, MLFlowLogger):
            if logger.run_id is not None:  # None on ranks other than 0
                logger.experiment.log_figure(logger.run_id, figure, f"{tag}.png")
        elif hasattr(logger, "log_image"):
            logger.log_image(tag, [str(path)])
