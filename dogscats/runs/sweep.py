"""Sweeps: `python train.py -m lr=1e-3,1e-2` runs one job per value, and ends with a table."""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from dogscats.runs.errors import user_errors_exit, user_message
from dogscats.runs.files import read_json, write_csv, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

FAILED = "failed"


@contextmanager
def job_errors() -> Iterator[None]:
    """In a sweep, record an error in the job's `metrics.json` and continue; otherwise exit as usual.

    Hydra would stop the sweep at the first error, without a table.
    """
    if HydraConfig.get().mode is not RunMode.MULTIRUN:
        with user_errors_exit():
            yield
        return
    try:
        yield
    except Exception as error:
        message = user_message(error)
        # A user error needs no traceback. Anything else is a bug, so log it with one.
        log.error("error: %s", message or error, exc_info=message is None)
        file = Path(HydraConfig.get().runtime.output_dir) / "metrics.json"
        write_json(file, {**(read_json(file) or {}), "error": message or repr(error)})


@dataclass(frozen=True)
class Job:
    """A job of a sweep.

    Attributes:
        number: job number.
        overrides: overrides of the job, by key.
        metric: value of the metric; NaN if the job failed.
        status: `finished`, or `failed: <reason>`.
        run_dir: run directory of the job.
    """

    number: int
    overrides: dict[str, str]
    metric: float
    status: str
    run_dir: Path

    @classmethod
    def read(cls, run_dir: Path, metric: str) -> "Job":
        """Read a job from its run directory."""
        overrides = OmegaConf.load(run_dir / ".hydra" / "overrides.yaml")
        pairs = dict(str(override).split("=", 1) for override in overrides if "=" in str(override))
        metrics: dict[str, Any] = read_json(run_dir / "metrics.json") or {}
        value: Any = metrics
        for key in metric.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if "error" in metrics or not isinstance(value, int | float):
            reason = str(metrics.get("error", f"it did not write {metric}")).split("\n")[0]
            value, status = math.nan, f"{FAILED}: {reason}"
        else:
            status = "finished"
        return cls(int(run_dir.name), pairs, value, status, run_dir)


def draw_sweep(jobs: Sequence[Job], keys: Sequence[str], metric: str) -> "Figure":
    """Draw the metric against the swept value; against labels if values are not numeric or several keys are swept."""
    from dogscats.plots.publish import new_figure

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
        SystemExit: with code 1, if a job failed.
    """

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Read the results of the jobs, and report them."""
        # Imported here, because Hydra loads this class before it shows a help text or an error.
        from dogscats.data.images import natural_key
        from dogscats.plots.publish import publish
        from dogscats.runs.console import text_table

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

        write_csv(
            folder / "sweep.csv",
            ["job", *swept, "metric", "status", "run_dir"],
            (
                [
                    job.number,
                    *(job.overrides.get(key, "") for key in swept),
                    job.metric,
                    job.status,
                    job.run_dir,
                ]
                for job in best_first
            ),
        )
        publish(draw_sweep(jobs, swept, metric), folder / "sweep.png")

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
        print("\n".join(text_table(rows, left=len(rows[0]))))
        print(f"Written to {folder}: sweep.csv, sweep.png")
        print(f"Compare the runs: tensorboard --logdir {folder}")
        failed = sum(job.status.startswith(FAILED) for job in jobs)
        if failed:
            raise SystemExit(f"error: {failed} of {len(jobs)} jobs failed; the table says why.")
