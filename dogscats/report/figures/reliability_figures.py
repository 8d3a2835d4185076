"""Figures of reliability: whether probabilities are right, and how accurate the classified photos are."""

from matplotlib.figure import Figure

from dogscats.lesson.predictions import BINS, Predictions, calibration_bins
from dogscats.report.facts import Facts
from dogscats.report.figures.publish import new_figure


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
    axes.set_title(f"Reliability of {len(predictions.labels)} photos, ECE {predictions.ece:.4f}")
    axes.legend(loc="upper left")
    histogram.bar(left, counts, 1 / BINS, align="edge", color="tab:gray", edgecolor="white")
    histogram.set_yscale("log")
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
    axes.set(
        xlim=(0, 1), xlabel="Share of the validation photos that are classified", ylabel="Accuracy of these photos"
    )
    axes.set_title("Accuracy against share kept; points: the run's thresholds")
    axes.legend(loc="lower left")
    return figure
