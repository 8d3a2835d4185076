"""Predicted probabilities of photos, and what follows from them."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as nnf
from torchmetrics.functional.classification import multiclass_confusion_matrix

from dogscats.atomic import atomic_path


@dataclass(frozen=True)
class Predictions:
    """Predictions for photos, in their order.

    Attributes:
        paths: of the `N` photos.
        classes: names of the `C` classes.
        labels: class indices `(N,)`; empty where the photos are unlabelled.
        probabilities: `(N, C)`, each row adds up to 1.
    """

    paths: Sequence[str]
    classes: Sequence[str]
    labels: torch.Tensor
    probabilities: torch.Tensor

    @property
    def predicted(self) -> torch.Tensor:
        """Index of the most probable class `(N,)`."""
        return self.probabilities.argmax(dim=1)

    @property
    def predicted_classes(self) -> list[str]:
        """Name of the most probable class of each photo."""
        return [self.classes[index] for index in self.predicted.tolist()]

    @property
    def accuracy(self) -> float:
        """Share of photos whose most probable class is right."""
        return (self.predicted == self.labels).double().mean().item()

    @property
    def log_loss(self) -> float:
        """Mean of -log(probability of the right class), in nats."""
        # A probability that underflowed to 0 counts as the smallest that there is.
        logs = self.probabilities.double().clamp_min(torch.finfo(torch.float32).tiny).log()
        return nnf.nll_loss(logs, self.labels).item()

    @property
    def confusion_matrix(self) -> list[list[int]]:
        """Counts by the right class (row) and the predicted class (column)."""
        counts = multiclass_confusion_matrix(self.predicted, self.labels, len(self.classes))
        return [[int(count) for count in row] for row in counts]

    def write(self, path: Path) -> None:
        """Write a CSV file: path, label (where there are any), predicted and prob_<class> for each class."""
        labels = (
            {"label": [self.classes[label] for label in self.labels.tolist()]} if len(self.labels) else {}
        )
        columns = {
            "path": self.paths,
            **labels,
            "predicted": self.predicted_classes,
            **{
                f"prob_{name}": [f"{probability:.6g}" for probability in column.tolist()]
                for name, column in zip(self.classes, self.probabilities.T, strict=True)
            },
        }
        write_csv(path, columns)


def write_csv(path: Path, columns: Mapping[str, Sequence[object]]) -> None:
    """Write columns of equal length by their names; the file is never half-written."""
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
