"""Figures are drawn once, saved as PNG and sent to every logger that supports figures."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger

from dogscats.base.errors import optional
from dogscats.base.files import atomic_path

DPI = 100
"""Pixels per inch."""


def new_figure(width: float, height: float) -> Figure:
    """Make a figure of `width` by `height` inches, outside pyplot's global state."""
    return Figure(figsize=(width, height), layout="constrained")


Drawn = Figure | Mapping[str, Figure] | None
"""A figure, figures by name, or `None` if there is nothing to draw."""


def by_name(drawn: Drawn, default: str) -> Mapping[str, Figure]:
    """Return what was drawn as figures by name; `default` for a figure without one."""
    return {default: drawn} if isinstance(drawn, Figure) else drawn or {}


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
    loggers = list(loggers)
    pixels = np.asarray(Image.open(path).convert("RGB")) if loggers else None  # not drawn a second time
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(tag, pixels, dataformats="HWC")
        elif isinstance(logger, MLFlowLogger):
            if logger.run_id is not None:  # None on ranks other than 0
                logger.experiment.log_image(logger.run_id, pixels, f"{tag}.png")
        elif hasattr(logger, "log_image"):
            logger.log_image(tag, [str(path)])


def draw_and_publish(
    draw: Callable[[Any], Drawn], source: Any, name: str, folder: Path, loggers: Iterable[Logger], prefix: str = ""
) -> None:
    """Draw figures, and `publish` them; if that fails, the log says so and everything else goes on.

    Args:
        draw: function from `source` to what it draws.
        source: what to draw it from.
        name: name of the figure, if `draw` gives it none.
        folder: folder of the PNG files, `<name>.png`.
        loggers: loggers of the Trainer.
        prefix: prefix of the names in the loggers.
    """
    with optional(name):
        for key, figure in by_name(draw(source), name).items():
            publish(figure, folder / f"{key}.png", loggers, f"{prefix}{key}")
