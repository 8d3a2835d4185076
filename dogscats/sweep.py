"""Sweeps: `python train.py -m lr=1e-3,1e-2` runs a job for each value, and ends with a table."""

import csv
import json
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf

from dogscats.atomic import atomic_path
from dogscats.errors import user_errors_exit, user_message
from dogscats.images import natural_key
from dogscats.plots import new_figure, publish

log = logging.getLogger(__name__)

FAILED = "failed"


@contextmanager
def job_errors() -> Iterator[None]:
    """In a sweep, record an error in the job's `metrics.json` and let the next job run; else as usual.

    Hydra itself would end the sweep with the first error, and no table.
    """
    if HydraConfig.get().mode is not RunMode.MULTIRUN:
        with user_errors_exit():
            yield
        return
    try:
        yield
    except Exception as error:
        message = user_message(error)
        # A user's mistake needs no traceback; anything else is a defect, which the log must explain.
        log.error("error: %s", message or error, exc_info=message is None)
        file = Path(HydraConfig.get().runtime.output_dir) / "metrics.json"
        metrics = json.loads(file.read_text()) if file.exists() else {}
        with atomic_path(file) as temporary:
            temporary.write_text(json.dumps({**metrics, "error": message or repr(error)}, indent=2) + "\n")


@dataclass(frozen=True)
class Job:
    """A job of a sweep.

    Attributes:
        number: of the job.
        overrides: its settings by their keys.
        metric: what it returned, NaN if it failed.
        status: `finished`, or `failed: <why>`.
        run_dir: its directory.
    """

    number: int
    overrides: dict[str, str]
    metric: float
    status: str
    run_dir: Path

    @classmethod
    def read(cls, run_dir: Path, metric: str) -> "Job":
        """Read a job from the directory that it has written."""
        overrides = OmegaConf.load(run_dir / ".hydra" / "overrides.yaml")
        pairs = dict(str(override).split("=", 1) for override in overrides if "=" in str(override))
        file = run_dir / "metrics.json"
        metrics: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        value: Any = metrics
        for key in metric.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if "error" in metrics or not isinstance(value, int | float):
            reason = str(metrics.get("error", f"it has not written {metric}")).split("\n")[0]
            value, status = math.nan, f"{FAILED}: {reason}"
        else:
            status = "finished"
        return cls(int(run_dir.name), pairs, value, status, run_dir)


def draw_sweep(jobs: Sequence[Job], keys: Sequence[str], metric: str) -> Figure:
    """Draw the metric against the swept value, or the values' names if they are no numbers or several."""
    figure = new_figure(8, 4.5)
    axes = figure.subplots()
    names = [", ".join(job.overrides.get(key, "") for key in keys) for job in jobs]
    try:
        points = sorted((float(name), job.metric) for name, job in zip(names, jobs, strict=True))
    except ValueError:
        axes.plot(names, [job.metric for job in jobs], "o")
        axes.tick_params(axis="x", labelrotation=30)
    else:
        axes.plot(*zip(*points, strict=True), "o-")
        if points[0][0] > 0 and points[-1][0] / points[0][0] >= 10:
            axes.set_xscale("log")
    axes.set(xlabel=", ".join(keys), ylabel=metric)
    axes.grid(alpha=0.3)
    return figure


class SweepReport(Callback):
    """Ends a sweep with a table sorted by the metric, `sweep.csv` and `sweep.png`.

    Raises:
        SystemExit: with code 1, if a job has failed.
    """

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Read what the jobs have written, and report."""
        folder = Path(config.hydra.sweep.dir)
        metric = config.optimized_metric
        found = [file.parent.parent for file in folder.glob("*/.hydra/overrides.yaml")]
        jobs = [Job.read(path, metric) for path in sorted(found, key=natural_key)]
        if not jobs:
            return
        every = dict.fromkeys(key for job in jobs for key in job.overrides)
        swept = [key for key in every if len({job.overrides.get(key) for job in jobs}) > 1] or list(every)
        sign = 1 if "loss" in metric else -1
        best_first = sorted(jobs, key=lambda job: (math.isnan(job.metric), sign * job.metric))

        with atomic_path(folder / "sweep.csv") as temporary, temporary.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["job", *swept, "metric", "status", "run_dir"])
            for job in best_first:
                values = [job.overrides.get(key, "") for key in swept]
                writer.writerow([job.number, *values, job.metric, job.status, job.run_dir])
        publish(draw_sweep(jobs, swept, metric), folder / "sweep.png", None, "sweep")

        rows = [["job", *swept, metric, "status"]]
        rows += [
            [
                str(job.number),
                *(job.overrides.get(k, "") for k in swept),
                f"{job.metric:.5f}",
                shorten(job.status, 60),
            ]
            for job in best_first
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        print(f"Written to {folder}: sweep.csv, sweep.png")
        print(f"Compare the runs: tensorboard --logdir {folder}")
        failed = sum(job.status.startswith(FAILED) for job in jobs)
        if failed:
            raise SystemExit(f"error: {failed} of {len(jobs)} jobs failed; the table says why.")
