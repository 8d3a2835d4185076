"""Figures: drawn once, saved as PNG and shown in TensorBoard."""

from pathlib import Path

from matplotlib.figure import Figure
from pytorch_lightning.loggers import TensorBoardLogger

from dogscats.atomic import atomic_path


def new_figure(width: float, height: float) -> Figure:
    """Make a figure of `width` times `height` inches, outside pyplot's global state."""
    return Figure(figsize=(width, height), layout="constrained")


def publish(figure: Figure, path: Path, logger: TensorBoardLogger | None, tag: str) -> None:
    """Save `figure` to `path` at 100 pixels an inch, and show it in TensorBoard as `tag`."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100)
    if logger is not None:
        logger.experiment.add_figure(tag, figure)
