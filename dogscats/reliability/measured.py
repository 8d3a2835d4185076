"""How far the predictions of a run can be relied on: calibrated probabilities, and photos that are not classified.

Everything is measured on the validation photos: the temperature, the thresholds, and the accuracy of the photos that
are classified. Plain predictions and those with test-time augmentation have their own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from dogscats.base.errors import UserError
from dogscats.lesson.kernel_ridge import best_factor
from dogscats.lesson.predictions import Predictions
from dogscats.lesson.tta import TTA
from dogscats.reliability.strangers import StrangerDetector, log_not_measured
from dogscats.reliability.thresholds import KEEP, Thresholds, accuracy_kept, choose_thresholds, words

LABELS = {"plain": "plain", "tta": "test-time augmentation"}
"""Names of the versions of predictions, in files and for people."""

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
    """Find the temperature with the lowest log loss.

    Args:
        probabilities: class probabilities `(N, C)`.
        labels: class indices `(N,)`.
    """
    step = -(-len(labels) // MAX_PHOTOS_FITTED)
    least, most = TEMPERATURES
    return 1 / best_factor(_logs(probabilities[::step]), labels[::step], 1 / most, 1 / least)


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


@dataclass(frozen=True)
class Version:
    """What was measured on the validation photos, in the plain version or with test-time augmentation.

    Attributes:
        temperature: temperature of the probabilities; 1 if none helps.
        thresholds: thresholds of the decision.
        probable: calibrated probability of the most probable class `(N,)`.
        unlike: how unlike the training photos each validation photo is `(N,)`.
        right: whether the most probable class is correct `(N,)`.
        calibration: log loss and expected calibration error before, and after by temperatures fitted out of fold.
    """

    temperature: float
    thresholds: Thresholds
    probable: torch.Tensor
    unlike: torch.Tensor
    right: torch.Tensor
    calibration: Mapping[str, float | None]

    def keeping(self, share: float) -> "Version":
        """Choose other thresholds, with which a `share` of the validation photos are classified."""
        return replace(self, thresholds=choose_thresholds(self.probable, self.unlike, share))

    def summary(self) -> dict[str, Any]:
        """Describe it as plain numbers, for `reliability.json`."""
        kept = (self.probable >= self.thresholds.unsure_below) & (self.unlike <= self.thresholds.none_above)
        return {
            "temperature": self.temperature,
            **self.calibration,
            "unsure_below": self.thresholds.unsure_below,
            "none_above": self.thresholds.none_above,
            "kept": kept.double().mean().item(),
            "accuracy": self.right.double().mean().item(),
            "accuracy_kept": self.right[kept].double().mean().item(),
            "accuracy_by_share": accuracy_kept(self.probable, self.unlike, self.right),
        }


@dataclass(frozen=True)
class Reliability:
    """The stranger detector of a run, and what was measured on its validation photos.

    Attributes:
        detector: scores how unlike the training photos a photo is.
        plain: for predictions of the plain photo.
        tta: for predictions with test-time augmentation; `None` if the run has none.
        keep: share of the validation photos that are classified.
    """

    detector: StrangerDetector
    plain: Version
    tta: Version | None = None
    keep: float = KEEP

    def version(self, averaged: bool) -> Version:
        """Return what applies to predictions with test-time augmentation (`averaged`), or without."""
        return self.tta or self.plain if averaged else self.plain

    def summaries(self) -> dict[str, dict[str, Any]]:
        """Return the summary of each version, by its name."""
        return {"plain": self.plain.summary()} | ({"tta": self.tta.summary()} if self.tta else {})

    def calibrated(self, predictions: Predictions, averaged: bool) -> Predictions:
        """Apply the temperature."""
        temperature = self.version(averaged).temperature
        return replace(predictions, probabilities=with_temperature(predictions.probabilities, temperature))

    def applied(self, predictions: Predictions, averaged: bool) -> Predictions:
        """Calibrate the predictions of new photos, and add decisions."""
        return replace(self.calibrated(predictions, averaged), decisions=self.decided(predictions, averaged).decisions)

    def decided(self, predictions: Predictions, averaged: bool) -> Predictions:
        """Add decisions to predictions as the network gives them; they are made by calibrated probabilities."""
        if predictions.unlike is None:
            return predictions
        calibrated, thresholds = self.calibrated(predictions, averaged), self.version(averaged).thresholds
        decisions = thresholds.decide(predictions.classes, calibrated.probabilities, predictions.unlike)
        return replace(predictions, decisions=decisions)

    def metrics(self, predictions: Predictions, averaged: bool) -> dict[str, float | None]:
        """Compute the metrics of labelled photos with calibration and decisions, as plain numbers.

        Returns:
            `keep`, `temperature`, `log_loss` and `ece` with it, numbers of photos that are `unsure`, `none` and `kept`,
            and `accuracy_kept`, `None` if no photo is kept.
        """
        applied, labels = self.applied(predictions, averaged), predictions.labels
        unsure, none = (torch.tensor([made == word for made in applied.decisions]) for word in words(applied.classes))
        kept = ~(unsure | none)
        right = (applied.predicted == labels)[kept]
        return {
            "keep": self.keep,
            "temperature": self.version(averaged).temperature,
            "log_loss": applied.log_loss,
            "ece": applied.ece,
            "unsure": int(unsure.sum()),
            "none": int(none.sum()),
            "kept": int(kept.sum()),
            "accuracy_kept": right.double().mean().item() if len(right) else None,
        }


def measured(tta: TTA, calibrate: bool = True) -> Reliability | None:
    """Measure on predicted validation photos.

    Args:
        tta: the predictions.
        calibrate: whether to fit temperatures; a kernel head has one already.

    Returns:
        `None`, with the reason in the log, if there is nothing to measure.
    """
    if not isinstance(tta.scorer, StrangerDetector):
        return None
    try:
        if not tta.scores.isfinite().all():
            raise UserError("features of validation photos give no finite distances")
        tta.scorer.calibrate(tta.scores)
        return measure(tta.scorer, tta.plain, tta.averaged, calibrate)
    except Exception as error:  # of odd predictions
        log_not_measured(error)
        return None


def measure(
    detector: StrangerDetector, plain: Predictions, averaged: Predictions | None, calibrate: bool = True
) -> Reliability:
    """Fit temperatures and choose thresholds on labelled validation photos, in both versions."""
    return Reliability(detector, _version(plain, calibrate), _version(averaged, calibrate) if averaged else None)


def _version(predictions: Predictions, calibrate: bool) -> Version:
    probabilities, labels = predictions.probabilities, predictions.labels
    right, temperature = predictions.predicted == labels, 1.0
    before = {"log_loss": predictions.log_loss, "ece": predictions.ece}
    after: Mapping[str, float | None] = dict.fromkeys(before)
    if (
        calibrate and len(labels) >= MIN_PHOTOS_FITTED and not right.all()
    ):  # without a mistake, the best temperature would be 0
        honest = replace(predictions, probabilities=out_of_fold(probabilities, labels))
        after = {"log_loss": honest.log_loss, "ece": honest.ece}
        if honest.log_loss < before["log_loss"] and honest.ece < before["ece"]:  # or it does not help
            temperature = fit_temperature(probabilities, labels)
    calibration = {f"{name}_before": before[name] for name in before} | {f"{name}_after": after[name] for name in after}
    probable = with_temperature(probabilities, temperature).max(dim=1).values
    assert predictions.unlike is not None
    thresholds = choose_thresholds(probable, predictions.unlike)
    return Version(temperature, thresholds, probable, predictions.unlike, right, calibration)
