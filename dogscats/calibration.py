"""Calibration: whether probabilities agree with how often they are right."""

import torch

BINS = 15
"""Number of bins for the expected calibration error, as in Guo et al."""


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


def expected_calibration_error(probabilities: torch.Tensor, labels: torch.Tensor) -> float:
    """Compute the ECE: the mean gap between accuracy and probability over the bins, weighted by photos.

    Guo et al., "On Calibration of Modern Neural Networks", https://arxiv.org/abs/1706.04599, equation 3. Arguments as
    for `calibration_bins`.
    """
    counts, accuracy, confidence = calibration_bins(probabilities, labels)
    distances = (accuracy - confidence).abs().nan_to_num()
    return (counts * distances).sum().item() / len(labels)
