"""The table of metrics."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as nnf
import torchmetrics
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score
from torchmetrics.functional.classification import binary_auroc
from torchmetrics.utilities import dim_zero_cat

from dogscats.base.text import percent
from dogscats.lesson.predictions import Predictions

CLIP = (0.005, 0.995)
"""Range to which probabilities are clipped for the clipped log loss; it limits the loss of a photo to 5.3."""


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


def log_loss_clipped(predictions: Predictions) -> float:
    """Compute the log loss of probabilities clipped to `CLIP`, in nats."""
    return nnf.nll_loss(predictions.probabilities.double().clamp(*CLIP).log(), predictions.labels).item()


@dataclass(frozen=True)
class Metric:
    """A metric of labelled predictions: a row of `METRICS`.

    Attributes:
        key: its name in files and settings: `valid_<key>` in `history.csv` and for `monitor`, `final.valid_<key>` in
            `metrics.json` and for `optimized_metric`.
        title: its heading in tables.
        compute: function of labelled predictions; `None` where it is undefined. Each epoch, predictions have no paths.
        larger_is_better: whether a sweep lists the largest value first.
        share: whether it is a share of the photos, which people see in percent.
        short: its heading in wide tables; by default `title`.
        tile: its heading at the top of `report.html`; empty if it has no place there.
        evaluated_as: its key in the `metrics.json` of an evaluation; by default `key`.
        card: its type and name in the index of the Hugging Face model card; by default `evaluated_as` and `title`.
        computed: `epoch` for every epoch, final prediction and evaluation; `final` without the epochs; `evaluation` for
            evaluations alone.
        torchmetric: class that computes it each epoch, batch by batch. By default `compute` is called at the end of an
            epoch with the predictions of all photos, which stay in memory until then.
    """

    key: str
    title: str
    compute: Callable[[Predictions], float | None]
    larger_is_better: bool = True
    share: bool = False
    short: str = ""
    tile: str = ""
    evaluated_as: str = ""
    card: tuple[str, str] | None = None
    computed: Literal["epoch", "final", "evaluation"] = "epoch"
    torchmetric: Callable[..., torchmetrics.Metric] | None = None

    def text(self, value: float | None, n: int) -> str:
        """Return a value as text for people, with the digits that `n` photos support; a hyphen if it is undefined."""
        if value is None:
            return "-"
        return percent(value, n) if self.share else loss_text(value, n)


def loss_text(value: float, n: int) -> str:
    """Return a loss, or another metric that is no share, with three significant digits; four from 1,000 photos on."""
    return f"{value:#.{3 if n < 1000 else 4}g}"


METRICS = [
    Metric(
        "acc", "accuracy", lambda predictions: predictions.accuracy, share=True, tile="Accuracy",
        evaluated_as="accuracy", torchmetric=partial(MulticlassAccuracy, average="micro"),
    ),
    Metric(  # a class without photos: 0 each epoch if it was predicted, as in torchmetrics; skipped in final metrics
        "balanced_acc", "balanced accuracy", lambda predictions: predictions.balanced_accuracy, share=True,
        short="balanced", tile="Balanced accuracy", evaluated_as="balanced_accuracy",
        torchmetric=partial(MulticlassAccuracy, average="macro"),
    ),
    Metric(
        "macro_f1", "macro F1", lambda predictions: predictions.macro_f1, share=True, card=("f1", "Macro F1"),
        torchmetric=partial(MulticlassF1Score, average="macro"),
    ),
    Metric(  # the Classifier logs the loss of each epoch itself, as it does that of the training photos
        "loss", "log loss", lambda predictions: predictions.log_loss, larger_is_better=False, tile="Log loss",
        evaluated_as="log_loss", computed="final",
    ),
    Metric("log_loss_clipped", "clipped", log_loss_clipped, larger_is_better=False, computed="evaluation"),
    Metric("roc_auc", "ROC AUC", roc_auc, computed="evaluation"),
    Metric(
        "ece", "ECE", lambda predictions: predictions.ece, larger_is_better=False, tile="Calibration error",
        card=("expected_calibration_error", "Expected calibration error"), computed="final",
    ),
]  # fmt: skip
"""All metrics. A new one is a function of `Predictions` and a row here: files, tables, loggers, report.html, card,
`monitor`, `optimized_metric` and the order of a sweep follow."""


class GatheredMetric(torchmetrics.Metric):
    """Metric that needs all predictions of an epoch at once: gathers them, across ranks.

    Args:
        function: function of predictions, which have no paths.
        num_classes: number of classes.
    """

    log_probabilities: list[torch.Tensor]
    labels: list[torch.Tensor]

    def __init__(self, function: Callable[[Predictions], float | None], num_classes: int):
        super().__init__()
        self.function, self.classes = function, [str(number) for number in range(num_classes)]
        self.add_state("log_probabilities", [], dist_reduce_fx="cat")
        self.add_state("labels", [], dist_reduce_fx="cat")

    def update(self, log_probabilities: torch.Tensor, labels: torch.Tensor) -> None:
        """Add a batch: log-probabilities `(B, C)` and class indices `(B,)`."""
        self.log_probabilities.append(log_probabilities)
        self.labels.append(labels)

    def compute(self) -> torch.Tensor:
        """Compute the metric of all photos; NaN if it is undefined."""
        labels = dim_zero_cat(self.labels).cpu()
        probabilities = dim_zero_cat(self.log_probabilities).float().exp().cpu()
        value = self.function(Predictions([""] * len(labels), self.classes, labels, probabilities))
        return torch.tensor(math.nan if value is None else value)


def epoch_metrics(num_classes: int) -> torchmetrics.MetricCollection:
    """Make the metrics of each epoch, of log-probabilities `(B, C)` and labels `(B,)`, by their keys."""
    # `validate_args=False` skips value checks, which would synchronize a GPU at every step.
    options: Any = {"num_classes": num_classes, "validate_args": False}
    found: dict[str, torchmetrics.Metric | torchmetrics.MetricCollection] = {}
    for metric in METRICS:
        if metric.computed == "epoch":
            gathered = GatheredMetric(metric.compute, num_classes)
            found[metric.key] = metric.torchmetric(**options) if metric.torchmetric else gathered
    return torchmetrics.MetricCollection(found)


def final_metrics() -> list[Metric]:
    """Metrics of the final prediction, in the order of `metrics.json`: accuracy and loss first."""
    ordered = sorted(METRICS, key=lambda metric: metric.key not in ("acc", "loss"))  # False sorts first
    return [metric for metric in ordered if metric.computed != "evaluation"]


def per_class(classes: Sequence[str], counts: np.ndarray[Any, Any]) -> dict[str, dict[str, Any]]:
    """Compute how each class was predicted.

    Args:
        classes: class names.
        counts: photos by actual class (row) and predicted class (column), `(C, C)`.

    Returns:
        `photos`, `precision` and `recall` by class name; `None` where there is nothing to divide by.
    """
    numbers = zip(classes, counts.diagonal().tolist(), counts.sum(1).tolist(), counts.sum(0).tolist(), strict=True)
    return {
        name: {
            "photos": photos,
            "precision": right / predicted if predicted else None,
            "recall": right / photos if photos else None,
        }
        for name, right, photos, predicted in numbers
    }


def wilson_interval(right: int, n: int) -> tuple[float, float]:
    """Compute the 95 % Wilson interval of the proportion `right / n`.

    Unlike the normal approximation, it stays within 0 and 1 and keeps a positive width at both ends
    (E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927).
    """
    z = 1.959964  # 97.5 % quantile of the normal distribution
    share = right / n
    center = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, center - half), min(1.0, center + half)
