"""Figures of explanations: where in a photo its predicted class was seen."""

import math
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf
from matplotlib import colormaps
from matplotlib.figure import Figure

from dogscats.report.figures.drawable_text import as_name, drawable, shortened
from dogscats.report.figures.publish import new_figure
from dogscats.report.gradcam import Explanation

COLORS, BRIGHTEST = "turbo", 0.9
"""Color map, smoother to the eye than the usual `jet`, and its position at the maximum: beyond it, red darkens."""

OPACITY = 0.65
"""Opacity of the colors at the maximum, and 0 where nothing speaks for the class: there the photo stays as it is."""


def overlay(explanation: Explanation) -> np.ndarray[Any, Any]:
    """Draw the map of an explanation on its image.

    Returns:
        RGB, uint8, `(size, size, 3)`.
    """
    image = explanation.image.permute(1, 2, 0).float() / 255
    heat = nnf.interpolate(explanation.heat[None, None], tuple(image.shape[:2]), mode="bicubic", align_corners=False)
    heat = heat[0, 0].clamp(0, 1)
    colors = torch.from_numpy(colormaps[COLORS](BRIGHTEST * heat.numpy())[..., :3]).float()
    mixed = image + OPACITY * heat[..., None] * (colors - image)
    return (255 * mixed).round().to(torch.uint8).numpy()


def draw_explanation(explanation: Explanation, path: str, class_name: str, probability: float) -> Figure:
    """Draw a photo as the network sees it, and beside it the same with the map of its predicted class."""
    figure = new_figure(6, 3.5)
    title = caption(path, class_name, probability, most=48)
    as_name([figure.suptitle(drawable(title), fontsize=11)], [title])
    photo = explanation.image.permute(1, 2, 0).numpy()
    for axes, picture in zip(figure.subplots(1, 2), (photo, overlay(explanation)), strict=True):
        axes.set_axis_off()
        axes.imshow(picture)
    return figure


def caption(path: str, class_name: str, probability: float, most: int = 26) -> str:
    """Return the name of a photo's file, of at most `most` characters, and below it its class and probability."""
    name = textwrap.shorten(Path(path).name, most) if " " in path else Path(path).name[-most:]
    # Round down, so that 0.9996 is not shown as 1.000.
    return f"{name}\n{shortened(class_name)} {math.floor(1000 * probability) / 1000:.3f}"
