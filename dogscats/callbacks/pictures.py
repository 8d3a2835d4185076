"""Pictures of right, wrong and uncertain predictions."""

from functools import partial

from dogscats.callbacks.report import Report
from dogscats.plots.pictures import pictures


class Pictures(Report):
    """Draws photos of each kind after prediction: `most_wrong.png` and so on.

    Args:
        count: photos per row.
    """

    def __init__(self, count: int = 4):
        super().__init__(partial(pictures, count=count), prefix="pictures/")
