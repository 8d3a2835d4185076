"""Figures of photos with right, wrong and uncertain predictions."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from dogscats.data.pixels.images import read_image
from dogscats.lesson.predictions import Predictions
from dogscats.report.figures.drawable_text import as_name, drawable, shortened
from dogscats.report.figures.explanation import caption
from dogscats.report.figures.publish import new_figure

MOST_CLASSES = 10
"""With more classes, no figure has a row for each class."""

SIDE = 480
"""Longest side of a photo in a figure, in pixels: about twice what is seen."""

EXPLAINED = ("most_wrong", "most_uncertain")
"""Figures that show why their photos were predicted as they were."""

Overlays = Callable[[Predictions, Sequence[int]], Mapping[int, np.ndarray[Any, Any]]]
"""Function from predictions and photo indices to pictures by index, which explain the predicted class."""


def pictures(predictions: Predictions, count: int = 4, overlays: Overlays | None = None) -> dict[str, Figure]:
    """Draw random right and wrong predictions, the most right and most wrong per class, and the most uncertain.

    Args:
        predictions: predictions for labelled photos.
        count: photos per row.
        overlays: explains the photos of the figures `EXPLAINED`, in rows of their own.

    Returns:
        Figures by name: `random_right`, `random_wrong`, `most_right`, `most_wrong`, `most_uncertain`. With more than
        `MOST_CLASSES` classes, those with a row a class have two rows over all classes instead.
    """
    figures = {}
    for name, rows in choose_photos(predictions, count).items():
        indices = [index for row in rows.values() for index in row]
        explained = overlays(predictions, indices) if overlays and name in EXPLAINED else {}
        figures[name] = draw_photos(predictions, rows, count, explained)
    return figures


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


def draw_photos(
    predictions: Predictions,
    rows: Mapping[str, list[int]],
    count: int,
    overlays: Mapping[int, np.ndarray[Any, Any]] | None = None,
) -> Figure:
    """Draw rows of photos, each with its file name and the probability of the predicted class.

    Args:
        predictions: predictions for all photos.
        rows: photo indices by row title.
        count: photos per row.
        overlays: pictures by photo index, drawn below the photos.
    """
    heights = [(5.5 if overlays else 2.9) if indices else 1 for indices in rows.values()]
    figure = new_figure(2.6 * count, sum(heights))
    bands = figure.subfigures(len(rows), 1, squeeze=False, height_ratios=heights)[:, 0]
    for band, (title, indices) in zip(bands, rows.items(), strict=True):
        as_name([band.suptitle(drawable(shortened(title, 48)), fontsize=13)], [title])
        grid = band.subplots(2 if overlays and indices else 1, count, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for index, column in zip(indices, grid.T, strict=False):
            path, probabilities = predictions.paths[index], predictions.probabilities[index]
            column[0].imshow(thumbnail(predictions.root / path))
            predicted = int(probabilities.argmax())
            title = caption(path, predictions.classes[predicted], float(probabilities[predicted].nan_to_num()))
            as_name([column[0].set_title(drawable(title), fontsize=9)], [title])
            if overlays and index in overlays:
                column[1].imshow(overlays[index])
        if not indices:
            grid[0, 0].text(0, 0.5, "none", fontsize=11, transform=grid[0, 0].transAxes)
    return figure


def thumbnail(path: Path) -> np.ndarray[Any, Any]:
    """Read a photo at the size at which it is drawn, so that large ones take no more memory than small ones.

    Returns:
        RGB, uint8, `(H, W, 3)`; the long side has at most `SIDE` pixels.
    """
    picture = Image.fromarray(read_image(path, quietly=True, least=SIDE).permute(1, 2, 0).numpy())
    picture.thumbnail((SIDE, SIDE))
    return np.asarray(picture)
