"""The figures of a run: the table that files, loggers and the page walk over, and the callbacks that draw them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import Logger

from dogscats.base.errors import ArgumentError, optional
from dogscats.data.loading.dataset import PhotoBatches, PhotoDataset
from dogscats.lesson.backbone import Backbone
from dogscats.lesson.classifier import Classifier
from dogscats.lesson.predictions import Predictions
from dogscats.lesson.tta import TTA
from dogscats.report.facts import Facts
from dogscats.report.figures.curves import auto, curve, lr_finder, lr_schedule
from dogscats.report.figures.drawing import Drawn, draw_and_publish
from dogscats.report.figures.photo_figures import augmentation, overlay, pictures
from dogscats.report.figures.prediction_figures import accuracy_kept, confusion_matrix, reliability
from dogscats.report.gradcam import explain


@dataclass(frozen=True)
class RunFigure:
    """A figure of a run: a row of `FIGURES`.

    Attributes:
        name: name of its file, `<name>.png`, and in the loggers.
        draw: function that draws it, from what `drawn_from` says. A function that draws several returns them by name.
        drawn_from: `predictions`: the final `Predictions`, of labelled photos; by `dogscats.Report`. `photos`: the same
            with their photos; by `dogscats.Pictures`. `dataset`: training photos with augmentation, when the run
            starts. `run`: `Facts`, when the run ends.
        section: section of the page that shows it; empty if the template places it.
        alt: what it shows, for those who cannot see it.
        title: heading above it, if any.
        caption: text below it, if any.
        folded: whether the page shows its title alone until it is clicked.
        formats: `png`: saved as a file, which the page embeds, and sent to the loggers. `svg`: drawn on the page, in
            its colours; only from `run`.
        has_node: whether `conf/callbacks/reports.yaml` has a node for it, so that it can be left out. Figures drawn
            from predictions that have none are drawn by the node `figures`.
    """

    name: str
    draw: Callable[[Any], Drawn]
    drawn_from: Literal["predictions", "photos", "dataset", "run"]
    section: Literal["results", "settings", "stages", "confusion", "errors", "calibration", "suspects", "auto", ""]
    alt: str
    title: str = ""
    caption: str = ""
    folded: bool = False
    formats: tuple[str, ...] = ("png",)
    has_node: bool = False


FIGURES = [
    RunFigure(
        "augmentation", augmentation, "dataset", "settings", "Six augmented versions of one training photo",
        title="Augmented versions of one photo", folded=True,
    ),
    RunFigure(
        "loss", partial(curve, name="loss", columns={"training": "train_loss", "validation": "valid_loss"}), "run",
        "stages", "Curve of the loss by epoch", caption="Loss by epoch; dotted lines begin stages", formats=("svg",),
    ),
    RunFigure(
        "accuracy", partial(curve, name="accuracy", columns={"validation": "valid_acc"}), "run", "stages",
        "Curve of the accuracy by epoch", caption="Accuracy by epoch; dotted lines begin stages", formats=("svg",),
    ),
    RunFigure(
        "lr_schedule", lr_schedule, "run", "stages", "Learning rate of the head by iteration, for each stage",
        title="Learning rate", formats=("png", "svg"),
    ),
    RunFigure(
        "auto", auto, "run", "auto", "Accuracy of each network and size that was tried, by seconds",
        caption="Leave-one-out, with 95 % intervals; red: chosen", formats=("png", "svg"),
    ),
    RunFigure(
        "lr_finder", lr_finder, "run", "", "Learning rate by iteration, and smoothed loss by learning rate",
        formats=("svg",),
    ),
    RunFigure(
        "confusion_matrix", confusion_matrix, "predictions", "confusion",
        "Confusion matrix; the tables have the worst of it", has_node=True,
    ),
    RunFigure(
        "most_wrong", pictures, "photos", "errors",
        "The photos that were predicted wrong with the highest probability",
    ),
    RunFigure(
        "most_uncertain", pictures, "photos", "errors",
        "The photos whose predicted class has the lowest probability", title="Most uncertain",
    ),
    *(
        RunFigure(name, pictures, "photos", "errors", f"{title}: photos with their predictions", title, folded=True)
        for name, title in (
            ("most_right", "Most right"), ("random_wrong", "Wrong, at random"), ("random_right", "Right, at random"),
        )
    ),
    RunFigure(
        "reliability", reliability, "predictions", "calibration",
        "Reliability diagram: accuracy of the predictions by their probability, and the number of photos",
        caption="Points on the diagonal are perfectly calibrated.", has_node=True,
    ),
    RunFigure(
        "accuracy_kept", accuracy_kept, "run", "calibration",
        "Accuracy of the most certain predictions, by the share of photos that is kept",
    ),
]  # fmt: skip
"""All figures of a run, in the order of the page. A new one is a function and a row here: files, loggers and the page
follow."""


def publish_figures(run: Facts, loggers: Iterable[Logger]) -> None:
    """Draw the figures of a finished run that come from its files; save them, and send them to the loggers."""
    for row in FIGURES:
        if row.drawn_from == "run" and "png" in row.formats:
            draw_and_publish(row.draw, run, row.name, run.run_dir, loggers)


class Report(Callback):
    """Draws figures after prediction, to PNG files in the run directory and to all loggers.

    A figure that cannot be drawn is named in the log, and costs nothing else. In a config, `draw` of your own is
    `{_target_: my_module.my_figure, _partial_: true}`.

    Example:
        >>> report = Report("confusion_matrix")  # must follow TTA
        >>> trainer = Trainer(callbacks=[TTA(), report], default_root_dir="mine")
        >>> trainer.predict(classifier, data.val_dataloader())  # writes mine/confusion_matrix.png

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

    Example:
        >>> trainer = Trainer(callbacks=[TTA(), Pictures(count=2)], default_root_dir="mine")
        >>> trainer.predict(classifier, data.val_dataloader())  # writes mine/most_wrong.png and others

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
