"""The tasks that predict photos: evaluate labelled ones (the default), or predict any and explain why (`predict=`)."""

import glob
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dogscats.base.console import peak_rss_mb, progress_bar
from dogscats.base.errors import UserError
from dogscats.base.files import write_csv, write_json
from dogscats.base.text import counted, listed, percent, percents, plural, shown, text_table
from dogscats.data.photos.listing import is_image_name, is_leftover, list_images, natural_key
from dogscats.data.photos.split import split_of
from dogscats.lesson.metrics import METRICS, evaluation_metrics, loss_text
from dogscats.lesson.predictions import Predictions
from dogscats.lesson.tta import TTA, predict, tta_loaders
from dogscats.predict.tasks import Job
from dogscats.reliability.thresholds import words
from dogscats.report.facts import Result
from dogscats.report.figure_table import Report
from dogscats.report.figures.drawing import publish
from dogscats.report.figures.photo_figures import decision_title, draw_explanation
from dogscats.report.summary import MOST_CLASSES, log_confusion_matrix, write_confused_pairs
from dogscats.report.verdict import headline

log = logging.getLogger(__name__)

MOST_EXPLAINED = 100
"""Largest number of photos that `explain=true` draws."""


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
    """Predict photos; write `predictions.csv` and, where they apply, `submission.csv` and `explained/`."""
    job.log_device()
    pattern, data = str(job.cfg.predict), job.cfg.data
    paths = find_photos(pattern)
    callbacks = [callback for callback in job.callbacks if not isinstance(callback, TTA | Report)]
    log.info("\nPredicting %s, %s of each", counted(len(paths), "photo"), counted(1 + job.n_aug, "version"))
    predictions, unreadable = job.predictor.predict(
        paths, job.n_aug, data.batch_size, data.num_workers, job.make_trainer, callbacks
    )
    predictions.write(job.run_dir / "predictions.csv")
    submitted = write_submission(predictions, job.run_dir / "submission.csv")
    log_predictions(predictions, unreadable, submitted)
    if not predictions.paths:
        raise UserError(f"predict={pattern}: none of the photos can be read.")
    if job.cfg.explain and job.fabric.is_global_zero:
        explain_photos(job, predictions)


def find_photos(pattern: str) -> list[Path]:
    """List the photos matched by a file, folder or glob, in natural order. A matched folder stands for its photos.

    Raises:
        UserError: if no photo matches.
    """
    path = Path(pattern).expanduser()
    if path.is_file():
        return [path]
    photos: set[Path] = set()
    for match in _matched(Path(path.anchor), path.relative_to(path.anchor).parts):
        if match.is_dir():
            photos.update(list_images(match))
        elif is_image_name(match.parent, match.name):
            photos.add(match)
    if not photos:
        missing = "there is no such file or folder" if not glob.has_magic(pattern) and not path.exists() else ""
        raise UserError(
            f"predict={pattern}: {missing or 'no photos found'}. Give a file, a folder, or a quoted glob, for example "
            "'predict=photos/*.jpg'."
        )
    return sorted(photos, key=natural_key)


def _matched(folder: Path, parts: Sequence[str]) -> Iterator[Path]:
    """Yield what is in `folder` and matches the parts of a glob; a part that exists is no pattern: `photos[1]`."""
    if not parts:
        yield folder
        return
    name, *rest = parts
    if os.path.lexists(folder / name):
        yield from _matched(folder / name, rest)
        return
    found = glob.glob(name, root_dir=folder, recursive=True)  # noqa: PTH207  # relative to the folder
    for match in ["", *found] if name == "**" else found:
        if not any(map(is_leftover, Path(match).parts)):
            yield from _matched(folder / match, rest)


def write_submission(predictions: Predictions, path: Path) -> bool:
    """Write Kaggle's `id,label`: the photo's number and the probability of the second class.

    Returns:
        Whether the file was written. It requires two classes and files named by unique numbers.
    """
    numbers = [Path(name).stem for name in predictions.paths]
    numbered = all(number.isdecimal() for number in numbers) and len(set(numbers)) == len(numbers) > 0
    if len(predictions.classes) != 2 or not numbered:
        return False
    labels = [f"{probability:.6g}" for probability in predictions.probabilities[:, 1].tolist()]
    write_csv(path, ["id", "label"], zip(numbers, labels, strict=True))
    return True


def log_predictions(predictions: Predictions, unreadable: Mapping[str, str], submitted: bool) -> None:
    """Print how many photos are of each class, unsure or none, and of a single photo also the probabilities.

    Args:
        predictions: predictions, with decisions where they could be made.
        unreadable: reason for each photo that cannot be read.
        submitted: whether `submission.csv` was written.
    """
    counts = Counter(predictions.decisions or predictions.predicted_classes)
    classes, unclassified = predictions.classes, words(predictions.classes)
    if len(classes) > MOST_CLASSES:
        classes = [name for name, _ in counts.most_common() if name not in unclassified]
    groups = ([f"{counts[name]} {name}" for name in names if counts[name]] for names in (classes, unclassified))
    decided = ", ".join(listed(group, MOST_CLASSES) for group in groups if group)
    log.info("%s: %s", counted(len(predictions.paths), "photo"), decided)
    if len(predictions.paths) == 1:
        if predictions.decisions and predictions.unlike is not None:
            log.info("Decision: %s; unlike %.2f", shown(predictions.decisions[0]), predictions.unlike[0])
        (probabilities,) = predictions.probabilities
        texts = percents(probabilities.tolist())
        for number in probabilities.argsort(descending=True, stable=True)[:MOST_CLASSES].tolist():
            log.info("%6s %s", texts[number], shown(predictions.classes[number]))
    if unreadable:
        log.warning("%d cannot be read%s:", len(unreadable), " (not in submission.csv)" if submitted else "")
        for path, reason in unreadable.items():
            log.warning("  %s: %s", shown(path), reason)


def explain_photos(job: Job, predictions: Predictions) -> None:
    """Draw where in each photo its predicted class was seen, to `explained/`; of very many photos, the first ones."""
    some, total = predictions.first(MOST_EXPLAINED), len(predictions.paths)
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
        file = job.run_dir / "explained" / f"{number:0{len(str(MOST_EXPLAINED))}}_{part}.jpg"
        publish(draw_explanation(explanation, path, name, probability), file)
