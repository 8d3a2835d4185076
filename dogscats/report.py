"""What a run reports: `metrics.json`, and the summary on the console."""

import json
import logging
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dogscats.atomic import atomic_path
from dogscats.errors import UserError
from dogscats.predictions import Predictions

log = logging.getLogger(__name__)


class RunReport:
    """The figures of a run, in `metrics.json` after every stage.

    Args:
        run_dir: the run's directory.
        classes: names of the classes.
    """

    def __init__(self, run_dir: Path, classes: Sequence[str]):
        self.run_dir = run_dir
        self.metrics: dict[str, Any] = {"classes": list(classes), "stages": {}, "final": {}}

    def add_stage(self, name: str, figures: Mapping[str, float]) -> None:
        """Record the last epoch's figures of a stage."""
        self.metrics["stages"][name] = dict(figures)
        self.write()

    def finish(self, predictions: Predictions, seconds: float) -> None:
        """Record the figures over the validation photos, and write their predictions."""
        self.metrics["final"] = {
            "n": len(predictions.labels),
            "valid_acc": predictions.accuracy,
            "valid_loss": predictions.log_loss,
            "confusion_matrix": predictions.confusion_matrix,
        }
        self.metrics["seconds"] = round(seconds, 3)
        self.metrics["peak_rss_mb"] = round(peak_rss_mb(), 1)
        predictions.write(self.run_dir / "predictions_valid.csv")
        self.write()

    def write(self) -> None:
        """Write `metrics.json`; it is never half-written."""
        with atomic_path(self.run_dir / "metrics.json") as temporary:
            temporary.write_text(json.dumps(self.metrics, indent=2) + "\n")

    def metric(self, path: str) -> float:
        """Look up a number by its dotted path.

        Raises:
            UserError: if there is none.
        """
        value: Any = self.metrics
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if not isinstance(value, int | float):
            known = [f"final.{key}" for key, number in self.metrics["final"].items() if key[0] == "v"]
            raise UserError(
                f"optimized_metric={path}: {self.run_dir / 'metrics.json'} has no such number; "
                f"for example {', '.join(known)}."
            )
        return value

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
        log.info(
            "\nvalid_acc %.4f   valid_loss %.5f   on %d photos   %.1f s   %.0f MB at the peak",
            final["valid_acc"], final["valid_loss"], final["n"], self.metrics["seconds"],
            self.metrics["peak_rss_mb"],
        )  # fmt: skip
        log.info("\nWritten to %s:", self.run_dir)
        for path in sorted(self.run_dir.rglob("*")):
            relative = path.relative_to(self.run_dir)
            if path.is_file() and relative.parts[0] not in (".hydra", "tensorboard"):
                log.info("  %s", relative)
        log.info("See the curves and pictures: tensorboard --logdir %s", self.run_dir / "tensorboard")


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)  # macOS counts bytes, Linux kilobytes
