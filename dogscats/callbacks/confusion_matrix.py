"""Confusion matrix callback."""

from dogscats.callbacks.report import Report
from dogscats.plots.confusion_matrix import confusion_matrix


class ConfusionMatrix(Report):
    """Draws the confusion matrix after prediction: `confusion_matrix.png`."""

    def __init__(self) -> None:
        super().__init__(confusion_matrix)
