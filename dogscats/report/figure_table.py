"""The figures of a run: the table that files, loggers, the page and `dogscats.Report` walk over."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from pytorch_lightning.loggers import Logger

from dogscats.report.facts import Facts
from dogscats.report.figures.confusion_matrix import confusion_matrix
from dogscats.report.figures.curves import curve, lr_finder, lr_schedule
from dogscats.report.figures.photo_figures import augmentation, pictures
from dogscats.report.figures.publish import Drawn, draw_and_publish
from dogscats.report.figures.reliability_figures import accuracy_kept, reliability


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
    section: Literal["results", "settings", "stages", "confusion", "errors", "calibration", "suspects", ""]
    alt: str
    title: str = ""
    caption: str = ""
    folded: bool = False
    formats: tuple[str, ...] = ("png",)
    has_node: bool = False


LOSSES = {"training": "train_loss", "validation": "valid_loss"}
"""Columns of `history.csv` by label."""

FIGURES = [
    RunFigure(
        "augmentation", augmentation, "dataset", "settings", "Six augmented versions of one training photo",
        title="Augmented versions of one photo", folded=True,
    ),
    RunFigure(
        "loss", partial(curve, name="loss", columns=LOSSES), "run", "stages", "Curve of the loss by epoch",
        caption="Loss by epoch; dotted lines begin stages", formats=("svg",),
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
        "lr_finder", lr_finder, "run", "", "Learning rate by iteration, and smoothed loss by learning rate",
        formats=("svg",),
    ),
    RunFigure(
        "confusion_matrix", confusion_matrix, "predictions", "confusion",
        "Confusion matrix; the tables have its numbers", has_node=True,
    ),
    RunFigure(
        "most_wrong", pictures, "photos", "errors",
        "The photos that were predicted wrong with the highest probability, with Grad-CAM overlays",
    ),
    RunFigure(
        "most_uncertain", pictures, "photos", "errors",
        "The photos whose predicted class has the lowest probability, with Grad-CAM overlays", title="Most uncertain",
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
