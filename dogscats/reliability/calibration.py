"""Calibration: whether probabilities agree with how often they are right."""

import torch

MAX_PHOTOS_FITTED = 10_000
"""Number of photos to fit the temperature to; more take longer and do not change it."""

MIN_PHOTOS_FITTED = 50
"""Smallest number of photos to fit a temperature to; with fewer it would follow single photos."""

FOLDS = 5

TEMPERATURES = (1 / 8, 8.0)
"""Range of the temperature."""


def with_temperature(probabilities: torch.Tensor, temperature: float) -> torch.Tensor:
    """Soften probabilities `(N, C)` by a temperature above 1, or sharpen them by one below; 1 leaves them as they are.

    This is the softmax of their logarithms divided by the temperature, Guo et al., equation 9. The order of the classes
    of a photo stays. Of averaged probabilities, it is that of the mean.
    """
    if temperature == 1:
        return probabilities
    return (_logs(probabilities) / temperature).softmax(dim=1).to(probabilities.dtype)


def fit_temperature(probabilities: torch.Tensor, labels: torch.Tensor) -> float:
    """Find the temperature with the lowest log loss, by bisection: the loss is convex in its inverse.

    Args:
        probabilities: class probabilities `(N, C)`.
        labels: class indices `(N,)`.
    """
    step = -(-len(labels) // MAX_PHOTOS_FITTED)
    logs = _logs(probabilities[::step])
    of_label = logs.gather(1, labels[::step, None]).mean()
    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    for _ in range(30):
        inverse = (low * high) ** 0.5
        slope = ((inverse * logs).softmax(dim=1) * logs).sum(dim=1).mean() - of_label
        low, high = (low, inverse) if slope > 0 else (inverse, high)
    return float(1 / inverse)


def out_of_fold(probabilities: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Calibrate each photo by a temperature that was fitted without its fold, so that metrics are honest `(N, C)`."""
    calibrated, folds = probabilities.clone(), torch.arange(len(labels)) % FOLDS
    for fold in range(FOLDS):
        held_out = folds == fold
        temperature = fit_temperature(probabilities[~held_out], labels[~held_out])
        calibrated[held_out] = with_temperature(probabilities[held_out], temperature)
    return calibrated


def _logs(probabilities: torch.Tensor) -> torch.Tensor:
    """Logarithms of probabilities; those that underflowed to 0 count as the smallest normal float32."""
    return probabilities.double().clamp_min(torch.finfo(torch.float32).tiny).log()
