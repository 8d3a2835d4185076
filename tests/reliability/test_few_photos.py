"""Thresholds from few photos: which photos they are chosen by, and what is said of new photos."""

import pytest
import torch

from dogscats import KernelHead, Predictions
from dogscats.reliability.detector_fit import out_of_fold_scores
from dogscats.reliability.kept import thresholds_text
from dogscats.reliability.measured import LeftOutPredictions, Reliability, measure
from dogscats.reliability.signs import ForwardPass, TrainingPhotos
from dogscats.reliability.strangers import StrangerDetector
from dogscats.reliability.thresholds import Judged, are_enough, basis, best_thresholds, expected_share, lost

WIDTHS = [24, 40]


def drawn(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of photos of two classes, which overlap, and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    features = torch.randn(count, sum(WIDTHS), generator=generator) + 3
    features[:, ::7] += 2 * labels[:, None]
    order = labels.argsort(stable=True)
    return features[order], labels[order]


def predicted(labels: torch.Tensor, probabilities: torch.Tensor) -> Predictions:
    return Predictions([str(number) for number in range(len(labels))], ["cats", "dogs"], labels, probabilities)


def fitted(count: int, seed: int) -> tuple[Reliability, KernelHead]:
    """A kernel head on so many photos, and thresholds from them."""
    features, labels = drawn(count, seed)
    fit = KernelHead.fit(features, labels, 2, WIDTHS)
    training = TrainingPhotos(features, None, labels.tolist(), 2, lambda: WIDTHS)
    detector = StrangerDetector.fit(training, [str(number) for number in range(count)])
    scores = out_of_fold_scores(training, fit.groups, fit.log_probabilities)
    assert scores is not None
    detector.calibrate(scores)
    plain = predicted(labels, fit.log_probabilities.exp())
    left_out = LeftOutPredictions(plain, None, torch.empty(0).long(), scores)
    return measure(detector, None, None, calibrate=False, left_out=left_out), fit.head


@pytest.mark.parametrize("count", [40, 150])
def test_the_share_of_new_photos_that_are_classified_lies_in_the_interval(count: int) -> None:
    inside, expected, found = 0, 0.0, 0.0
    for seed in range(8):
        reliability, head = fitted(count, seed)
        features, _ = drawn(2000, 1000 + seed)
        logits = head.each(features)
        unlike = reliability.detector.unlike(reliability.detector.scores(ForwardPass(features, logits)))
        probable = logits[0].softmax(dim=1).max(dim=1).values
        thresholds, summary = reliability.plain.thresholds, reliability.plain.summary()
        share = ((probable >= thresholds.unsure_below) & (unlike <= thresholds.none_above)).double().mean().item()
        low, high = summary["expected_share_ci95"]
        inside += low <= share <= high
        expected, found = expected + summary["expected_share"] / 8, found + share / 8
    assert thresholds.unsure_below > 0 or count == 40
    assert inside >= 7
    assert found == pytest.approx(expected, abs=0.03)


def judged(kind: str, count: int) -> Judged:
    probable, unlike = torch.rand(2, count, generator=torch.Generator().manual_seed(count))
    return Judged(kind, probable, unlike, probable > 0.2)


def test_photos_are_enough_from_the_quantile_on() -> None:
    unsure, none = lost(0.95)
    assert (unsure, none) == (pytest.approx(0.01), pytest.approx(0.04))
    assert next(count for count in range(200) if are_enough(count, unsure)) == 99
    assert next(count for count in range(200) if are_enough(count, none)) == 24


@pytest.mark.parametrize(
    ("validation", "training", "unsure", "none"),
    [
        (99, 0, "validation", "validation"),
        (98, 98, None, "validation"),
        (24, 99, "training", "validation"),
        (23, 99, "training", "training"),
        (4, 24, None, "training"),
        (4, 23, None, None),
    ],
)
def test_each_threshold_is_from_the_first_photos_that_are_enough(
    validation: int, training: int, unsure: str | None, none: str | None
) -> None:
    photos = [judged("validation", validation), judged("training", training)]
    chosen, thresholds = basis(photos), best_thresholds(photos)
    assert [photos and photos.kind for photos in chosen] == [unsure, none]
    assert (thresholds.unsure_below == 0) == (unsure is None)
    assert (thresholds.none_above == 1) == (none is None)
    share, low, high = expected_share(thresholds, chosen)
    assert low <= share <= high
    assert (low < 1) == (none is not None)


def test_the_text_says_from_how_many_photos_thresholds_are() -> None:
    summary = {
        "unsure_below": 0.6, "unsure_from": "150 left-out training photos", "none_above": 1.0, "none_from": None,
        "expected_share": 0.993, "expected_share_ci95": [0.96, 1.0],
    }  # fmt: skip
    text = thresholds_text(summary)
    assert "unsure below 0.6, from 150 left-out training photos; no photo is called none, as there are too few" in text
    assert text.endswith("about 99 % are classified (95 % interval 96 to 100 %)")
