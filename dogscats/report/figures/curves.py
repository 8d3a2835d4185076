"""Figures of the losses and accuracies of a run, epoch by epoch."""

from collections.abc import Mapping
from itertools import groupby

from matplotlib.figure import Figure

from dogscats.report.facts import Facts
from dogscats.report.figures.publish import new_figure


def curve(run: Facts, name: str, columns: Mapping[str, str]) -> Figure | None:
    """Draw a metric of all epochs of a run, one stage after the other.

    Args:
        run: the run.
        name: name of the metric.
        columns: columns of `history.csv` by label.

    Returns:
        The figure; `None` if there are no values.
    """
    rows = run.table("history.csv")
    values = {label: [float(row.get(key) or "nan") for row in rows] for label, key in columns.items()}
    if all(value != value for column in values.values() for value in column):
        return None
    figure = new_figure(5.4, 3.6)
    axes = figure.subplots()
    for label, column in values.items():
        axes.plot(range(1, len(rows) + 1), column, marker=".", label=label)
    stages, begin = [(stage, len(list(group))) for stage, group in groupby(row["stage"] for row in rows)], 0.5
    for stage, epochs in stages if len(stages) > 1 else []:
        axes.axvline(begin, color="tab:gray", linewidth=0.8, linestyle=":")
        axes.text(begin, 1.02, stage, transform=axes.get_xaxis_transform(), fontsize=8, rotation=15)
        begin += epochs
    axes.set(xlim=(0.5, len(rows) + 0.5), xlabel="epoch", ylabel=name)
    if len(columns) > 1:
        axes.legend()
    axes.grid(alpha=0.25)
    return figure
