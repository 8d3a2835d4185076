"""What an evaluation prints about its metrics."""

import logging
from typing import Any

from dogscats.base.text import text_table
from dogscats.lesson.metrics import METRICS
from dogscats.report.summary import MOST_CLASSES

log = logging.getLogger(__name__)


def log_evaluation(metrics: dict[str, Any], split: str) -> None:
    """Print the metrics with and without test-time augmentation, and those of each class, at most 20, worst first."""
    headings = [metric.title for metric in METRICS]
    table: list[list[object]] = [[f"{metrics['n']} photos of {split}", *headings, "95 % interval of the accuracy"]]
    for name, row in (("plain", metrics), ("test-time augmentation", metrics.get("tta"))):
        if row:
            values = (row[metric.evaluated_as or metric.key] for metric in METRICS)
            cells = ("nan" if value is None else f"{value:.5f}" for value in values)
            table.append([name, *cells, "{:.4f} - {:.4f}".format(*row["accuracy_ci95"])])
    log.info("\n%s", "\n".join(text_table(table, left=1)))
    best = metrics.get("tta", metrics)["per_class"]
    names = list(best)
    if len(best) > MOST_CLASSES:
        worst_first = sorted(best, key=lambda name: (best[name]["recall"] is None, best[name]["recall"]))
        names = worst_first[:MOST_CLASSES]
        log.info("\nThe %d classes with the lowest recall, of %d; metrics.json has all:", len(names), len(best))
    by_class: list[list[object]] = [["class", "photos", "precision", "recall"]]
    for name in names:
        row = best[name]
        shares = ["-" if x is None else f"{x:.4f}" for x in (row["precision"], row["recall"])]
        by_class.append([name, row["photos"], *shares])
    log.info("\n%s", "\n".join(text_table(by_class, left=1)))
    if row := metrics.get("reliability"):
        log.info(
            "\n%d photos get a class, with an accuracy of %s; %d are unsure, %d none",
            *(row["kept"], "nan" if row["accuracy_kept"] is None else f"{row['accuracy_kept']:.4f}"),
            *(row["unsure"], row["none"]),
        )
        log.info(
            "With temperature %.3g, as predict= and export= use: log loss %.5f, ECE %.5f",
            *(row["temperature"], row["log_loss"], row["ece"]),
        )
