"""Weights of the classes in the training loss: the setting `class_weights`."""

from collections import Counter
from collections.abc import Sequence
from math import inf

from dogscats.base.errors import ArgumentError
from dogscats.base.rules import is_number
from dogscats.base.text import listed


def check_class_weights(weights: str | Sequence[float], classes: Sequence[str]) -> None:
    """Refuse bad class weights, before the photos are checked.

    Raises:
        ArgumentError: for anything but what `class_weights` takes.
    """
    if weights in ("none", "balanced"):
        return
    numbers = list(weights) if isinstance(weights, Sequence) and not isinstance(weights, str) else []
    if len(numbers) != len(classes) or not all(is_number(number) and 0 < number < inf for number in numbers):
        raise ArgumentError(
            "",
            f"class_weights={'null' if weights is None else weights}: expected none, balanced, or a list of "
            f"{len(classes)} positive numbers, for {listed(classes)}.",
        )


def class_weights(weights: str | Sequence[float], classes: Sequence[str], labels: Sequence[int]) -> list[float] | None:
    """Return the weight of each class in the training loss.

    Args:
        weights: `none`; `balanced` for weights inversely proportional to the number of training photos, with a mean of
            1 over all photos; or one weight for each class, in the order of `classes`.
        classes: class names.
        labels: class index of each training photo.

    Raises:
        ArgumentError: for anything else.
    """
    check_class_weights(weights, classes)
    if weights == "balanced":
        counts = Counter(labels)
        return [len(labels) / (len(classes) * counts[number]) for number in range(len(classes))]
    return None if weights == "none" else [float(weight) for weight in weights]
