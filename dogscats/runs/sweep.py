"""Sweeps: `python train.py -m lr=1e-3,1e-2` runs one job per value, and ends with a table."""

import hashlib
import logging
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from dogscats.base.environment import command
from dogscats.base.errors import Diverged, UserError, first_line, user_message
from dogscats.base.files import read_json, write_csv, write_json
from dogscats.base.locks import locked
from dogscats.base.rules import values_by_key
from dogscats.base.signals import finish_undisturbed
from dogscats.base.text import counted, setting, shown, text_table

# torch and matplotlib are imported where they are used: Hydra loads this module before it shows a help text.
if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

FINISHED, UNFINISHED, FAILED, DIVERGED = "finished", "unfinished", "failed", "diverged"
"""How a job ended; `failed` and `diverged` are followed by the reason."""


@contextmanager
def sweep_job(cfg: DictConfig) -> Iterator[None]:
    """Record how a job of a sweep ends, and rewrite the table; an error does not stop the sweep.

    Outside a sweep, errors are passed on. A job is recorded in the folder of the sweep, by its overrides: a job that is
    refused writes nothing to a run directory, which may belong to another.
    """
    hydra = HydraConfig.get()
    if hydra.mode is not RunMode.MULTIRUN:
        yield
        return
    sweep = Sweep(Path(hydra.runtime.cwd) / hydra.sweep.dir, cfg.optimized_metric)
    number, overrides, run_dir = int(hydra.job.num), list(hydra.overrides.task), hydra.runtime.output_dir
    file = sweep.records / f"{number}-{hashlib.blake2b(repr(overrides).encode(), digest_size=8).hexdigest()}.json"
    record = {"number": number, "overrides": overrides, "run_dir": run_dir, "status": UNFINISHED}
    write_json(file, record)
    try:
        yield
        record["status"] = FINISHED
    except Exception as error:
        message = user_message(error)
        # A user error needs no traceback. Anything else is a bug, so log it with one.
        log.error("error: %s", message or error, exc_info=message is None)
        kind = DIVERGED if isinstance(error, Diverged) else FAILED
        record["status"] = f"{kind}: {shown(first_line(Exception(message or repr(error))))}"
    finally:
        write_json(file, record)
        with locked(sweep.records / "lock", "the table of the sweep"):
            sweep.write_table()


@dataclass(frozen=True)
class Job:
    """A job of a sweep.

    Attributes:
        number: job number.
        overrides: overrides of the job, by key.
        metric: value of the metric; NaN if the job is not finished.
        status: `finished`, `unfinished`, `failed: <reason>` or `diverged: <reason>`.
        run_dir: run directory of the job.
    """

    number: int
    overrides: dict[str, str]
    metric: float
    status: str
    run_dir: Path

    @classmethod
    def read(cls, file: Path, metric: str) -> "Job":
        """Read a job from its record, and its metric from its run directory."""
        record: Any = read_json(file)
        run_dir, status, value = Path(record["run_dir"]), record["status"], math.nan
        if status == FINISHED:
            try:
                value = look_up(read_json(run_dir / "metrics.json") or {}, metric)
            except UserError as error:
                status = f"{FAILED}: {first_line(error)}"
        return cls(record["number"], values_by_key(record["overrides"]), value, status, run_dir)

    def values(self, keys: Sequence[str]) -> list[str]:
        """Return the overrides of some keys; empty text for those that are not overridden."""
        return [self.overrides.get(key, "") for key in keys]


class Sweep(NamedTuple):
    """A sweep, as its jobs have recorded it.

    Attributes:
        folder: folder of the sweep.
        metric: path of the compared metric in each `metrics.json`.
    """

    folder: Path
    metric: str

    @property
    def records(self) -> Path:
        """Folder with a record of each job, and the command of the sweep."""
        return self.folder / ".sweep"

    @property
    def command(self) -> Path:
        """File with the arguments of the command."""
        return self.records / "command.json"

    def jobs(self) -> list[Job]:
        """Read all jobs, best first."""
        files = sorted(file for file in self.records.glob("*.json") if file != self.command)
        jobs = sorted((Job.read(file, self.metric) for file in files), key=lambda job: job.number)
        best_first = [job for job in jobs if not math.isnan(job.metric)]
        if best_first:
            from dogscats.report.optimized_metric import larger_is_better

            best_first.sort(key=lambda job: job.metric, reverse=larger_is_better(self.metric))
        return best_first + [job for job in jobs if math.isnan(job.metric)]

    def write_table(self) -> list[Job]:
        """Write `sweep.csv` with the jobs so far, best first, and return them."""
        jobs = self.jobs()
        keys = swept_keys(jobs)
        rows = ([job.number, *job.values(keys), job.metric, job.status, job.run_dir] for job in jobs)
        write_csv(self.folder / "sweep.csv", ["job", *keys, "metric", "status", "run_dir"], rows)
        return jobs

    def report(self, hint: str = "") -> list[Job]:
        """Write and print the table of the jobs so far, print a hint, and draw `sweep.png`; return the jobs."""
        jobs = self.write_table()
        keys = swept_keys(jobs)
        rows = [["job", *keys, self.metric, "status"]]
        rows += [[str(job.number), *job.values(keys), f"{job.metric:.5g}", shorten(job.status, 60)] for job in jobs]
        print("\n".join(text_table(rows, left=len(rows[0]))))
        if hint:
            print(hint, flush=True)
        # Last: matplotlib and torch take seconds to import.
        from dogscats.report.figures.drawing import publish

        publish(draw_sweep(jobs, keys, self.metric), self.folder / "sweep.png")
        print(f"Written to {self.folder}: sweep.csv, sweep.png")
        print(f"Compare the runs: tensorboard --logdir {shlex.quote(str(self.folder))}")
        return jobs


