"""How figures are drawn and published: their size, names in them, and where they are saved and sent.

Names are drawn as text, never as mathematics, and in a font that has their characters.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import font_manager, rcParams
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger

from dogscats.base.errors import optional
from dogscats.base.files import atomic_path
from dogscats.base.text import shown

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
    for logger in loggers:
        # Loggers of a run have a method of their own, which keeps errors from the run.
        getattr(logger, "send_figure", partial(send_figure, logger))(path, tag)


def send_figure(logger: Logger, path: Path, tag: str) -> None:
    """Send a PNG file to a logger, if it supports figures."""
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(tag, _pixels(path), dataformats="HWC")
    elif isinstance(logger, MLFlowLogger):
        if logger.run_id is not None:  # None on ranks other than 0
            logger.experiment.log_image(logger.run_id, _pixels(path), f"{tag}.png")
    elif hasattr(logger, "log_image"):
        logger.log_image(tag, [str(path)])


def _pixels(path: Path) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(path).convert("RGB"))  # not drawn a second time


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


SYMBOLS = ("Last Resort", "STIX", "cm", "DejaVu Math")
"""Beginnings of the names of matplotlib's fonts for mathematics and placeholders."""


def drawable(name: str) -> str:
    r"""Return a name of a class or file as it can be drawn.

    Characters that the default font lacks, such as Chinese ones, are drawn in another font of this machine, or escaped
    (`\u732b`) if no font has them.
    """
    covered = set().union(*(_characters(family) for family in _families(frozenset(name))))
    return "".join(char if ord(char) in covered else _escaped(char) for char in name)


def shortened(name: str, most: int = 24) -> str:
    """Shorten a name to `most` characters."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def as_name(texts: Iterable[Text], names: Sequence[str]) -> None:
    """Style texts that show `names`: `$` does not begin a formula, and fonts with their characters are used."""
    families = list(_families(frozenset("".join(names))))
    for text in texts:
        text.set(parse_math=False, fontfamily=families)


def _escaped(char: str) -> str:
    return char if char == "\n" else shown(char) if not char.isprintable() else char.encode("unicode_escape").decode()


@cache
def _families(wanted: frozenset[str]) -> tuple[str, ...]:
    """Return the default font, and those that have the characters that it lacks."""
    default = rcParams["font.sans-serif"][0]
    families, missing = [default], {ord(char) for char in wanted if char.isprintable()} - _characters(default)
    installed = sorted({font.name for font in font_manager.fontManager.ttflist}) if missing else []
    for family in installed:
        if not family.startswith(SYMBOLS) and missing & _characters(family):
            families.append(family)
            missing -= _characters(family)
    return tuple(families)


@cache
def _characters(family: str) -> frozenset[int]:
    try:
        return frozenset(font_manager.get_font(font_manager.findfont(family)).get_charmap())
    except (OSError, RuntimeError, ValueError):  # a font that cannot be read
        return frozenset()
