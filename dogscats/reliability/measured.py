"""How far the predictions of a run can be relied on: calibrated probabilities, and photos that are not classified.

Everything is measured on the validation photos: the temperature, the thresholds, and the accuracy of the photos that
are classified. If they are too few for a threshold, it is measured on the training photos, as leave-one-out predicts
them. Plain predictions and those with test-time augmentation have their own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from dogscats.base.errors import UserError
from dogscats.base.text import counted
from dogscats.kernel.kernel_ridge import best_factor
from dogscats.lesson.predictions import Predictions
from dogscats.lesson.tta import TTA
from dogscats.reliability.strangers import StrangerDetector, log_not_measured
from dogscats.reliability.thresholds import (
    KEEP,
    Judged,
    Thresholds,
    accuracy_kept,
    are_enough,
    basis,
    best_thresholds,
    expected_share,
    lost,
    words,
)

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


class LeftOutPredictions(NamedTuple):
    """Predictions of training photos as leave-one-out gives them, and their signs by detectors fitted without them.

    Attributes:
        plain: predictions of the `N` plain photos.
        averaged: those with test-time augmentation, of some of them `(M,)`; `None` if there are none.
        rows: which photos these are `(M,)`.
        scores: signs of a stranger `(N, S)`; `None` if they could not be computed.
    """

    plain: Predictions
    averaged: Predictions | None
    rows: torch.Tensor
    scores: torch.Tensor | None


@dataclass(frozen=True)
class Version:
    """What was measured, in the plain version or with test-time augmentation.

    Attributes:
        temperature: temperature of the probabilities; 1 if none helps.
        thresholds: thresholds of the decision.
        photos: the photos by which thresholds are chosen: validation photos, then left-out training photos if the first
            are too few.
        calibration: log loss and expected calibration error before, and after by temperatures fitted out of fold.
    """

    temperature: float
    thresholds: Thresholds
    photos: Sequence[Judged]
    calibration: Mapping[str, float | None]

    @property
    def judged(self) -> Judged:
        """The photos that it was measured on: those that there are more of."""
        return max(self.photos, key=lambda photos: len(photos.right))

    def keeping(self, share: float) -> "Version":
        """Choose other thresholds, with which a `share` of the photos are classified."""
        return replace(self, thresholds=best_thresholds(self.photos, share))

    def summary(self, keep: float = KEEP) -> dict[str, Any]:
        """Describe it as plain numbers, for `reliability.json`; its thresholds are those for the share `keep`."""
        by_unsure, by_none = basis(self.photos, keep)
        judged = by_none or self.judged  # signs of left-out photos and of validation photos differ a little
        _, probable, unlike, right = judged
        kept = (probable >= self.thresholds.unsure_below) & (unlike <= self.thresholds.none_above)
        share, low, high = expected_share(self.thresholds, (by_unsure, by_none))
        return {
            "measured_on": _described(judged),
            "temperature": self.temperature,
            **self.calibration,
            "unsure_below": self.thresholds.unsure_below,
            "unsure_from": _described(by_unsure),
            "none_above": self.thresholds.none_above,
            "none_from": _described(by_none),
            "expected_share": share,
            "expected_share_ci95": [low, high],
            "kept": kept.double().mean().item(),
            "accuracy": right.double().mean().item(),
            "accuracy_kept": right[kept].double().mean().item() if kept.any() else None,
            "accuracy_by_share": accuracy_kept(probable, unlike, right),
        }


def _described(photos: Judged | None) -> str | None:
    return photos and counted(len(photos.right), f"{photos.kind} photo")


@dataclass(frozen=True)
class Reliability:
    """The stranger detector of a run, and what was measured with it.

    Attributes:
        detector: scores how unlike the training photos a photo is.
        plain: for predictions of the plain photo.
        tta: for predictions with test-time augmentation; `None` if the run has none.
        keep: share of the photos that are classified.
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
        versions = {"plain": self.plain} | ({"tta": self.tta} if self.tta else {})
        return {name: version.summary(self.keep) for name, version in versions.items()}

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


