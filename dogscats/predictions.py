"""Predicted probabilities of labelled photos, and what follows from them."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as nnf
from torchmetrics.functional.classification import multiclass_confusion_matrix

from dogscats.atomic import atomic_path


@dataclass(frozen=True)
class Predictions:
    """Predictions for the photos of a split, in their order.

    Attributes:
        paths: of the `N` photos.
        classes: names of the `C` classes.
        labels: class indices `(N,)`.
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
        """Write a CSV file: path, label, predicted and prob_<class> for each class."""
        with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["path", "label", "predicted", *(f"prob_{name}" for name in self.classes)])
            for name, label, predicted, row in zip(
                self.paths,
                self.labels.tolist(),
                self.predicted.tolist(),
                self.probabilities.tolist(),
                strict=True,
            ):
                probabilities = [f"{probability:.6g}" for probability in row]
                writer.writerow([name, self.classes[label], self.classes[predicted], *probabilities])
