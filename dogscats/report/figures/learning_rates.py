"""Figures of learning rates: the LR finder's curve, and the schedule of each stage."""

import math
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from dogscats.lesson.stage import GROUPS
from dogscats.report.facts import Facts
from dogscats.report.figures.publish import new_figure

if TYPE_CHECKING:
    from dogscats.lesson.lr_finder import LRCurve


def lr_curve(curve: "LRCurve", skip: int) -> Figure:
    """Draw the lesson's two plots: learning rate against iteration, and loss against learning rate.

    Args:
        curve: result of the LR finder.
        skip: number of initial steps to omit, in which the average loss is unreliable; all are drawn if there are few.
    """
    figure = new_figure(11, 4.2)
    left, right = figure.subplots(1, 2)
    left.plot(curve.lrs)
    left.set(xlabel="iteration", ylabel="learning rate", title="Learning rate, step by step")
    start = skip if len(curve.lrs) > 2 * skip else 0
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
    rows, stages = run.table("lr_trace.csv"), run.stages
    if not rows:
        return None
    figure = new_figure(1 + 3.6 * len(stages), 3.6)
    panels = figure.subplots(1, len(stages), squeeze=False, sharey=True)[0]
    for axes, stage in zip(panels, stages, strict=True):
        axes.plot([float(row["head"]) for row in rows if row["stage"] == stage.name])
        title = stage.name
        if stage.freeze_to < 2:
            ratios = [f"{group} x{ratio:g}" for group, ratio in zip(GROUPS, stage.lr_ratios, strict=True)]
            title += f"\n({', '.join(ratios[stage.freeze_to : -1])})"
        axes.set(title=title, xlabel="iteration", ylim=(0, None))
    panels[0].set_ylabel("learning rate of the head")
    return figure
