"""Figure of the confusion matrix."""

from matplotlib.figure import Figure

from dogscats.lesson.predictions import Predictions, confused_pairs
from dogscats.report.figures.drawable_text import as_name, drawable, shortened
from dogscats.report.figures.publish import new_figure

MOST_NUMBERS = 20
"""With more classes, the counts are drawn as colours alone: their numbers would be too small to read."""

MOST_PAIRS = 20
"""Pairs of classes that are listed."""


def confusion_matrix(predictions: Predictions) -> Figure:
    """Draw counts by actual and predicted class, in the lesson's colours: darker for higher counts.

    With many classes, the pairs that were confused most are listed beside it.
    """
    counts, classes = predictions.confusion_matrix, predictions.classes
    few = len(classes) <= MOST_NUMBERS
    side = 2.8 + 0.7 * len(classes) if few else 10
    figure = new_figure(side + (0.9 if few else 4.5), side)
    axes, *beside = figure.subplots(1, 1 if few else 2, squeeze=False, width_ratios=None if few else [2.6, 1])[0]
    image = axes.imshow(counts, cmap="Blues", vmin=0, interpolation="nearest")
    figure.colorbar(image, ax=axes, shrink=0.8)
    if few:
        darkest = max(max(row) for row in counts)
        for row, numbers in enumerate(counts):
            for column, number in enumerate(numbers):
                color = "white" if number > darkest / 2 else "black"
                axes.text(column, row, str(number), ha="center", va="center", color=color)
    # Only some of the names, if there are too many to be read.
    places = range(0, len(classes), -(-len(classes) // (2 * MOST_NUMBERS)))
    names = [drawable(shortened(classes[place])) for place in places]
    axes.set_xticks(places, names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(places, names)
    as_name([*axes.get_xticklabels(), *axes.get_yticklabels()], classes)
    for column in beside:
        column.set_axis_off()
        lines = [
            f"{number:5d}  {shortened(a)} → {shortened(p)}" for a, p, number in confused_pairs(predictions)[:MOST_PAIRS]
        ]
        text = "\n".join(["Most confused: actual → predicted", *lines])
        as_name([column.text(0, 1, drawable(text), va="top", fontsize=9, transform=column.transAxes)], [text])
    axes.set(xlabel="Predicted", ylabel="Actual", title="Confusion matrix")
    return figure
