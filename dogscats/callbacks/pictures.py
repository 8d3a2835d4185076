"""The lesson's pictures of right, wrong and uncertain predictions."""

import math
import textwrap
from collections.abc import Mapping
from pathlib import Path

import torch
from matplotlib.figure import Figure
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger

from dogscats.callbacks.tta import TTA
from dogscats.images import read_image
from dogscats.plots import new_figure, publish
from dogscats.predictions import Predictions


def choose_photos(predictions: Predictions, count: int, seed: int = 0) -> dict[str, dict[str, list[int]]]:
    """Choose the photos of each picture.

    Args:
        predictions: of all photos.
        count: photos in a row.
        seed: of the random choices.

    Returns:
        For each picture's name its rows: indices of photos by the row's title.
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
    for number, name in enumerate(predictions.classes):
        pictures["most_right"][f"Most right {name}"] = first(surest, (labels == number) & right)
        pictures["most_wrong"][f"Most wrong {name}"] = first(least_sure, (labels == number) & ~right)
    return pictures


def draw_photos(predictions: Predictions, root: Path, rows: Mapping[str, list[int]], count: int) -> Figure:
    """Draw rows of photos, each with its file's name and the probability of the predicted class."""
    figure = new_figure(2.6 * count, 2.9 * len(rows))
    for band, (title, indices) in zip(
        figure.subfigures(len(rows), 1, squeeze=False)[:, 0], rows.items(), strict=True
    ):
        band.suptitle(title, fontsize=13)
        for place, axes in enumerate(band.subplots(1, count, squeeze=False)[0]):
            axes.set_axis_off()
            if place < len(indices):
                index = indices[place]
                path, probabilities = predictions.paths[index], predictions.probabilities[index]
                axes.imshow(read_image(root / path).permute(1, 2, 0).numpy())
                predicted = int(probabilities.argmax())
                # Rounding must not turn 0.9996 into certainty.
                shown = math.floor(1000 * float(probabilities[predicted])) / 1000
                name = textwrap.shorten(Path(path).name, 26) if " " in path else Path(path).name[-26:]
                axes.set_title(f"{name}\n{predictions.classes[predicted]} {shown:.3f}", fontsize=9)
            elif not indices and place == 0:
                axes.text(0, 0.5, "none", fontsize=11, transform=axes.transAxes)
    return figure


class Pictures(Callback):
    """Draws a few photos of each kind when predicting ends, to PNG files and to TensorBoard.

    A few right and wrong ones at random, the most right and most wrong of each class, and the most uncertain.

    Args:
        tta: has the predictions; it stands before this in the Trainer's list.
        folder: of the PNG files `random_right`, `random_wrong`, `most_right`, `most_wrong`,
            `most_uncertain`.
        logger: shows them as `pictures/<name>`.
        count: photos in a row.
    """

    def __init__(self, tta: TTA, folder: Path, logger: TensorBoardLogger | None = None, count: int = 4):
        self.tta, self.folder, self.logger, self.count = tta, folder, logger, count

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw."""
        predictions = self.tta.best
        for name, rows in choose_photos(predictions, self.count).items():
            figure = draw_photos(predictions, self.tta.photos.root, rows, self.count)
            publish(figure, self.folder / f"{name}.png", self.logger, f"pictures/{name}")
