"""Figures of curves: losses and accuracies epoch by epoch, the LR finder's loss, and the schedule of each stage."""

import math
from collections.abc import Mapping
from itertools import groupby
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dogscats.lesson.lr_finder import SKIP, LRCurve
from dogscats.lesson.stage import GROUPS
from dogscats.report.facts import Facts
from dogscats.report.figures.drawing import as_name, drawable, new_figure


def curve(run: Facts, name: str, columns: Mapping[str, str]) -> Figure | None:
    """Draw a metric of all epochs of a run, one stage after the other.

    Args:
        run: the run.
        name: name of the metric.
        columns: columns of `history.csv` by label.

    Returns:
        The figure; `None` if there are no values.
    """
    closed_form = [stage.name for stage in run.stages if stage.is_closed_form]  # these have one point, and no curve
    rows = [row for row in run.rows("history.csv") if row["stage"] not in closed_form]
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
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(columns) > 1:
        axes.legend()
    axes.grid(alpha=0.25)
    return figure


def auto(run: Facts) -> Figure | None:
    """Draw the accuracy of what `recipe=auto` tried against the seconds that it took; `None` for other recipes."""
    rows = [row for row in run.tried if row["accuracy"] is not None]
    if not rows:
        return None
    figure = new_figure(7, 4.5)
    axes = figure.subplots()
    middle = max(row["seconds"] for row in rows) / 2
    for row in rows:
        color, point = "tab:red" if row["chosen"] else "tab:blue", (row["seconds"], row["accuracy"])
        axes.vlines(row["seconds"], row["ci95_low"], row["ci95_high"], color=color, linewidth=0.8)
        axes.plot(*point, "o", color=color)
        if row["chosen"] or " + " not in row["candidate"]:
            left = row["seconds"] < middle
            place: dict[str, Any] = {"xytext": (4 if left else -4, 4), "ha": "left" if left else "right"}
            text = axes.annotate(drawable(row["candidate"]), point, fontsize=7, textcoords="offset points", **place)
            as_name([text], [row["candidate"]])
    axes.set(xlabel="seconds", ylabel="accuracy on photos left out", xlim=(0, None))
    axes.grid(alpha=0.25)
    return figure


def lr_finder(run: Facts) -> dict[str, Figure]:
    """Draw the LR finder's curve before each stage that had one; figures by the name of its CSV file."""
    return {file.stem: lr_curve(LRCurve.read(file)) for file in sorted(run.run_dir.glob("lr_finder*.csv"))}


def lr_curve(curve: LRCurve) -> Figure:
    """Draw the lesson's two plots: learning rate against iteration, and loss against learning rate.

    The initial steps, in which the average loss is unreliable, are omitted; all are drawn if there are few.
    """
    figure = new_figure(11, 4.2)
    left, right = figure.subplots(1, 2)
    left.plot(curve.lrs)
    left.set(xlabel="iteration", ylabel="learning rate", title="Learning rate, step by step")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    start = SKIP if len(curve.lrs) > 2 * SKIP else 0
    right.plot(curve.lrs[start:], curve.smoothed[start:])
    if curve.has_minimum:
        right.axvline(curve.suggestion, color="tab:red", linestyle="--", label=f"suggestion {curve.suggestion:.2g}")
        right.legend()
    # Limit the y-axis, or the diverging part would flatten the rest of the curve.
    losses = [loss if math.isfinite(loss) else math.inf for loss in curve.smoothed[start:]]
    lowest = losses.index(min(losses))
    if lowest > 0:
        right.set_ylim(0.9 * losses[lowest], 1.05 * max(losses[: lowest + 1]))
    right.set(xscale="log", xlabel="learning rate (log scale)", ylabel="smoothed loss", title="Loss")
    return figure


def lr_schedule(run: Facts) -> Figure | None:
    """Draw the lesson's plot of learning rate against iteration, one panel per stage; `None` without `lr_trace.csv`."""
    rows, stages = list(run.rows("lr_trace.csv")), [stage for stage in run.stages if not stage.is_closed_form]
    if not rows:
        return None
    figure = new_figure(1 + 3.6 * len(stages), 3.6)
    panels = figure.subplots(1, len(stages), squeeze=False, sharey=True)[0]
    for axes, stage in zip(panels, stages, strict=True):
        axes.plot([float(row["head"]) for row in rows if row["stage"] == stage.name])
        title = stage.name
        if stage.trains_body:
            ratios = [f"{group} x{ratio:g}" for group, ratio in zip(GROUPS, stage.lr_ratios, strict=True)]
            title += f"\n({', '.join(ratios[stage.freeze_to : -1])})"
        axes.set(title=title, xlabel="iteration", ylim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_ylabel("learning rate of the head")
    return figure
