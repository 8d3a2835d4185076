"""The default task: predict labelled photos, and write and print metrics."""

import logging
import time
from typing import Any

from dogscats.base.console import peak_rss_mb
from dogscats.base.files import write_json
from dogscats.base.text import text_table
from dogscats.data.photos.split import split_of
from dogscats.lesson.metrics import METRICS, evaluation_metrics
from dogscats.lesson.tta import TTA, predict, tta_loaders
from dogscats.predict.tasks import Job
from dogscats.report.summary import MOST_CLASSES, log_confusion_matrix, write_confused_pairs

log = logging.getLogger(__name__)


def evaluate_photos(job: Job) -> None:
    """Predict the photos of `split`; write metrics, predictions, plots and pictures."""
    job.log_device()
    split, predictor = job.cfg.split, job.predictor
    data = job.data()
    photos = job.labelled(data, split)
    if job.cfg.data.root is None and (split == "." or split_of(split) == "train"):
        log.warning("The network was trained on photos of %s, so their metrics are too good", split)
    if data.held_out:
        valid = split_of(split) == "valid"
        share, rest = (data.valid_fraction, "train") if valid else (1 - data.valid_fraction, "valid")
        log.info("These are %g %% of the photos in %s; split=%s has the others", 100 * share, data.held_out, rest)
        if data.held_out.endswith("<class>/"):
            log.info("To evaluate all of them: split=.")
    job.write_bad_images(data.bad)
    metrics: dict[str, Any] = {"classes": predictor.classes}

    def write(tta: TTA) -> None:
        reliability = predictor.reliability
        best = reliability.decided(tta.best, bool(tta.averaged)) if reliability else tta.best
        best.write(job.run_dir / "predictions.csv")
        metrics.update(evaluation_metrics(tta.plain))
        if tta.averaged:
            metrics["tta"] = evaluation_metrics(tta.averaged)
        if reliability:
            metrics["reliability"] = reliability.metrics(tta.best, bool(tta.averaged))
        metrics["seconds"] = round(time.perf_counter() - job.started, 3)
        metrics["peak_rss_mb"] = round(peak_rss_mb(), 1)
        write_json(job.run_dir / "metrics.json", metrics)
        write_confused_pairs(job.run_dir, tta.best)

    loaders = tta_loaders(data, photos, job.n_aug)
    tta = predict(predictor.model, loaders, job.make_trainer, job.callbacks, write=write)
    log_evaluation(metrics, split)
    log_confusion_matrix(tta.best)


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
        shares = ("-" if best[name][key] is None else f"{best[name][key]:.4f}" for key in ("precision", "recall"))
        by_class.append([name, best[name]["photos"], *shares])
    log.info("\n%s", "\n".join(text_table(by_class, left=1)))
    if row := metrics.get("reliability"):
        log.info(
            "\n%d photos are classified, with an accuracy of %s; %d are unsure, %d none",
            *(row["kept"], "nan" if row["accuracy_kept"] is None else f"{row['accuracy_kept']:.4f}"),
            *(row["unsure"], row["none"]),
        )
        log.info(
            "With temperature %.3g, as predict= and export= use: log loss %.5f, ECE %.5f",
            *(row["temperature"], row["log_loss"], row["ece"]),
        )
