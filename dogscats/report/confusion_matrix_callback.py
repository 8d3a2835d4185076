"""Confusion matrix callback."""

from dogscats.report.figures.confusion_matrix import confusion_matrix
from dogscats.report.report_callback import Report


class ConfusionMatrix(Report):
    """Draws the confusion matrix after prediction: `confusion_matrix.png`."""

    def __init__(self) -> None:
        super().__init__(confusion_matrix)
