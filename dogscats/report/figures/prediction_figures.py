"""Figures of predictions: which classes are confused, and how far probabilities and decisions can be relied on."""

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from dogscats.base.text import counted
from dogscats.lesson.predictions import BINS, Predictions, calibration_bins, confused_pairs
from dogscats.report.facts import Facts
from dogscats.report.figures.drawing import as_name, drawable, new_figure, shortened

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
    figure.colorbar(image, ax=axes, shrink=0.8, ticks=MaxNLocator(integer=True))
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


def reliability(predictions: Predictions) -> Figure:
    """Draw accuracy against the probability of the predicted class, above the number of photos per bin.

    Each point is at the mean probability of its bin. Points on the diagonal are perfectly calibrated.
    """
    counts, accuracy, confidence = (
        values.numpy() for values in calibration_bins(predictions.probabilities, predictions.labels)
    )
    left = [number / BINS for number in range(BINS)]
    figure = new_figure(5, 6)
    axes, histogram = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    axes.bar(left, accuracy, 1 / BINS, align="edge", color="tab:blue", alpha=0.4, edgecolor="white")
    axes.plot(confidence, accuracy, "o", color="tab:blue", markersize=5, clip_on=False, label="photos of a bin")
    axes.plot([0, 1], [0, 1], "--", color="gray", label="perfectly calibrated")
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="Accuracy")
    axes.set_title(f"Reliability of {counted(len(predictions.labels), 'photo')}, ECE {predictions.ece:.3g}")
    axes.legend(loc="upper left")
    histogram.bar(left, counts, 1 / BINS, align="edge", color="tab:gray", edgecolor="white")
    histogram.set_yscale("log")
    histogram.yaxis.set_major_formatter("{x:,.0f}")
    histogram.yaxis.set_minor_formatter(NullFormatter())
    histogram.set(ylim=(0.7, 2 * counts.max()), ylabel="Photos", xlabel="Probability of the predicted class")
    return figure


def accuracy_kept(run: Facts) -> Figure | None:
    """Draw the accuracy of classified photos against their share, a curve for each version in `reliability.json`."""
    if not run.reliability:
        return None
    figure = new_figure(6, 4)
    axes = figure.subplots()
    for name, summary in run.reliability.items():
        shares, accuracies = zip(*summary["accuracy_by_share"], strict=True)
        (line,) = axes.plot(shares, accuracies, label=name, clip_on=False)
        axes.plot(summary["kept"], summary["accuracy_kept"], "o", color=line.get_color(), clip_on=False)
    axes.set(xlim=(0, 1), xlabel="Share of the photos that are classified", ylabel="Accuracy of these photos")
    axes.set_title("Accuracy against share kept; points: the run's thresholds")
    axes.legend(loc="lower left")
    return figure
