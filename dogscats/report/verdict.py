"""The verdict on a run in words: how good it is, and what stands in the way of trusting it."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
import torch

from dogscats.base.errors import optional
from dogscats.base.text import counted, listed, percent, plural, shown
from dogscats.base.trust import entries
from dogscats.lesson.tta import TTA
from dogscats.reliability.passing import MANY_PASS
from dogscats.report.facts import SPLITS, Facts, Result

log = logging.getLogger(__name__)

FEW_PHOTOS = 100
"""With fewer validation photos, settings cannot be compared."""

MIN_LOSS_RISE = 1.05
"""Factor by which the validation loss has risen where a network learns its training photos by heart."""

MANY_CUT_OFF = 0.1
"""Share of the photos that lose much of their long side, from which on this matters."""

MOST_NAMED = 3
"""Weak classes that are named."""


AUGMENTED = ("valid_acc_augmented", "valid_acc_augmented_se")
"""Final metrics: mean accuracy of the augmented versions, and the standard error of its difference from `valid_acc`."""


@dataclass(frozen=True)
class Verdict:
    """How good a run is.

    Attributes:
        headline: how many photos it is right on, and its most frequent mistake.
        obstacles: what stands in the way of trusting that, each with what to do; worst first.
    """

    headline: str
    obstacles: list[str]


def verdict(facts: Facts) -> Verdict:
    """Judge a finished run by its files: by its labelled test photos, else validation photos, else leave-one-out."""
    obstacles = []
    for obstacle in OBSTACLES:
        with optional(f"verdict ({obstacle.__name__})", "completed"):  # a file of the run may be damaged
            obstacles.append(obstacle(facts))
    result = facts.judged
    photos = plural(result.n, f"{SPLITS[result.split]} photo")
    text = headline(facts.classes, result, photos)
    if facts.left_out:
        text += f" By leave-one-out: {_right(facts.left_out, 'training photos').lower()}."
    return Verdict(text, [obstacle for obstacle in obstacles if obstacle])


def log_verdict(found: Verdict) -> None:
    """Print the verdict on the console."""
    log.info("\n%s", "\n".join([found.headline, *(f"- {obstacle}" for obstacle in found.obstacles)]))


def headline(classes: Sequence[str], result: Result, photos: str) -> str:
    """Say how many photos are right, with the 95 % interval, and which class is most often taken for another.

    Args:
        classes: class names.
        result: metrics of the photos.
        photos: what they are called, such as `test photos`.
    """
    return f"{_right(result, photos)}.{_most_confused(classes, result)}"


def _right(result: Result, photos: str) -> str:
    right, n, (low, high) = result.right, result.n, (percent(bound, result.n) for bound in result.interval)
    of = f"all {n:,}" if right == n > 1 else f"{right:,} of {n:,}"
    interval = f"{percent(right / n, n)}; 95 % interval {low.removesuffix(' %')} to {high}"
    return f"Right on {of} {photos} ({interval})"


def _most_confused(classes: Sequence[str], result: Result) -> str:
    """Name the two classes that are confused most often; of several pairs, the one with the largest share."""
    if result.counts is None or result.right == result.n:
        return ""
    counts = np.array(result.counts)
    if counts[~np.eye(len(classes), dtype=bool)].max() < 2:  # each mistake is another one
        return ""
    photos = counts.sum(axis=1, keepdims=True)
    np.fill_diagonal(counts, 0)
    shares = np.where(counts == counts.max(), counts / np.maximum(photos, 1), 0)
    actual, predicted = divmod(int(shares.argmax()), len(classes))
    pair = f"{shown(classes[actual])} are taken for {shown(classes[predicted])}"
    return f" Most often {pair} ({counts[actual, predicted]:,} of {photos[actual, 0]:,})."


def trial(facts: Facts) -> str | None:
    """A trial run, `fast_dev_run`."""
    trainer = facts.config.get("trainer") or {}
    return "This was a trial run (fast_dev_run): its metrics mean nothing." if trainer.get("fast_dev_run") else None


def repeated_photos(facts: Facts) -> str | None:
    """Photos that are in train and in another split."""
    found = [
        f"{repeated} of the {counted(facts.photos[split].total(), f'{SPLITS[split]} photo')}"
        for split, repeated in facts.repeated.items()
    ]
    if not found:
        return None
    verb = "is" if sum(facts.repeated.values()) == 1 else "are"
    return (
        f"{' and '.join(found)} {verb} among the training photos, too: the metrics are too good. Remove one of each "
        "pair, and train again; python -m dogscats.check <photos> lists them."
    )


def no_better_than_one_class(facts: Facts) -> str | None:
    """Accuracy that always naming the largest class reaches, too."""
    result = facts.judged
    if result.counts is None:
        return None
    photos = [sum(row) for row in result.counts]
    largest = max(photos)
    if result.right > largest or result.right == result.n:
        return None
    advice = "Look at the labels, the learning rate and the curve of the loss; more epochs may help"
    if facts.trained[-1].is_closed_form:
        advice = "Look at the labels; more photos, or recipe=adapt, may help"
    return (
        f"No better than always saying {shown(facts.classes[photos.index(largest)])}, which is right on {largest:,} "
        f"of {result.n:,}. {advice}."
    )


def weak_classes(facts: Facts) -> str | None:
    """Classes with less than half the mean recall."""
    result = facts.judged
    if result.counts is None:
        return None
    rights = [
        (row[label] / sum(row), row[label], sum(row), label) for label, row in enumerate(result.counts) if any(row)
    ]
    mean = sum(recall for recall, *_ in rights) / len(rights)
    weak = [
        f"{shown(facts.classes[label])} ({right:,} of {photos:,})"
        for recall, right, photos, label in sorted(rights)
        if recall < mean / 2
    ]
    if not weak:
        return None
    weighted = facts.config.get("class_weights", "none") != "none"
    return (
        f"Recall of less than half the mean of the classes, {percent(mean, result.n)}: {listed(weak, MOST_NAMED)}. "
        "Add photos of these, or look for wrong labels with suspects=true"
        f"{'' if weighted else ', or train with class_weights=balanced'}."
    )


def overfitting(facts: Facts) -> str | None:
    """Validation loss that rises while the training loss falls: over the last stage, or over all."""
    if facts.trained[-1].keep == "best":  # its weights are those from before the rise
        return None
    trained = [stage.name for stage in facts.trained]
    epochs = [
        (row["stage"], float(row["train_loss"]), float(row["valid_loss"]))
        for row in facts.rows("history.csv")
        if row.get("train_loss") and row.get("valid_loss") and row["stage"] in trained
    ]
    for some in ([epoch for epoch in epochs if epoch[0] == epochs[-1][0]], epochs):
        if not some:
            return None
        (_, before, lowest), (stage, after, loss) = min(some, key=lambda epoch: epoch[2]), some[-1]
        if loss > MIN_LOSS_RISE * lowest and after < before:
            return (
                f"The validation loss rose from {lowest:.3g} to {loss:.3g} by the end of stage {stage}, while the "
                f"training loss fell from {before:.3g} to {after:.3g}: the network learns its photos by heart. "
                f"Train for fewer epochs, at a lower learning rate or on more photos; recipe.{stage}.keep=best takes "
                "the best epoch."
            )
    return None


def cut_off(facts: Facts) -> str | None:
    """Photos whose ends the square crop does not show."""
    share = facts.metrics.get("cut_off") or 0.0  # older runs lack it
    if share <= MANY_CUT_OFF:
        return None
    photos = sum(counts.total() for counts in facts.photos.values())
    return (
        f"The square crop cuts more than 40 % off the long side of {percent(share, photos)} of the photos. "
        "data.fit=pad shows the network whole photos."
    )


def augmented_accuracy(tta: TTA) -> tuple[float, float] | None:
    """Return the mean accuracy of the augmented versions, and the standard error of its difference from the plain one.

    The versions of a photo are alike: the error is that of the mean difference per photo. `None` without versions.
    """
    if len(tta.probabilities) < 2:
        return None
    right = (tta.probabilities.argmax(dim=2) == torch.tensor(tta.photos.labels)).double()
    differences = right[1:].mean(dim=0) - right[0]
    error = differences.std(correction=0).item() / math.sqrt(len(differences))
    return right[1:].mean().item(), error


def augmentation_hurts(facts: Facts) -> str | None:
    """Augmented validation photos that are recognized less well than plain ones, by more than chance explains."""
    final = facts.metrics["final"]
    if not {*AUGMENTED} <= final.keys():  # no augmented versions were predicted, or the run is older
        return None
    plain, augmented, error = (final[key] for key in ("valid_acc", *AUGMENTED))
    crops = str((facts.config.get("augment") or {}).get("_target_")).endswith(".crops")
    if plain - augmented <= 2 * error:
        return None
    return (
        f"Right on {percent(augmented, facts.best.n)} of augmented validation photos, but on "
        f"{percent(plain, facts.best.n)} of plain ones: augmentation hides what tells the classes apart, as mirroring "
        f"does with left and right.{'' if crops else ' Without mirroring: augment=crops.'}"
    )


def strangers_pass(facts: Facts) -> str | None:
    """Known strangers of which many would pass as a class."""
    if facts.final.get("strangers_passed", 0) <= MANY_PASS:
        return None
    passed = percent(facts.final["strangers_passed"], facts.final["n_strangers"])
    return f"{passed} of held-out strangers would pass as a class. Give more of those, or predict with a lower keep."


def few_photos(facts: Facts) -> str | None:
    """Too few validation photos to compare settings."""
    split, n = facts.best.split, facts.best.n
    if n >= FEW_PHOTOS:
        return None
    advice = "Add photos" if split == "loo" else "Add photos; without a valid/, hold out more with data.valid_fraction"
    if facts.left_out and facts.left_out.n >= FEW_PHOTOS:
        advice = "Leave-one-out is better for that: optimized_metric=final.loo_acc"
    return (
        f"Only {counted(n, f'{SPLITS[split]} photo')}, each of which counts {percent(1 / n, n)}: do not compare "
        f"settings on them. {advice}."
    )


def unknown_weights(facts: Facts) -> str | None:
    """Leave-one-out with a network that may have been trained on these photos."""
    given = (str(value) for key, value in entries(facts.config["model"]) if key == "weights")
    weights = next((value for value in given if value not in ("imagenet", "none")), None)
    if "n_loo" not in facts.final or weights is None:
        return None
    return (
        f"Leave-one-out is only honest if the network in model.weights={shown(PurePath(weights).name)} was not trained "
        "on these photos; a run cannot know."
    )


def chosen_epoch(facts: Facts) -> str | None:
    """Weights that the validation photos have chosen."""
    if not any(stage.keep == "best" for stage in facts.stages):
        return None
    return (
        "The epoch whose weights were kept was chosen by the validation photos (keep=best), so their metrics are "
        "slightly optimistic."
    )


def chosen_network(facts: Facts) -> str | None:
    """A network that these photos have chosen among several."""
    chosen = next((row for row in facts.tried if row["chosen"]), None)
    if chosen is None:
        return None
    count = sum(row["accuracy"] is not None and " + " not in row["candidate"] for row in facts.tried)
    return f"{chosen['candidate']}: one of {counted(count, 'candidate')} tried, {chosen['note']}."


def limited(facts: Facts) -> str | None:
    """Photos that were left out for a quick look."""
    limit = facts.config["data"].get("limit")
    return None if limit is None else f"data.limit leaves at most {counted(limit, 'photo')} of each class."


OBSTACLES: list[Callable[[Facts], str | None]] = [
    *(trial, repeated_photos, no_better_than_one_class, weak_classes, strangers_pass, overfitting),
    *(augmentation_hurts, cut_off, few_photos, unknown_weights, chosen_epoch, chosen_network, limited),
]
"""What can stand in the way, worst first: functions that say so, and what to do, or return `None`. A new one is a
function and its place here: console, page and card follow."""
