"""The figures of an evaluation."""

import math
from typing import Any

import torch
import torch.nn.functional as nnf
from torchmetrics.functional.classification import binary_auroc

from dogscats.predictions import Predictions

CLIP = (0.005, 0.995)
"""To which probabilities are clipped for the clipped log loss, so that no photo costs more than 5.3."""

BINS = 15
"""Bins of the expected calibration error, as in Guo et al."""


def evaluation_metrics(predictions: Predictions) -> dict[str, Any]:
    """Compute the figures of labelled photos, as plain numbers.

    Returns:
        `n`, `accuracy`, `accuracy_ci95`, `log_loss`, `log_loss_clipped`, `roc_auc`, `ece`, `per_class`
        (`photos`, `precision`, `recall` by the class's name), and `confusion_matrix` by the right class (row)
        and the predicted class (column). What is undefined, such as the recall of a class without photos, is
        `None`.
    """
    counts = predictions.confusion_matrix
    n, right = len(predictions.labels), sum(counts[i][i] for i in range(len(counts)))
    clipped = predictions.probabilities.double().clamp(*CLIP).log()
    columns = list(zip(*counts, strict=True))
    return {
        "n": n,
        "accuracy": predictions.accuracy,
        "accuracy_ci95": wilson_interval(right, n),
        "log_loss": predictions.log_loss,
        "log_loss_clipped": nnf.nll_loss(clipped, predictions.labels).item(),
        "roc_auc": roc_auc(predictions),
        "ece": expected_calibration_error(predictions),
        "per_class": {
            name: {
                "photos": sum(counts[i]),
                "precision": counts[i][i] / sum(columns[i]) if any(columns[i]) else None,
                "recall": counts[i][i] / sum(counts[i]) if any(counts[i]) else None,
            }
            for i, name in enumerate(predictions.classes)
        },
        "confusion_matrix": counts,
    }


def wilson_interval(right: int, n: int) -> tuple[float, float]:
    """Compute the 95 % interval of a share, `right` of `n`.

    Unlike the normal approximation it stays within 0 and 1 and does not shrink to nothing at either
    (E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927).
    """
    z = 1.959964  # 97.5 % quantile of the normal distribution
    share = right / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def roc_auc(predictions: Predictions) -> float | None:
    """Compute the area under the ROC curve of the second of two classes.

    With more classes it is the mean over them, each against the rest; a class with no photos, or with all, is
    left out. `None` if none is left.
    """
    numbers = range(len(predictions.classes))
    labels, areas = predictions.labels, []
    for number in [1] if len(numbers) == 2 else numbers:
        of_class = (labels == number).int()
        if 0 < of_class.sum() < len(labels):
            areas.append(binary_auroc(predictions.probabilities[:, number].double(), of_class).item())
    return sum(areas) / len(areas) if areas else None


def calibration_bins(predictions: Predictions) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sort photos into `BINS` bins of equal width by the probability of the predicted class.

    torchmetrics' `calibration_error` keeps its bins to itself, and gives probabilities of exactly 1 one of
    their own, a sixteenth; here they belong to the last.

    Returns:
        Of each bin the number of photos, their accuracy and their mean probability; the latter two are NaN
        for an empty bin.
    """
    confidence = predictions.probabilities.double().amax(dim=1)
    right = (predictions.predicted == predictions.labels).double()
    bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    counts = torch.bincount(bins, minlength=BINS)
    return (
        counts,
        torch.bincount(bins, right, minlength=BINS) / counts,
        torch.bincount(bins, confidence, minlength=BINS) / counts,
    )


def expected_calibration_error(predictions: Predictions) -> float:
    """Compute the mean distance of accuracy and probability over the bins, weighted by their photos.

    From Guo et al., "On Calibration of Modern Neural Networks", https://arxiv.org/abs/1706.04599, equation 3.
    """
    counts, accuracy, confidence = calibration_bins(predictions)
    distances = (accuracy - confidence).abs().nan_to_num()
    return (counts * distances).sum().item() / len(predictions.labels)
