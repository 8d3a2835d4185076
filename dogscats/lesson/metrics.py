"""Evaluation metrics."""

import math
from typing import Any

import torch.nn.functional as nnf
from torchmetrics.functional.classification import binary_auroc

from dogscats.lesson.predictions import Predictions

CLIP = (0.005, 0.995)
"""Range to which probabilities are clipped for the clipped log loss; it limits the loss of a photo to 5.3."""


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


def wilson_interval(right: int, n: int) -> tuple[float, float]:
    """Compute the 95 % Wilson interval of the proportion `right / n`.

    Unlike the normal approximation, it stays within 0 and 1 and keeps a positive width at both ends
    (E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927).
    """
    z = 1.959964  # 97.5 % quantile of the normal distribution
    share = right / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)
