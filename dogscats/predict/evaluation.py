"""The tasks that predict photos: evaluate labelled ones (the default), or predict any and explain why (`predict=`)."""

import logging
import re
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dogscats.base.console import peak_rss_mb, progress_bar
from dogscats.base.errors import UserError
from dogscats.base.files import digest, write_csv, write_json
from dogscats.base.locks import locked
from dogscats.base.text import counted, listed, percent, percents, plural, shown, text_table
from dogscats.data.photos.split import split_of
from dogscats.lesson.metrics import METRICS, loss_text, per_class, wilson_interval
from dogscats.lesson.predictions import Predictions
from dogscats.lesson.tta import TTA, is_limited, predict, tta_loaders
from dogscats.predict.find_photos import EXPLAINED, find_photos, folder_of
from dogscats.predict.growing import GrowingPredictions
from dogscats.predict.sorting import sort_photos, why_not_sorted
from dogscats.predict.tasks import Job
from dogscats.reliability.kept import RELIABILITY
from dogscats.reliability.thresholds import words
from dogscats.report.facts import Result
from dogscats.report.figure_table import Report
from dogscats.report.figures.drawing import publish
from dogscats.report.figures.photo_figures import decision_title, draw_explanation
from dogscats.report.summary import MOST_CLASSES, log_confusion_matrix, write_confused_pairs
from dogscats.report.verdict import headline
from dogscats.runs.directory import PREDICTIONS, checkpoint_of, run_of

log = logging.getLogger(__name__)

MOST_EXPLAINED = 100
"""Largest number of photos that `explain=true` draws."""


def evaluation_metrics(predictions: Predictions) -> dict[str, Any]:
    """Compute the metrics of labelled photos, as plain numbers.

    Example:
        >>> evaluation_metrics(predictions)["accuracy_ci95"]  # 95 % Wilson interval

    Args:
        predictions: predictions for `N` labelled photos.

    Returns:
        `n`, the metrics of `METRICS`: `accuracy`, `balanced_accuracy`, `macro_f1`, `log_loss`, `log_loss_clipped`,
        `roc_auc`, `ece`; `accuracy_ci95` after the accuracy; `per_class` (`photos`, `precision` and `recall` by class
        name), and `confusion_matrix` by actual class (row) and predicted class (column). Undefined values, such as the
        recall of a class without photos, are `None`.
    """
    counts, n = np.array(predictions.confusion_matrix), len(predictions.labels)
    return {
        "n": n,
        "accuracy": predictions.accuracy,
        "accuracy_ci95": wilson_interval(int(counts.trace()), n),  # beside the accuracy
        **{metric.evaluated_as or metric.key: metric.compute(predictions) for metric in METRICS},
        "per_class": per_class(predictions.classes, counts),
        "confusion_matrix": counts.tolist(),
    }


