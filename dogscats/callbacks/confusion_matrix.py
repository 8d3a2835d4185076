"""The lesson's confusion matrix."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger

from dogscats.callbacks.tta import TTA
from dogscats.plots import new_figure, publish


def draw_confusion_matrix(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> Figure:
    """Draw counts in the lesson's colours: the more photos, the darker the blue."""
    side = 2.8 + 0.7 * len(classes)
    figure = new_figure(side + 0.9, side)
    axes = figure.subplots()
    image = axes.imshow(counts, cmap="Blues", vmin=0)
    figure.colorbar(image, ax=axes, shrink=0.8)
    darkest = max(max(row) for row in counts)
    for row, numbers in enumerate(counts):
        for column, number in enumerate(numbers):
            color = "white" if number > darkest / 2 else "black"
            axes.text(column, row, str(number), ha="center", va="center", color=color)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="Predicted", ylabel="Actual", title="Confusion matrix")
    return figure


class ConfusionMatrix(Callback):
    """Draws the confusion matrix when predicting ends, to a PNG file and to TensorBoard.

    Args:
        tta: has the predictions; it stands before this in the Trainer's list.
        folder: of the PNG file, `confusion_matrix.png`.
        logger: shows it as `confusion_matrix`.
    """

    def __init__(self, tta: TTA, folder: Path, logger: TensorBoardLogger | None = None):
        self.tta, self.folder, self.logger = tta, folder, logger

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw."""
        predictions = self.tta.best
        figure = draw_confusion_matrix(predictions.confusion_matrix, predictions.classes)
        publish(figure, self.folder / "confusion_matrix.png", self.logger, "confusion_matrix")