def swept_keys(jobs: Sequence[Job]) -> list[str]:
    """Keys whose values differ between jobs; all keys if there is only one job."""
    every = dict.fromkeys(key for job in jobs for key in job.overrides)
    return [key for key in every if len({job.overrides.get(key) for job in jobs}) > 1] or list(every)


def look_up(metrics: Mapping[str, Any], path: str) -> float:
    """Look up a number in the content of a `metrics.json` by its dotted path.

    Raises:
        UserError: if there is no such number.
    """
    final = metrics.get("final", {})
    if "n_loo" in final and "valid_acc" not in final:  # without validation photos, leave-one-out takes their place
        path = path.replace("final.valid_", "final.loo_").removesuffix("_tta")
    value: Any = metrics
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    if not isinstance(value, int | float):
        examples = [f"final.{key}" for key in final if key.startswith(("valid_", "loo_"))]
        raise UserError(f"optimized_metric={path}: metrics.json has no such number. Examples: {', '.join(examples)}.")
    return value


def draw_sweep(jobs: Sequence[Job], keys: Sequence[str], metric: str) -> "Figure":
    """Draw the metric against the swept value; against labels if values are not numeric or several keys are swept."""
    from dogscats.report.figures.drawing import as_name, drawable, new_figure

    figure = new_figure(8, 4.5)
    axes = figure.subplots()
    jobs = sorted(jobs, key=lambda job: job.number)
    names = [", ".join(job.values(keys)) for job in jobs]
    try:
        points = sorted((float(name), job.metric) for name, job in zip(names, jobs, strict=True))
    except ValueError:
        places = range(len(names))
        axes.plot(places, [job.metric for job in jobs], "o")
        axes.set_xticks(places, [drawable(name) for name in names], rotation=30)
        as_name(axes.get_xticklabels(), names)
    else:
        axes.plot(*zip(*points, strict=True), "o-")
        if points[0][0] > 0 and points[-1][0] / points[0][0] >= 10:
            axes.set_xscale("log")
    axes.set(xlabel=drawable(", ".join(keys)), ylabel=metric)
    axes.grid(alpha=0.3)
    return figure


class SweepReport(Callback):
    """Ends a sweep with a table sorted by the metric, `sweep.csv` and `sweep.png`.

    The same command with the same `hydra.sweep.dir` continues a sweep: finished jobs are skipped, interrupted ones are
    resumed.
    """

    current: ClassVar[Sweep | None] = None
    """Sweep that this process runs."""

    running: ClassVar[ExitStack] = ExitStack()
    """Holds the lock of that sweep."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a folder that holds another sweep.

        Raises:
            SystemExit: with a message for the user.
        """
        sweep = Sweep(Path(config.hydra.sweep.dir).expanduser(), config.optimized_metric)
        typed = list(config.hydra.overrides.task)
        try:
            before = read_json(sweep.command)
            if before not in (None, typed):
                raise UserError(
                    f"{sweep.folder}: it holds another sweep, of {' '.join(before)}. Choose another folder, or give "
                    "the same command to continue that sweep."
                )
            write_json(sweep.command, typed)
            # Workers of a process that was killed may hold the lock for a few seconds more.
            self.running.enter_context(locked(sweep.records / "running.lock", str(sweep.folder), timeout=10))
        except UserError as error:
            raise SystemExit(f"error: hydra.sweep.dir={error}") from error
        SweepReport.current = sweep

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table.

        Raises:
            SystemExit: with code 1, if a job is not finished. It is raised even if the table cannot be made: Hydra
                would report an error here as a warning.
        """
        sweep = SweepReport.current or Sweep(Path(config.hydra.sweep.dir), config.optimized_metric)
        SweepReport.current = None
        self.running.close()
        try:
            jobs = sweep.report()
        except Exception as error:
            reason = user_message(error) or repr(error)
            raise SystemExit(f"error: the table of the sweep cannot be made: {reason}") from error
        failed = sum(job.status != FINISHED for job in jobs)
        if failed or not jobs:
            raise SystemExit(f"error: {failed} of {counted(len(jobs), 'job')} failed; the table says why.")


@contextmanager
def sweep_table() -> Iterator[None]:
    """Print the table of the jobs so far, if a sweep is interrupted or stops at an error."""
    try:
        yield
    except BaseException:
        finish_undisturbed()
        if (sweep := SweepReport.current) is not None:
            SweepReport.current = None
            SweepReport.running.close()
            with suppress(Exception):
                again = " ".join(
                    [*map(shlex.quote, read_json(sweep.command)), setting("hydra.sweep.dir", sweep.folder)]
                )
                sweep.report(f"To continue the sweep (with the same launcher, if any): {command('train')} -m {again}")
        raise
