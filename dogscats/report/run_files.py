"""The files that a command has written, and what each is for: the list at its end."""

import logging
from fnmatch import fnmatch
from itertools import groupby
from pathlib import Path

from dogscats.base.text import shown, text_table
from dogscats.report.figure_table import FIGURES

log = logging.getLogger(__name__)

MOST_LISTED = 10
"""Files of one folder below the run directory that are listed by name."""

TO_OPEN = 3
"""Files that are listed first, to be opened first."""

FILES = {
    "report.html": "all of the run on one page: open it in a browser",
    "suspects.html": "the photos to look at, to decide about in a browser",
    "label.html": "the photos to label next, to be labelled in a browser",
    "explained/*": "where in each photo its class was seen",
    "sorted/*": "the photos by class, and those that are unsure or none",
    "most_wrong.png": "the photos it got most wrong",
    "predictions_test.csv": "each test photo with its label and probabilities",
    "predictions_valid.csv": "each validation photo with its label and probabilities",
    "predictions_loo.csv": "each training photo with its label and probabilities by leave-one-out",
    "predictions.csv": "each photo with its prediction and probabilities",
    "suspects.csv": "the photos to look at, worst first",
    "sorted.csv": "where each photo was copied or linked to",
    "label.csv": "the photos of a folder, those most worth a label first",
    "submission.csv": "id and probability of the second class, as Kaggle wants it",
    "classifier.html": "a page to try the classifier, in one file",
    "web/README.md": "how to publish that page as the folder web",
    "space/README.md": "how to publish the page as the folder space",
    "photo*.onnx": "the classifier for onnxruntime; takes a photo as it is",
    "photo*.pt2": "the classifier for PyTorch alone; takes a photo as it is",
    "predict_onnx.py": "predicts photos with photo.onnx, without PyTorch",
    "confusion_matrix.png": "which class was taken for which",
    "confused_pairs.csv": "which class was taken for which, most often first",
    "model.safetensors": "the weights, to publish or to load= in another run",
    "MODEL_CARD.md": "a description to publish with the weights",
    "metrics.json": "all metrics in full precision",
    "model*.onnx": "the network alone, for batches of square images",
    "model*.pt2": "the network alone, for batches of square images",
    "auto.csv": "networks and sizes that recipe=auto tried",
    "history.csv": "losses and metrics of each epoch",
    "lr_trace.csv": "learning rates of each step",
    "lr_finder*.png": "learning rate and loss of the LR finder",
    "lr_finder*.csv": "loss by learning rate, as the LR finder found it",
    "photos.csv": "the photos of each split",
    "bad_images.csv": "photos that cannot be read, and why",
    "decisions.csv": "decisions about photos that the run used",
    "config.yaml": "all settings",
    "train.log": "what the console showed",
    "evaluate.log": "what the console showed",
    "environment.json": "command, versions and device",
    "reliability.json": "temperature and thresholds of predictions",
    "strangers.npz": "the training photos' features, to notice photos unlike them",
    "checkpoints/last.ckpt": "the final weights, for evaluate.py and resume=",
    "*.sha256": "its checksum",
    "checkpoints/left_out.npz": "predictions of the training photos by leave-one-out",
    "checkpoints/*": "the weights after a stage",
    "web/*": "a part of the page",
    "space/*": "a part of the page",
}
"""What each file of a run is for, by its path or a pattern of it. Those to open first are at the top; figures that are
not here are described by `FIGURES`."""


def log_written(run_dir: Path) -> None:
    """Print the files in a run directory and what they are for, the three to open first on top.

    Of a folder with very many files, their number is printed.
    """
    files = [path.relative_to(run_dir) for path in sorted(run_dir.rglob("*")) if path.is_file()]
    files = [path for path in files if not path.parts[0].startswith((".", "tensorboard"))]
    rows: list[tuple[int, str, str]] = []
    for folder, group in groupby(files, key=lambda path: Path("sorted") if path.parts[0] == "sorted" else path.parent):
        inside = list(group)
        many = folder != Path() and len(inside) > MOST_LISTED
        names = {f"{folder} ({len(inside)} files)": inside[0]} if many else {str(path): path for path in inside}
        rows.extend((place, name, purpose) for name, path in names.items() for place, purpose in [_purpose(path)])
    lines = text_table([("", name, purpose) for _, name, purpose in sorted(rows, key=lambda row: row[0])], left=3)
    log.info("\nWritten to %s; open first:\n%s", shown(run_dir), "\n".join(lines[:TO_OPEN]))
    if lines[TO_OPEN:]:
        log.info("Also written:\n%s", "\n".join(lines[TO_OPEN:]))


def _purpose(file: Path) -> tuple[int, str]:
    """Return the place of a file in `FILES`, and what it is for; files of others come last."""
    for place, (pattern, purpose) in enumerate(FILES.items()):
        if fnmatch(file.as_posix(), pattern):
            return place, purpose
    figures = {row.name: row.title or row.alt for row in FIGURES}
    return len(FILES), figures.get(file.stem, "") if file.suffix == ".png" else ""
