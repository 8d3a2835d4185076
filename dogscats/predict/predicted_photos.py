"""The task `predict=`: predict photos, explain the predictions, and write and print both."""

import glob
import logging
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from dogscats.base.console import progress_bar
from dogscats.base.errors import UserError
from dogscats.base.files import write_csv
from dogscats.base.text import shown
from dogscats.data.photos.listing import EXTENSIONS, list_images, natural_key
from dogscats.lesson.predictions import Predictions
from dogscats.lesson.tta import TTA
from dogscats.predict.tasks import Job
from dogscats.reliability.thresholds import words
from dogscats.report.figure_table import Report
from dogscats.report.figures.drawing import publish
from dogscats.report.figures.photo_figures import draw_explanation
from dogscats.report.summary import MOST_CLASSES

log = logging.getLogger(__name__)

MOST_EXPLAINED = 100
"""Largest number of photos that `explain=true` draws."""


def predict_photos(job: Job) -> None:
    """Predict photos; write `predictions.csv` and, where they apply, `submission.csv` and `explained/`."""
    job.log_device()
    pattern, data = str(job.cfg.predict), job.cfg.data
    paths = find_photos(pattern)
    callbacks = [callback for callback in job.callbacks if not isinstance(callback, TTA | Report)]
    log.info("\nPredicting %d photos, %d versions of each", len(paths), 1 + job.n_aug)
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
    """List the photos matched by a file, folder or glob, in natural order.

    Raises:
        UserError: if no photo matches.
    """
    path = Path(pattern).expanduser()
    if path.is_dir():
        found = list_images(path)
    elif path.is_file():
        found = [path]
    else:
        matched = (Path(match) for match in glob.glob(str(path), recursive=True))  # noqa: PTH207  # also absolute
        found = sorted((p for p in matched if p.is_file() and p.suffix.lower() in EXTENSIONS), key=natural_key)
    if not found:
        raise UserError(
            f"predict={pattern}: no photos found. Give a file, a folder, or a quoted glob, for example "
            "'predict=photos/*.jpg'."
        )
    return found


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
    """Print how many photos have each class, and of a single photo the decision and the probabilities.

    Args:
        predictions: predictions, with decisions where they could be made.
        unreadable: reason for each photo that cannot be read.
        submitted: whether `submission.csv` was written.
    """
    counts = Counter(predictions.predicted_classes)
    few = len(predictions.classes) <= MOST_CLASSES
    names = predictions.classes if few else [name for name, _ in counts.most_common(MOST_CLASSES)]
    for name in names:
        log.info("%6d %s", counts[name], shown(name))
    if predictions.decisions and predictions.unlike is not None:
        decided = Counter(predictions.decisions)
        unsure, none = words(predictions.classes)
        log.info(
            "%6d of all are not classified: %d unsure, %d none of the classes",
            *(decided[unsure] + decided[none], decided[unsure], decided[none]),
        )
        if len(predictions.paths) == 1:
            log.info("Decision: %s; unlike %.2f", shown(predictions.decisions[0]), predictions.unlike[0])
    if len(predictions.paths) == 1:
        probabilities, order = predictions.probabilities[0].topk(min(MOST_CLASSES, len(predictions.classes)))
        for probability, number in zip(probabilities.tolist(), order.tolist(), strict=True):
            log.info("%.4f probability of %s", probability, shown(predictions.classes[number]))
    if unreadable:
        log.warning("%6d cannot be read%s:", len(unreadable), " (not in submission.csv)" if submitted else "")
        for path, reason in unreadable.items():
            log.warning("  %s: %s", shown(path), reason)


def explain_photos(job: Job, predictions: Predictions) -> None:
    """Draw where in each photo its predicted class was seen, to `explained/`; of very many photos, the first ones."""
    some, total = predictions.first(MOST_EXPLAINED), len(predictions.paths)
    if total > MOST_EXPLAINED:
        log.info("\nExplaining the first %d of %d photos; for others: predict=<file or glob>", MOST_EXPLAINED, total)
    probabilities = some.probabilities.max(dim=1).values.tolist()
    explanations = job.predictor.explain(some, job.fabric.device)
    drawn = zip(some.paths, some.predicted_classes, probabilities, explanations, strict=True)
    for number, (path, name, probability, explanation) in enumerate(
        progress_bar(drawn, "Explaining", len(some.paths), "photo"), start=1
    ):
        # As part of a file name on any system; with characters of 4 bytes, below the 255 of file systems.
        part = re.sub(r"[^\w.-]+", "_", Path(path).stem)[:40]
        file = job.run_dir / "explained" / f"{number:0{len(str(MOST_EXPLAINED))}}_{part}.jpg"
        publish(draw_explanation(explanation, path, name, probability), file)
