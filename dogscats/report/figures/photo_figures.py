"""Figures of photos: augmented versions, right, wrong and uncertain predictions, and why they were predicted."""

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf
from matplotlib import colormaps
from matplotlib.figure import Figure
from torchvision.utils import make_grid

from dogscats.data.loading.dataset import PhotoDataset
from dogscats.data.pixels.images import thumbnail
from dogscats.lesson.predictions import Predictions
from dogscats.report.figures.drawing import DPI, as_name, drawable, new_figure, shortened
from dogscats.report.gradcam import Explanation

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


def choose_photos(predictions: Predictions, count: int) -> dict[str, dict[str, list[int]]]:
    """Choose the photos of each figure.

    Args:
        predictions: predictions for all photos.
        count: photos per row.

    Returns:
        Rows of each figure by its name: photo indices by row title.
    """
    labels, probabilities = predictions.labels, predictions.probabilities
    right = predictions.predicted == labels
    of_label = probabilities[torch.arange(len(labels)), labels]
    generator = torch.Generator().manual_seed(0)

    def at_random(mask: torch.Tensor) -> list[int]:
        found = mask.nonzero().flatten()
        return found[torch.randperm(len(found), generator=generator)[:count]].tolist()

    pictures = {
        "random_right": {"Right, at random": at_random(right)},
        "random_wrong": {"Wrong, at random": at_random(~right)},
    }
    surest_first, least_sure_first = of_label.argsort(descending=True), of_label.argsort()
    for kind, order, mask in (("right", surest_first, right), ("wrong", least_sure_first, ~right)):
        first = order[mask[order]]
        if len(predictions.classes) > MOST_CLASSES:
            rows = {f"Most {kind}, all classes": first[:count], "and next": first[count : 2 * count]}
        else:
            of_class = enumerate(predictions.classes)
            rows = {f"Most {kind} {name}": first[labels[first] == number][:count] for number, name in of_class}
        pictures[f"most_{kind}"] = {title: indices.tolist() for title, indices in rows.items()}
    pictures["most_uncertain"] = {"Most uncertain": probabilities.max(dim=1).values.argsort()[:count].tolist()}
    return pictures


def draw_photos(
    predictions: Predictions,
    rows: Mapping[str, list[int]],
    count: int,
    overlays: Mapping[int, np.ndarray[Any, Any]] | None = None,
) -> Figure:
    """Draw rows of photos, each with its file name and a sentence about its prediction.

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
            column[0].imshow(thumbnail(predictions.root / path, SIDE))
            predicted = int(probabilities.argmax())
            probability, label = float(probabilities[predicted].nan_to_num()), int(predictions.labels[index])
            title = caption(path, predictions.classes[predicted], probability, predictions.classes[label])
            as_name([column[0].set_title(drawable(title), fontsize=9)], [title])
            if overlays and index in overlays:
                column[1].imshow(overlays[index])
                seen = f"where it sees {shortened(predictions.classes[predicted])}"
                as_name([column[1].set_title(drawable(seen), fontsize=9)], [seen])
        if not indices:
            grid[0, 0].text(0, 0.5, "none", fontsize=11, transform=grid[0, 0].transAxes)
    return figure


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


def decision_title(decision: str, predicted: str) -> str:
    """Return the decision about a photo, with the class that is explained if it is another: `unsure, perhaps cats`."""
    return decision if decision == predicted else f"{decision}, perhaps {predicted}"


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


def caption(path: str, class_name: str, probability: float, label: str = "", most: int = 26) -> str:
    """Return the name of a photo's file, of at most `most` characters, and below it `cats, taken for dogs (99 %)`.

    Args:
        path: path of the photo.
        class_name: the predicted class.
        probability: its probability.
        label: the actual class; empty if it is unknown.
        most: largest number of characters of the name.
    """
    name = textwrap.shorten(Path(path).name, most) if " " in path else Path(path).name[-most:]
    actual = f"{shortened(label)}, taken for\n" if label not in ("", class_name) else ""
    # Round down, so that 0.9996 is not shown as 100 %.
    return f"{name}\n{actual}{shortened(class_name)} ({math.floor(100 * probability)} %)"


def augmentation(dataset: PhotoDataset) -> Figure:
    """Draw six augmented versions of the first photo, three per row, as in the lesson.

    Args:
        dataset: dataset with the augmentation transform.
    """
    images = torch.stack([dataset[0, epoch][0] for epoch in range(6)])
    grid = make_grid(images, nrow=3, padding=4, pad_value=255).permute(1, 2, 0).numpy()
    figure = Figure(figsize=(grid.shape[1] / DPI, grid.shape[0] / DPI))
    axes = figure.add_axes((0, 0, 1, 1))  # one pixel of the grid per pixel of the figure
    axes.set_axis_off()
    axes.imshow(grid)
    return figure