def measured(
    tta: TTA, validated: bool = True, left_out: LeftOutPredictions | None = None, calibrate: bool = True
) -> Reliability | None:
    """Measure on predicted photos.

    Args:
        tta: the predictions.
        validated: whether they are of validation photos; otherwise they are those of `left_out`.
        left_out: predictions of left-out training photos; `None` if there are none, or they are not needed.
        calibrate: whether to fit temperatures; a kernel head has one already.

    Returns:
        `None`, with the reason in the log, if there is nothing to measure.
    """
    detector = tta.scorer
    if not isinstance(detector, StrangerDetector):
        return None
    scores = left_out and left_out.scores
    try:
        if validated and (scores is None or are_enough(len(tta.scores), lost()[1])):
            scores = tta.scores
        if scores is None or not scores.isfinite().all():
            raise UserError("features of the photos give no finite distances")
        detector.calibrate(scores)
        plain, averaged = (tta.plain, tta.averaged) if validated else (None, None)
        return measure(detector, plain, averaged, calibrate, left_out)
    except Exception as error:  # of odd predictions
        log_not_measured(error)
        return None


def measure(
    detector: StrangerDetector,
    plain: Predictions | None,
    averaged: Predictions | None,
    calibrate: bool = True,
    left_out: LeftOutPredictions | None = None,
) -> Reliability:
    """Fit temperatures and choose thresholds on labelled photos, in both versions.

    Args:
        detector: the calibrated detector.
        plain: predictions of plain validation photos; `None` without any.
        averaged: those with test-time augmentation, if it is used.
        calibrate: whether to fit temperatures.
        left_out: predictions of left-out training photos, if they are needed.
    """
    plain_out = averaged_out = None
    if left_out is not None and left_out.scores is not None:
        unlike = detector.unlike(left_out.scores)
        plain_out = replace(left_out.plain, unlike=unlike)
        averaged_out = left_out.averaged and replace(left_out.averaged, unlike=unlike[left_out.rows])
    tta = _version(averaged, averaged_out, calibrate) if averaged or averaged_out else None
    return Reliability(detector, _version(plain, plain_out, calibrate), tta)


def _version(validation: Predictions | None, left_out: Predictions | None, calibrate: bool) -> Version:
    given = [("validation", validation), ("left-out training", left_out)]
    kinds = {kind: predictions for kind, predictions in given if predictions is not None}
    judged = max(kinds.values(), key=lambda predictions: len(predictions.paths))
    probabilities, labels = judged.probabilities, judged.labels
    temperature, before = 1.0, {"log_loss": judged.log_loss, "ece": judged.ece}
    after: Mapping[str, float | None] = dict.fromkeys(before)
    right = judged.predicted == labels
    # Without a mistake, the best temperature would be 0.
    if calibrate and len(labels) >= MIN_PHOTOS_FITTED and not right.all():
        honest = replace(judged, probabilities=out_of_fold(probabilities, labels))
        after = {"log_loss": honest.log_loss, "ece": honest.ece}
        if honest.log_loss < before["log_loss"] and honest.ece < before["ece"]:  # or it does not help
            temperature = fit_temperature(probabilities, labels)
    calibration = {f"{name}_before": before[name] for name in before} | {f"{name}_after": after[name] for name in after}
    photos = [_judged(kind, predictions, temperature) for kind, predictions in kinds.items()]
    return Version(temperature, best_thresholds(photos), photos, calibration)


def _judged(kind: str, predictions: Predictions, temperature: float) -> Judged:
    assert predictions.unlike is not None
    probable = with_temperature(predictions.probabilities, temperature).max(dim=1).values
    return Judged(kind, probable, predictions.unlike, predictions.predicted == predictions.labels)
