"""Metrics of a run at its end: on the console and in `metrics.json`."""

import logging
import shlex
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dogscats.base.console import peak_rss_mb
from dogscats.base.environment import command
from dogscats.base.files import write_csv, write_json
from dogscats.base.text import counted, shown, text_table
from dogscats.lesson.metrics import final_metrics, per_class, wilson_interval
from dogscats.lesson.predictions import CONFUSED_PAIRS, Predictions, confused_pairs
from dogscats.report import page
from dogscats.report.history import epoch_headings, epoch_text
from dogscats.report.run_files import log_written
from dogscats.report.verdict import AUGMENTED

log = logging.getLogger(__name__)

MOST_CLASSES = 20
"""With more classes, tables have no row or column for each class."""


class RunReport:
    """Metrics of a run, written to `metrics.json` after every stage; also the record of its progress.

    Args:
        run_dir: run directory.
        started: start time of the run, by `time.perf_counter`.
        classes: class names.
    """

    def __init__(self, run_dir: Path, started: float, classes: Sequence[str] = ()):
        self.run_dir, self.started = run_dir, started
        self.metrics: dict[str, Any] = {"classes": list(classes), "lr_finder": {}, "stages": {}, "final": {}}

    def resume(self, metrics: Mapping[str, Any], stages: Collection[str]) -> None:
        """Restore the metrics of an interrupted run.

        Args:
            metrics: content of its `metrics.json`.
            stages: names of the stages whose metrics are still valid.
        """
        self.started -= metrics["seconds"]
        self.metrics["stages"] = {k: v for k, v in metrics["stages"].items() if k in stages}
        self.metrics["lr_finder"] = dict(metrics["lr_finder"])

    def add_suggestion(self, stage: str, lr: float | None) -> None:
        """Record the LR finder's suggestion for a stage; `None` if it has none."""
        self.metrics["lr_finder"][stage] = lr
        self.write()

    def add_stage(self, name: str, metrics: Mapping[str, Any]) -> None:
        """Record the metrics of a stage's last epoch, or of the epoch whose weights it kept."""
        self.metrics["stages"][name] = dict(metrics)
        self.write()

    def finish(
        self,
        plain: Predictions | None,
        averaged: Predictions | None,
        stage: str | None = None,
        augmented: tuple[float, float] | None = None,
        left_out: Predictions | None = None,
        strangers: Mapping[str, Any] | None = None,
    ) -> None:
        """Record the final metrics of validation and leave-one-out, and write the predictions.

        Args:
            plain: predictions without test-time augmentation; `None` without validation photos.
            averaged: predictions with test-time augmentation, or `None`; written instead of `plain` if available.
            stage: name of the stage whose weights predicted them.
            augmented: as of `augmented_accuracy`.
            left_out: predictions of the training photos by leave-one-out, if it is valid; without validation photos
                they take their place.
            strangers: metrics of known strangers, as of `passing`.
        """
        predictions = averaged or plain or left_out
        assert predictions is not None
        self.predictions = predictions
        self.metrics["final"] = {
            "stage": stage,
            "n": len(predictions.labels),
            **_final("valid", plain, averaged),
            **(dict(zip(AUGMENTED, augmented, strict=True)) if augmented else {}),
            "confusion_matrix": predictions.confusion_matrix,
            **(_left_out(left_out) if left_out else {}),
            **(strangers or {}),
        }
        self.metrics["peak_rss_mb"] = round(peak_rss_mb(), 1)
        predictions.write(self.run_dir / f"predictions_{'valid' if plain else 'loo'}.csv")
        write_confused_pairs(self.run_dir, predictions)
        self.write()

    def add_test(self, plain: Predictions, averaged: Predictions | None) -> None:
        """Record the metrics of the labelled test photos, and write the predictions; see `finish`."""
        best = averaged or plain
        self.metrics["final"] |= {"n_test": len(plain.labels), **_final("test", plain, averaged)}
        self.metrics["final"]["test_confusion_matrix"] = best.confusion_matrix
        best.write(self.run_dir / "predictions_test.csv")
        self.write()

    def write(self) -> None:
        """Write `metrics.json` atomically."""
        self.metrics["seconds"] = round(time.perf_counter() - self.started, 3)
        write_json(self.run_dir / "metrics.json", self.metrics)

    @property
    def final_numbers(self) -> dict[str, float]:
        """Final metrics by dotted path; those that are undefined are left out."""
        final, counts = self.metrics["final"], ("n", "n_loo", "n_test", "n_strangers")
        return {f"final.{k}": v for k, v in final.items() if isinstance(v, int | float) and k not in counts}

    def summarise(self) -> None:
        """Print the table of stages, the final metrics and the files written."""
        stages, n = self.metrics["stages"], self.metrics["final"]["n"]
        kept = ["kept"] if any("kept" in row for row in stages.values()) else []
        headings = epoch_headings(stages.values())
        rows: list[list[object]] = [["stage", "epochs", *kept, *headings.values(), "seconds"]]
        for name, row in stages.items():
            cells = [epoch_text(key, row[key], n) if key in row else "-" for key in headings]
            rows.append([name, row["epochs"], *(row.get(key, "last") for key in kept), *cells, f"{row['seconds']:.1f}"])
        log.info("\n%s", "\n".join(text_table(rows, left=1)))
        final = self.metrics["final"]
        if "n_loo" in final:
            self._log_final("loo", "n_loo", "left-out training photo")
        if "valid_acc" in final:
            self._log_final("valid", "n", "validation photo")
        log_confusion_matrix(self.predictions)
        if "n_test" in final:
            self._log_final("test", "n_test", "test photo")
        log.info("\n%.1f s, %.0f MB of memory at the peak", self.metrics["seconds"], self.metrics["peak_rss_mb"])
        log_written(self.run_dir)
        if (self.run_dir / "tensorboard").is_dir():
            log.info(
                "See the curves and pictures: tensorboard --logdir %s", shlex.quote(f"{self.run_dir / 'tensorboard'}")
            )
        if (self.run_dir / page.FILE).is_file():
            log.info("Open %s in a browser: all of this on one page", shown(self.run_dir / page.FILE))
        log.info("Try photos in a browser: python -m dogscats.demo run=%s", shlex.quote(str(self.run_dir)))
        log.info("Find wrong labels: %s run=%s suspects=true", command("evaluate"), shlex.quote(str(self.run_dir)))

    def _log_final(self, split: str, key: str, photo: str) -> None:
        """Print the final metrics of a split, without and with test-time augmentation."""
        final = self.metrics["final"]
        rows: list[list[object]] = [[counted(final[key], photo), *(metric.title for metric in final_metrics())]]
        for name, suffix in (("plain", ""), ("test-time augmentation", "_tta")):
            if f"{split}_acc{suffix}" in final:
                rows.append(
                    [name, *(row.text(final[f"{split}_{row.key}{suffix}"], final[key]) for row in final_metrics())]
                )
        log.info("\n%s", "\n".join(text_table(rows, left=1)))


