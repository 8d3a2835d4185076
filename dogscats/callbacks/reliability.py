"""Reliability diagram callback."""

from dogscats.callbacks.report import Report
from dogscats.plots.reliability import reliability


class Reliability(Report):
    """Draws the reliability diagram after prediction: `reliability.png`."""

    def __init__(self) -> None:
        super().__init__(reliability)
