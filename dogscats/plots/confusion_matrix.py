"""Figure of the confusion matrix."""

from matplotlib.figure import Figure

from dogscats.metrics import Predictions
from dogscats.plots.publish import new_figure


def confusion_matrix(predictions: Predictions) -> Figure:
    """Draw counts by actual and predicted class, in the lesson's colours: darker for higher counts."""
    counts, classes = predictions.confusion_matrix, predictions.classes
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
