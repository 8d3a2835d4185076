"""Reliability diagram callback."""

from dogscats.report.figures.reliability_diagram import reliability
from dogscats.report.report_callback import Report


class Reliability(Report):
    """Draws the reliability diagram after prediction: `reliability.png`."""

    def __init__(self) -> None:
        super().__init__(reliability)
