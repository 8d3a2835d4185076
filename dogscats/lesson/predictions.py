"""Predictions for photos, and what is counted on them: accuracy, losses, confused classes, calibration."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as nnf
from torchmetrics.functional.classification import multiclass_confusion_matrix, multiclass_f1_score

from dogscats.base.files import write_csv

CONFUSED_PAIRS = "confused_pairs.csv"
"""Name of the file that lists the confused pairs."""

BINS = 15
"""Number of bins for the expected calibration error, as in Guo et al."""


@dataclass(frozen=True)
class Predictions:
    """Predictions for photos, in order.

    Example:
        >>> probabilities = torch.tensor([[0.2, 0.8], [0.6, 0.4]])
        >>> predictions = Predictions(["a.jpg", "b.jpg"], ["cats", "dogs"], torch.tensor([1, 1]), probabilities)
        >>> predictions.predicted_classes  # ["dogs", "cats"]
        >>> predictions.accuracy, predictions.log_loss, predictions.confusion_matrix

    Attributes:
        paths: paths of the `N` photos.
        classes: names of the `C` classes.
        labels: class indices `(N,)`; empty for unlabelled photos.
        probabilities: class probabilities `(N, C)`; each row sums to 1.
        root: folder that `paths` are relative to.
        unlike: how unlike the training photos each photo is `(N,)`, from 0 to 1; `None` if unknown. Not in the lesson.
        decisions: the class of each photo, `unsure`, or `none`; empty if unknown. See
            `dogscats.reliability.thresholds`.
    """

    paths: Sequence[str]
    classes: Sequence[str]
    labels: torch.Tensor
    probabilities: torch.Tensor
    root: Path = Path()
    unlike: torch.Tensor | None = None
    decisions: list[str] = field(default_factory=list)

    @property
    def predicted(self) -> torch.Tensor:
        """Index of the most probable class `(N,)`."""
        return self.probabilities.argmax(dim=1)

    @property
    def predicted_classes(self) -> list[str]:
        """Name of the most probable class of each photo."""
        return [self.classes[index] for index in self.predicted.tolist()]

    def first(self, count: int) -> "Predictions":
        """Return the predictions for the first `count` photos."""
        labels, probabilities = self.labels[:count], self.probabilities[:count]
        unlike = None if self.unlike is None else self.unlike[:count]
        decisions = self.decisions[:count]
        return Predictions(self.paths[:count], self.classes, labels, probabilities, self.root, unlike, decisions)

    @property
    def accuracy(self) -> float:
        """Fraction of photos whose most probable class is correct."""
        return (self.predicted == self.labels).double().mean().item()

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall of the classes that have photos. Rare classes count as much as common ones."""
        recalls = [row[i] / sum(row) for i, row in enumerate(self.confusion_matrix) if any(row)]
        return sum(recalls) / len(recalls)

    @property
    def macro_f1(self) -> float:
        """Mean F1 score over the classes that have photos or predictions."""
        return multiclass_f1_score(self.predicted, self.labels, len(self.classes), average="macro").item()

    @property
    def log_loss(self) -> float:
        """Mean of -log(probability of the correct class), in nats."""
        # Probabilities that underflowed to 0 count as the smallest normal float32.
        logs = self.probabilities.double().clamp_min(torch.finfo(torch.float32).tiny).log()
        return nnf.nll_loss(logs, self.labels).item()

    @property
    def ece(self) -> float:
        """Expected calibration error: the mean gap between accuracy and probability over the bins, weighted by photos.

        Guo et al., "On Calibration of Modern Neural Networks", https://arxiv.org/abs/1706.04599, equation 3.
        """
        counts, accuracy, confidence = calibration_bins(self.probabilities, self.labels)
        gaps = (accuracy - confidence).abs().nan_to_num()
        return (counts * gaps).sum().item() / len(self.labels)

    @property
    def confusion_matrix(self) -> list[list[int]]:
        """Counts by actual class (row) and predicted class (column)."""
        counts: list[list[int]] = multiclass_confusion_matrix(self.predicted, self.labels, len(self.classes)).tolist()
        return counts

    @classmethod
    def joined(cls, parts: Sequence["Predictions"]) -> "Predictions":
        """Join the predictions of the same classifier for parts of the photos; there must be at least one."""
        first, unlike = parts[0], [part.unlike for part in parts if part.unlike is not None]
        return replace(
            first,
            paths=[path for part in parts for path in part.paths],
            labels=torch.cat([part.labels for part in parts]),
            probabilities=torch.cat([part.probabilities for part in parts]),
            unlike=torch.cat(unlike) if unlike else None,
            decisions=[made for part in parts for made in part.decisions],
        )

    def write(self, path: Path) -> None:
        """Write a CSV file; see `table`."""
        write_csv(path, *self.table())

    def table(self) -> tuple[list[str], Iterable[tuple[object, ...]]]:
        """Return header and rows: path; label, decision and unlike if known; predicted; prob_<class> of each class."""
        labels = {"label": [self.classes[label] for label in self.labels.tolist()]} if len(self.labels) else {}
        table = {
            "path": self.paths,
            **labels,
            "predicted": self.predicted_classes,
            **({"decision": self.decisions} if self.decisions else {}),
            **({} if self.unlike is None else {"unlike": [f"{value:.6g}" for value in self.unlike.tolist()]}),
            **{
                f"prob_{name}": [f"{probability:.6g}" for probability in column.tolist()]
                for name, column in zip(self.classes, self.probabilities.T, strict=True)
            },
        }
        return list(table), zip(*table.values(), strict=True)


def confused_pairs(predictions: Predictions) -> list[tuple[str, str, int]]:
    """Return (actual class, predicted class, photos) of each pair that was confused, most often first."""
    classes, wrong = predictions.classes, (predictions.predicted != predictions.labels).nonzero().flatten()
    actual, predicted = predictions.labels[wrong].tolist(), predictions.predicted[wrong].tolist()
    counts = Counter(zip(actual, predicted, strict=True))
    return [(classes[a], classes[p], photos) for (a, p), photos in counts.most_common()]


def calibration_bins(
    probabilities: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Group photos into `BINS` equal-width bins by the probability of the predicted class.

    torchmetrics' `calibration_error` does not return its bins, and puts probabilities of exactly 1 into a sixteenth
    bin; here they belong to the last one.

    Args:
        probabilities: class probabilities `(N, C)`.
        labels: class indices `(N,)`.

    Returns:
        Number of photos, accuracy and mean probability of each bin; the last two are NaN for an empty bin.
    """
    confidence, predicted = probabilities.double().max(dim=1)
    right = (predicted == labels).double()
    bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    counts = torch.bincount(bins, minlength=BINS)
    return (
        counts,
        torch.bincount(bins, right, minlength=BINS) / counts,
        torch.bincount(bins, confidence, minlength=BINS) / counts,
    )
