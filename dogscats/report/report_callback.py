"""Callbacks that draw figures of the final predictions."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning import Callback, LightningModule, Trainer

from dogscats.base.errors import ArgumentError, optional
from dogscats.data.loading.dataset import PhotoBatches, PhotoDataset
from dogscats.lesson.backbone import Backbone
from dogscats.lesson.classifier import Classifier
from dogscats.lesson.predictions import Predictions
from dogscats.lesson.tta import TTA
from dogscats.report.figure_table import FIGURES
from dogscats.report.figures.photo_figures import overlay, pictures
from dogscats.report.figures.publish import Drawn, draw_and_publish
from dogscats.report.gradcam import explain


class Report(Callback):
    """Draws figures after prediction, to PNG files in the run directory and to all loggers.

    A figure that cannot be drawn is named in the log, and costs nothing else.

    To add your own, write a function and name it in the config:

        +callbacks.reports.mine='{_target_: dogscats.Report, draw: {_target_: my.draw, _partial_: true}}'

    Args:
        draw: function from predictions to a figure, or to figures by name; or the name of a figure that
            `dogscats.report.figure_table` draws from predictions. By default all of those that have no node in
            `conf/callbacks/reports.yaml`.
        prefix: prefix of the figures' names in the loggers.

    Raises:
        ArgumentError: for an unknown name.
    """

    def __init__(self, draw: Callable[[Predictions], Drawn] | str | None = None, prefix: str = ""):
        rows = {row.name: row for row in FIGURES if row.drawn_from == "predictions"}
        if isinstance(draw, str) and draw not in rows:
            raise ArgumentError("callbacks.reports", f"draw={draw}: expected a function, or {' or '.join(rows)}.")
        chosen = [row for row in rows.values() if row.name == draw or (draw is None and not row.has_node)]
        self.prefix, self.draws = prefix, {row.name: row.draw for row in chosen}
        if callable(draw):
            function = draw.func if isinstance(draw, partial) else draw
            self.draws = {getattr(function, "__name__", type(function).__name__): draw}

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the figures, save them and send them to the loggers."""
        if not trainer.is_global_zero:  # what other ranks draw would be thrown away
            return
        best, folder = TTA.of(trainer).best, Path(trainer.default_root_dir)
        for name, draw in self.draws.items():
            draw_and_publish(draw, best, name, folder, trainer.loggers, self.prefix)


class Pictures(Report):
    """Draws photos of each kind after prediction: `most_wrong.png` and so on.

    The most wrong and the most uncertain ones are explained by Grad-CAM, in a second row. Where cached activations are
    predicted, `source` must be set for that.

    Args:
        count: photos per row.

    Attributes:
        source: the whole classifier and the photos; `None` for those of the Trainer.
    """

    source: tuple[Classifier, PhotoDataset] | None = None

    def __init__(self, count: int = 4):
        self.count = count
        super().__init__(partial(pictures, count=count), prefix="pictures/")

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the figures, with explanations if there are photos and a network."""
        loaders: Any = trainer.predict_dataloaders
        batches = (loaders[0] if isinstance(loaders, list) else loaders).dataset
        source = self.source
        if source is None and isinstance(batches, PhotoBatches):
            assert isinstance(pl_module, Classifier)
            source = pl_module, batches.dataset
        if source is not None and isinstance(source[0].body, Backbone):
            self.draws = {"pictures": partial(pictures, count=self.count, overlays=partial(overlays, *source))}
        super().on_predict_end(trainer, pl_module)


def overlays(
    model: Classifier, dataset: PhotoDataset, predictions: Predictions, indices: Sequence[int]
) -> dict[int, np.ndarray[Any, Any]]:
    """Explain the predicted class of some photos.

    Args:
        model: the classifier.
        dataset: its photos, with the evaluation transform.
        predictions: predictions for these photos, or for some of them.
        indices: indices of the photos to explain in the predictions.

    Returns:
        Pictures by index; fewer if they cannot be drawn, which the log says.
    """
    numbers = {path: number for number, path in enumerate(dataset.photos.paths)}
    chosen = [numbers[predictions.paths[index]] for index in indices]
    found = {}
    with optional("overlays"):
        explanations = explain(model, dataset, chosen, predictions.predicted[list(indices)].tolist())
        for index, explanation in zip(indices, explanations, strict=True):
            found[index] = overlay(explanation)
    return found