def evaluate_photos(job: Job) -> None:
    """Predict the photos of `split`; write metrics, predictions, plots and pictures."""
    job.log_device()
    data, predictor = job.data(), job.predictor
    split = job.split(data)
    if split != job.cfg.split and job.cfg.data.root is None:
        raise UserError(
            f"split={job.cfg.split}: the run has no validation photos (data.valid_fraction=0). Evaluate other photos, "
            "data.root=<folder>, or a labelled test/, split=test. By leave-one-out, its metrics.json has loo_acc."
        )
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
        best.write(job.run_dir / PREDICTIONS)
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
    """Print the result in words, the metrics with and without test-time augmentation, and those of each class."""
    (accuracy, *others), n, judged = METRICS, metrics["n"], metrics.get("tta", metrics)
    result = Result(
        split, "tta" in metrics, n, judged["accuracy_ci95"], {"acc": judged["accuracy"]}, judged["confusion_matrix"]
    )
    log.info("\n%s", headline(metrics["classes"], result, f"{plural(n, 'photo')} of {split}"))
    headings = [accuracy.title, "95 % interval", *(metric.short or metric.title for metric in others)]
    table: list[list[object]] = [[f"{counted(n, 'photo')} of {split}", *headings]]
    for name, row in (("plain", metrics), ("test-time augmentation", metrics.get("tta"))):
        if row:
            values = [metric.text(row[metric.evaluated_as or metric.key], n) for metric in METRICS]
            interval = " - ".join(percent(bound, n) for bound in row["accuracy_ci95"])
            table.append([name, values[0], interval, *values[1:]])
    log.info("\n%s", "\n".join(text_table(table, left=1)))
    best = judged["per_class"]
    names = list(best)
    if len(best) > MOST_CLASSES:
        worst_first = sorted(best, key=lambda name: (best[name]["recall"] is None, best[name]["recall"]))
        names = worst_first[:MOST_CLASSES]
        log.info("\nThe %d classes with the lowest recall, of %d; metrics.json has all:", len(names), len(best))
    by_class: list[list[object]] = [["class", "photos", "precision", "recall"]]
    for name in names:
        shares = (
            "-" if best[name][key] is None else percent(best[name][key], best[name]["photos"])
            for key in ("precision", "recall")
        )
        by_class.append([name, best[name]["photos"], *shares])
    log.info("\n%s", "\n".join(text_table(by_class, left=1)))
    if row := metrics.get("reliability"):
        log.info(
            "\n%s classified, with an accuracy of %s; %d unsure, %d none",
            f"{counted(row['kept'], 'photo')} {plural(row['kept'], 'is', 'are')}",
            "-" if row["accuracy_kept"] is None else percent(row["accuracy_kept"], row["kept"]),
            *(row["unsure"], row["none"]),
        )
        log.info(
            "With temperature %.3g, as predict= and export= use: log loss %s, ECE %s",
            *(row["temperature"], loss_text(row["log_loss"], n), loss_text(row["ece"], n)),
        )


def predict_photos(job: Job) -> None:
    """Predict photos; write `predictions.csv` and, where they apply, `submission.csv`, `sorted/` and `explained/`.

    Predictions that were interrupted are continued.
    """
    job.log_device()
    pattern, data = str(job.cfg.predict), job.cfg.data
    names = [path.as_posix() for path in find_photos(pattern)]
    callbacks = [callback for callback in job.callbacks if not isinstance(callback, TTA | Report)]
    log.info("\nPredicting %s, %s of each", counted(len(names), "photo"), counted(1 + job.n_aug, "version"))
    with locked(job.run_dir / ".lock", shown(job.run_dir), timeout=10):
        growing = GrowingPredictions(job.run_dir, names, job.predictor.classes, _origin(job))
        begun, obstacle = 0, None
        if job.fabric.is_global_zero:
            begun = growing.resume(None if is_limited(job.make_trainer()) else data.batch_size)
            obstacle = job.cfg.sort and why_not_sorted(job.cfg.sort, names, job.run_dir)
        begun, growing.unreadable, obstacle = job.fabric.broadcast((begun, growing.unreadable, obstacle))
        if obstacle:
            raise UserError(obstacle)
        if begun:
            log.info("Resuming  %d of them are done", begun)
        settings = (job.n_aug, data.batch_size, data.num_workers, job.make_trainer, callbacks)
        for predictions, unreadable in job.predictor.predict_in_parts(names[begun:], *settings):
            growing.append(predictions, unreadable)
        if len(growing.unreadable) == len(names):
            log_unreadable(growing.unreadable)
            raise UserError(f"predict={pattern}: none of the photos can be read.")
        if job.fabric.is_global_zero:
            finish_predictions(job, growing)


def _origin(job: Job) -> str:
    """Identify what makes predictions: the classifier, its thresholds, and the folder that paths are relative to."""
    checkpoint = checkpoint_of(job.cfg.run or job.cfg.ckpt)
    files = (checkpoint, run_of(checkpoint) / RELIABILITY)
    return " ".join([*(digest(file) for file in files if file.is_file()), str(Path.cwd())])


