"""Photos to predict, and what is written and printed about their predictions."""

import glob
import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from dogscats.base.errors import UserError
from dogscats.base.files import write_csv
from dogscats.base.text import shown
from dogscats.data.pixels.images import EXTENSIONS, list_images, natural_key
from dogscats.lesson.metrics import Predictions
from dogscats.reliability.thresholds import words
from dogscats.report.summary import MOST_CLASSES

log = logging.getLogger(__name__)


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
            "%6d of all get no class: %d unsure, %d none of the classes",
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