def _final(split: str, plain: Predictions | None, averaged: Predictions | None) -> dict[str, float | None]:
    """Compute the metrics of a split, without and with test-time augmentation: `<split>_<metric>` and `..._tta`."""
    return {
        f"{split}_{metric.key}{suffix}": metric.compute(version)
        for suffix, version in (("", plain), ("_tta", averaged))
        if version
        for metric in final_metrics()
    }


def _left_out(predictions: Predictions) -> dict[str, Any]:
    """Compute the metrics of leave-one-out: those of a split, and the interval of the accuracy, counts and recalls."""
    counts, n = np.array(predictions.confusion_matrix), len(predictions.labels)
    return {
        "n_loo": n,
        **_final("loo", predictions, None),
        "loo_ci95": wilson_interval(int(counts.trace()), n),
        "loo_confusion_matrix": counts.tolist(),
        "loo_recall": {name: row["recall"] for name, row in per_class(predictions.classes, counts).items()},
    }


def write_confused_pairs(run_dir: Path, predictions: Predictions) -> None:
    """Write `confused_pairs.csv`: actual, predicted, photos; most confused first."""
    write_csv(run_dir / CONFUSED_PAIRS, ["actual", "predicted", "photos"], confused_pairs(predictions))


def log_confusion_matrix(predictions: Predictions) -> None:
    """Print counts by actual class (row) and predicted class (column); with many classes, the most confused pairs."""
    classes = predictions.classes
    if len(classes) <= MOST_CLASSES:
        counted = zip(classes, predictions.confusion_matrix, strict=True)
        log.info("\n%s", "\n".join(text_table([["actual \\ predicted", *classes], *([n, *row] for n, row in counted)])))
    elif pairs := confused_pairs(predictions)[:MOST_CLASSES]:
        log.info("\n%s", "\n".join(text_table([["most confused: actual", "predicted", "photos"], *pairs], left=2)))
