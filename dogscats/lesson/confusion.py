"""Pairs of classes that are confused."""

from collections import Counter

from dogscats.lesson.metrics import Predictions


def confused_pairs(predictions: Predictions) -> list[tuple[str, str, int]]:
    """Return (actual class, predicted class, photos) of each pair that was confused, most often first."""
    classes, wrong = predictions.classes, (predictions.predicted != predictions.labels).nonzero().flatten()
    actual, predicted = predictions.labels[wrong].tolist(), predictions.predicted[wrong].tolist()
    counts = Counter(zip(actual, predicted, strict=True))
    return [(classes[a], classes[p], photos) for (a, p), photos in counts.most_common()]
