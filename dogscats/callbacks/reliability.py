"""The reliability diagram: how often predictions of a given probability are right."""

from pathlib import Path

from matplotlib.figure import Figure
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger

from dogscats.callbacks.tta import TTA
from dogscats.metrics import BINS, calibration_bins, expected_calibration_error
from dogscats.plots import new_figure, publish
from dogscats.predictions import Predictions


def draw_reliability(predictions: Predictions) -> Figure:
    """Draw accuracy against the probability of the predicted class, above the number of photos in each bin.

    Each bin's point is at its photos' mean probability; on the diagonal a probability means what it says.
    """
    counts, accuracy, confidence = (values.numpy() for values in calibration_bins(predictions))
    left = [number / BINS for number in range(BINS)]
    figure = new_figure(5, 6)
    axes, histogram = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    axes.bar(left, accuracy, 1 / BINS, align="edge", color="tab:blue", alpha=0.4, edgecolor="white")
    axes.plot(
        confidence, accuracy, "o", color="tab:blue", markersize=5, clip_on=False, label="photos of a bin"
    )
    axes.plot([0, 1], [0, 1], "--", color="gray", label="perfectly calibrated")
    ece = expected_calibration_error(predictions)
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="Accuracy")
    axes.set_title(f"Reliability of {len(predictions.labels)} photos, ECE {ece:.4f}")
    axes.legend(loc="upper left")
    histogram.bar(left, counts, 1 / BINS, align="edge", color="tab:gray", edgecolor="white")
    histogram.set_yscale("log")
    histogram.set(ylim=(0.7, 2 * counts.max()), ylabel="Photos", xlabel="Probability of the predicted class")
    return figure


class Reliability(Callback):
    """Draws the reliability diagram when predicting ends, to a PNG file and to TensorBoard.

    Args:
        tta: has the predictions; it stands before this in the Trainer's list.
        folder: of the PNG file, `reliability.png`.
        logger: shows it as `reliability`.
    """

    def __init__(self, tta: TTA, folder: Path, logger: TensorBoardLogger | None = None):
        self.tta, self.folder, self.logger = tta, folder, logger

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw."""
        publish(draw_reliability(self.tta.best), self.folder / "reliability.png", self.logger, "reliability")