def finish_predictions(job: Job, growing: GrowingPredictions) -> None:
    """Write and print what depends on all predictions."""
    submitted = write_submission(growing, job.run_dir / "submission.csv")
    counts, first = Counter(decision for _, decision in growing.decided()), next(iter(growing))
    log_predictions(dict(counts.most_common()), first)
    log_unreadable(growing.unreadable, " (not in submission.csv)" if submitted else "")
    if job.cfg.sort:
        base = folder_of(str(job.cfg.predict))
        sort_photos(growing.decided(), counts.total(), growing.classes, base, job.run_dir, job.cfg.sort)
    if job.cfg.explain:
        explain_photos(job, first.first(MOST_EXPLAINED), counts.total())
    growing.finish()


def write_submission(predictions: GrowingPredictions, path: Path) -> bool:
    """Write Kaggle's `id,label`: the photo's number and the probability of the second class.

    Returns:
        Whether the file was written. It requires two classes and files named by unique numbers.
    """
    if len(predictions.classes) != 2:
        return False
    rows = [
        (Path(name).stem, f"{probability:.6g}")
        for part in predictions
        for name, probability in zip(part.paths, part.probabilities[:, 1].tolist(), strict=True)
    ]
    numbers = {number for number, _ in rows}
    if len(numbers) != len(rows) or not all(map(str.isdecimal, numbers)):
        return False
    write_csv(path, ["id", "label"], rows)
    return True


def log_predictions(counts: Mapping[str, int], first: Predictions) -> None:
    """Print how many photos are of each class, unsure or none, and of a single photo also the probabilities.

    Args:
        counts: photos of each class, or of each decision where they could be made; the most frequent first.
        first: predictions of the first photos.
    """
    classes, unclassified = first.classes, words(first.classes)
    if len(classes) > MOST_CLASSES:
        classes = [name for name in counts if name not in unclassified]
    groups = ([f"{counts[name]} {name}" for name in names if counts.get(name)] for names in (classes, unclassified))
    decided = ", ".join(listed(group, MOST_CLASSES) for group in groups if group)
    total = sum(counts.values())
    log.info("%s: %s", counted(total, "photo"), decided)
    if total == 1:
        if first.decisions and first.unlike is not None:
            log.info("Decision: %s; unlike %.2f", shown(first.decisions[0]), first.unlike[0])
        (probabilities,) = first.probabilities
        texts = percents(probabilities.tolist())
        for number in probabilities.argsort(descending=True, stable=True)[:MOST_CLASSES].tolist():
            log.info("%6s %s", texts[number], shown(first.classes[number]))


def log_unreadable(unreadable: Mapping[str, str], also: str = "") -> None:
    """Name the photos that cannot be read, each with its reason.

    Args:
        unreadable: reason for each photo.
        also: where else they are left out.
    """
    if unreadable:
        log.warning("%d cannot be read%s:", len(unreadable), also)
        for path, reason in unreadable.items():
            log.warning("  %s: %s", shown(path), reason)


def explain_photos(job: Job, some: Predictions, total: int) -> None:
    """Draw where in each photo its predicted class was seen, to `explained/`; of very many photos, the first ones.

    Args:
        job: the task.
        some: predictions of the first photos, at most `MOST_EXPLAINED`.
        total: number of all photos.
    """
    if total > MOST_EXPLAINED:
        log.info("\nExplaining the first %d of %d photos; for others: predict=<file or glob>", MOST_EXPLAINED, total)
    probabilities = some.probabilities.max(dim=1).values.tolist()
    explanations = job.predictor.explain(some, job.fabric.device)
    titles = map(decision_title, some.decisions or some.predicted_classes, some.predicted_classes)
    drawn = zip(some.paths, titles, probabilities, explanations, strict=True)
    for number, (path, name, probability, explanation) in enumerate(
        progress_bar(drawn, "Explaining", len(some.paths), "photo"), start=1
    ):
        # As part of a file name on any system; with characters of 4 bytes, below the 255 of file systems.
        part = re.sub(r"[^\w.-]+", "_", Path(path).stem)[:40]
        file = job.run_dir / EXPLAINED / f"{number:0{len(str(MOST_EXPLAINED))}}_{part}.jpg"
        publish(draw_explanation(explanation, path, name, probability), file)
