"""What a run reports: `metrics.json`, and the summary on the console."""

import json
import logging
import resource
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from dogscats.atomic import atomic_path
from dogscats.errors import UserError
from dogscats.predictions import Predictions

log = logging.getLogger(__name__)


class RunReport:
    """The figures of a run, in `metrics.json` after every stage: also the record of how far it has come.

    Args:
        run_dir: the run's directory.
        classes: names of the classes.
        started: when the run began, by `time.perf_counter`.
    """

    def __init__(self, run_dir: Path, classes: Sequence[str], started: float):
        self.run_dir, self.started = run_dir, started
        self.metrics: dict[str, Any] = {"classes": list(classes), "lr_finder": {}, "stages": {}, "final": {}}

    def resume(self, metrics: Mapping[str, Any], stages: Collection[str]) -> None:
        """Take over the figures of an interrupted run.

        Args:
            metrics: its `metrics.json`.
            stages: names of the stages whose figures still hold.
        """
        self.started -= metrics["seconds"]
        self.metrics["stages"] = {k: v for k, v in metrics["stages"].items() if k in stages}
        self.metrics["lr_finder"] = dict(metrics["lr_finder"])

    def add_suggestion(self, stage: str, lr: float) -> None:
        """Record the learning rate that the LR finder suggests for a stage."""
        self.metrics["lr_finder"][stage] = lr
        self.write()

    def add_stage(self, name: str, figures: Mapping[str, float]) -> None:
        """Record the last epoch's figures of a stage."""
        self.metrics["stages"][name] = dict(figures)
        self.write()

    def finish(self, plain: Predictions, averaged: Predictions | None) -> None:
        """Record the figures over the validation photos, and write their predictions.

        Args:
            plain: predictions without test-time augmentation.
            averaged: predictions with it, or `None`; what is written is these, where there are any.
        """
        final: dict[str, Any] = {
            "n": len(plain.labels),
            "valid_acc": plain.accuracy,
            "valid_loss": plain.log_loss,
        }
        if averaged:
            final |= {"valid_acc_tta": averaged.accuracy, "valid_loss_tta": averaged.log_loss}
        predictions = averaged or plain
        self.metrics["final"] = {**final, "confusion_matrix": predictions.confusion_matrix}
        self.metrics["peak_rss_mb"] = round(peak_rss_mb(), 1)
        predictions.write(self.run_dir / "predictions_valid.csv")
        self.write()

    def write(self) -> None:
        """Write `metrics.json`; it is never half-written."""
        self.metrics["seconds"] = round(time.perf_counter() - self.started, 3)
        with atomic_path(self.run_dir / "metrics.json") as temporary:
            temporary.write_text(json.dumps(self.metrics, indent=2) + "\n")

    @property
    def final_numbers(self) -> dict[str, float]:
        """The final figures by their dotted paths."""
        final = self.metrics["final"]
        return {f"final.{k}": v for k, v in final.items() if k not in ("n", "confusion_matrix")}

    def summarise(self) -> None:
        """Print the table of stages, the final figures and what was written."""
        log.info(
            "\n%-12s %6s %11s %11s %10s %9s",
            "stage",
            "epochs",
            "train_loss",
            "valid_loss",
            "valid_acc",
            "seconds",
        )
        for name, row in self.metrics["stages"].items():
            figures = [row[key] for key in ("epochs", "train_loss", "valid_loss", "valid_acc", "seconds")]
            log.info("%-12s %6d %11.5f %11.5f %10.4f %9.1f", name, *figures)
        final = self.metrics["final"]
        log.info("\n%-30s accuracy  log loss", f"{final['n']} validation photos")
        log.info("%-30s   %.4f   %.5f", "centre crop", final["valid_acc"], final["valid_loss"])
        if "valid_acc_tta" in final:
            accuracy, loss = final["valid_acc_tta"], final["valid_loss_tta"]
            log.info("%-30s   %.4f   %.5f", "test-time augmentation", accuracy, loss)
        log_confusion_matrix(self.metrics["classes"], final["confusion_matrix"])
        log.info(
            "\n%.1f s, %.0f MB of memory at the peak", self.metrics["seconds"], self.metrics["peak_rss_mb"]
        )
        log_written(self.run_dir)
        log.info("See the curves and pictures: tensorboard --logdir %s", self.run_dir / "tensorboard")


def look_up(metrics: Mapping[str, Any], path: str) -> float:
    """Look up a number in the contents of a `metrics.json` by its dotted path.

    Raises:
        UserError: if there is none.
    """
    value: Any = metrics
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    if not isinstance(value, int | float):
        final = [f"final.{k}" for k, v in metrics["final"].items() if isinstance(v, float)]
        raise UserError(
            f"optimized_metric={path}: metrics.json has no such number; for example {', '.join(final)}."
        )
    return value


def log_confusion_matrix(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> None:
    """Print the counts by the right class (row) and the predicted class (column)."""
    width = max(map(len, [*classes, "actual \\ predicted"])) + 2
    log.info("\n" + "".join(f"{name:>{width}}" for name in ["actual \\ predicted", *classes]))
    for name, row in zip(classes, counts, strict=True):
        log.info("".join(f"{cell:>{width}}" for cell in [name, *row]))


def log_written(run_dir: Path) -> None:
    """Print the files in a run's directory."""
    log.info("\nWritten to %s:", run_dir)
    for path in sorted(run_dir.rglob("*")):
        relative = path.relative_to(run_dir)
        if path.is_file() and relative.parts[0] not in (".hydra", "tensorboard"):
            log.info("  %s", relative)


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)  # macOS counts bytes, Linux kilobytes
