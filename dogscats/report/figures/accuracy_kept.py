"""Figure of the accuracy of the photos that get a class, against their share."""

from matplotlib.figure import Figure

from dogscats.report.facts import Facts
from dogscats.report.figures.publish import new_figure


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
    axes.set(xlim=(0, 1), xlabel="Share of the validation photos that get a class", ylabel="Accuracy of these photos")
    axes.set_title("Accuracy against share kept; points: the run's thresholds")
    axes.legend(loc="lower left")
    return figure
