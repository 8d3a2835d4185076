"""Predictions and evaluation metrics."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as nnf
from torchmetrics.functional.classification import binary_auroc, multiclass_confusion_matrix, multiclass_f1_score

from dogscats.base.files import write_csv
from dogscats.lesson.wilson import wilson_interval
from dogscats.reliability.calibration import expected_calibration_error

CLIP = (0.005, 0.995)
"""Range to which probabilities are clipped for the clipped log loss; it limits the loss of a photo to 5.3."""


@dataclass(frozen=True)
class Predictions:
    """Predictions for photos, in order.

    Attributes:
        paths: paths of the `N` photos.
        classes: names of the `C` classes.
        labels: class indices `(N,)`; empty for unlabelled photos.
        probabilities: class probabilities `(N, C)`; each row sums to 1.
        root: folder that `paths` are relative to.
        unlike: how unlike the training photos each photo is `(N,)`, from 0 to 1; `None` if unknown.
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
        """Mean recall of the classes that have photos; unlike accuracy, rare classes count as much as others."""
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
        """Expected calibration error, see `dogscats.reliability.calibration`."""
        return expected_calibration_error(self.probabilities, self.labels)

    @property
    def confusion_matrix(self) -> list[list[int]]:
        """Counts by actual class (row) and predicted class (column)."""
        counts: list[list[int]] = multiclass_confusion_matrix(self.predicted, self.labels, len(self.classes)).tolist()
        return counts

    def write(self, path: Path) -> None:
        """Write a CSV file: path, label, predicted, decision, unlike (each if known), and prob_<class> for each."""
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
        write_csv(path, list(table), zip(*table.values(), strict=True))


def evaluation_metrics(predictions: Predictions) -> dict[str, Any]:
    """Compute the metrics of labelled photos, as plain numbers.

    Returns:
        `n`, `accuracy`, `accuracy_ci95`, `balanced_accuracy`, `macro_f1`, `log_loss`, `log_loss_clipped`, `roc_auc`,
        `ece`, `per_class` (`photos`, `precision` and `recall` by class name), and `confusion_matrix` by actual class
        (row) and predicted class (column). Undefined values, such as the recall of a class without photos, are `None`.
    """
    counts = predictions.confusion_matrix
    n, right = len(predictions.labels), sum(counts[i][i] for i in range(len(counts)))
    clipped = predictions.probabilities.double().clamp(*CLIP).log()
    predicted = list(zip(*counts, strict=True))
    return {
        "n": n,
        "accuracy": predictions.accuracy,
        "accuracy_ci95": wilson_interval(right, n),
        "balanced_accuracy": predictions.balanced_accuracy,
        "macro_f1": predictions.macro_f1,
        "log_loss": predictions.log_loss,
        "log_loss_clipped": nnf.nll_loss(clipped, predictions.labels).item(),
        "roc_auc": roc_auc(predictions),
        "ece": predictions.ece,
        "per_class": {
            name: {
                "photos": sum(counts[i]),
                "precision": counts[i][i] / sum(predicted[i]) if any(predicted[i]) else None,
                "recall": counts[i][i] / sum(counts[i]) if any(counts[i]) else None,
            }
            for i, name in enumerate(predictions.classes)
        },
        "confusion_matrix": counts,
    }


def roc_auc(predictions: Predictions) -> float | None:
    """Compute the area under the ROC curve for the second of two classes.

    With more classes, this is the mean of one-vs-rest areas. Classes with no photos, or with all of them, are
    skipped. `None` if no class remains.
    """
    numbers = range(len(predictions.classes))
    labels, areas = predictions.labels, []
    for number in [1] if len(numbers) == 2 else numbers:
        of_class = (labels == number).int()
        if 0 < of_class.sum() < len(labels):
            areas.append(binary_auroc(predictions.probabilities[:, number].double(), of_class).item())
    return sum(areas) / len(areas) if areas else None
