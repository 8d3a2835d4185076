"""Figures of photos with right, wrong and uncertain predictions."""

import math
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from dogscats.data.images import read_image
from dogscats.metrics import Predictions
from dogscats.plots.publish import new_figure
from dogscats.plots.text import as_name, drawable, shortened

MOST_CLASSES = 10
"""With more classes, no figure has a row for each class."""

SIDE = 480
"""Longest side of a photo in a figure, in pixels: about twice what is seen."""


def pictures(predictions: Predictions, count: int = 4) -> dict[str, Figure]:
    """Draw random right and wrong predictions, the most right and most wrong per class, and the most uncertain.

    Args:
        predictions: predictions for labelled photos.
        count: photos per row.

    Returns:
        Figures by name: `random_right`, `random_wrong`, `most_right`, `most_wrong`, `most_uncertain`. With more than
        `MOST_CLASSES` classes, those with a row a class have two rows over all classes instead.
    """
    return {name: draw_photos(predictions, rows, count) for name, rows in choose_photos(predictions, count).items()}


def choose_photos(predictions: Predictions, count: int, seed: int = 0) -> dict[str, dict[str, list[int]]]:
    """Choose the photos of each figure.

    Args:
        predictions: predictions for all photos.
        count: photos per row.
        seed: seeds the random choices.

    Returns:
        Rows of each figure by its name: photo indices by row title.
    """
    labels, probabilities = predictions.labels, predictions.probabilities
    right = predictions.predicted == labels
    of_label = probabilities[torch.arange(len(labels)), labels]
    generator = torch.Generator().manual_seed(seed)

    def at_random(mask: torch.Tensor) -> list[int]:
        found = mask.nonzero().flatten()
        return found[torch.randperm(len(found), generator=generator)[:count]].tolist()

    def first(order: torch.Tensor, mask: torch.Tensor) -> list[int]:
        return order[mask[order]][:count].tolist()

    surest, least_sure = of_label.argsort(descending=True), of_label.argsort()
    pictures = {
        "random_right": {"Right, at random": at_random(right)},
        "random_wrong": {"Wrong, at random": at_random(~right)},
        "most_right": {},
        "most_wrong": {},
        "most_uncertain": {"Most uncertain": probabilities.max(dim=1).values.argsort()[:count].tolist()},
    }
    if len(predictions.classes) > MOST_CLASSES:
        for kind, order, mask in (("right", surest, right), ("wrong", least_sure, ~right)):
            chosen = order[mask[order]][: 2 * count].tolist()
            pictures[f"most_{kind}"] = {f"Most {kind}, all classes": chosen[:count], "and next": chosen[count:]}
        return pictures
    for number, name in enumerate(predictions.classes):
        pictures["most_right"][f"Most right {name}"] = first(surest, (labels == number) & right)
        pictures["most_wrong"][f"Most wrong {name}"] = first(least_sure, (labels == number) & ~right)
    return pictures


def draw_photos(predictions: Predictions, rows: Mapping[str, list[int]], count: int) -> Figure:
    """Draw rows of photos, each with its file name and the probability of the predicted class.

    Args:
        predictions: predictions for all photos.
        rows: photo indices by row title.
        count: photos per row.
    """
    figure = new_figure(2.6 * count, 2.9 * len(rows))
    for band, (title, indices) in zip(figure.subfigures(len(rows), 1, squeeze=False)[:, 0], rows.items(), strict=True):
        as_name([band.suptitle(drawable(shortened(title, 48)), fontsize=13)], [title])
        for place, axes in enumerate(band.subplots(1, count, squeeze=False)[0]):
            axes.set_axis_off()
            if place < len(indices):
                index = indices[place]
                path, probabilities = predictions.paths[index], predictions.probabilities[index]
                axes.imshow(thumbnail(predictions.root / path))
                predicted = int(probabilities.argmax())
                # Round down, so that 0.9996 is not shown as 1.000.
                shown = math.floor(1000 * float(probabilities[predicted].nan_to_num())) / 1000
                name = textwrap.shorten(Path(path).name, 26) if " " in path else Path(path).name[-26:]
                title = f"{name}\n{shortened(predictions.classes[predicted])} {shown:.3f}"
                as_name([axes.set_title(drawable(title), fontsize=9)], [title])
            elif not indices and place == 0:
                axes.text(0, 0.5, "none", fontsize=11, transform=axes.transAxes)
    return figure


def thumbnail(path: Path) -> np.ndarray[Any, Any]:
    """Read a photo at the size at which it is drawn, so that large ones take no more memory than small ones.

    Returns:
        RGB, uint8, `(H, W, 3)`; the long side has at most `SIDE` pixels.
    """
    picture = Image.fromarray(read_image(path, quietly=True, least=SIDE).permute(1, 2, 0).numpy())
    picture.thumbnail((SIDE, SIDE))
    return np.asarray(picture)
