"""Pictures of right, wrong and uncertain predictions."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from pytorch_lightning import LightningModule, Trainer

from dogscats.base.errors import optional
from dogscats.data.loading.dataset import PhotoBatches, PhotoDataset
from dogscats.lesson.backbone import Backbone
from dogscats.lesson.classifier import Classifier
from dogscats.lesson.predictions import Predictions
from dogscats.report.figures.explanation import overlay
from dogscats.report.figures.photo_rows import pictures
from dogscats.report.gradcam import explain
from dogscats.report.report_callback import Report


class Pictures(Report):
    """Draws photos of each kind after prediction: `most_wrong.png` and so on.

    The most wrong and the most uncertain ones are explained by Grad-CAM, in a second row. Where cached activations are
    predicted, `source` must be set for that.

    Args:
        count: photos per row.

    Attributes:
        source: the whole classifier and the photos; `None` for those of the Trainer.
    """

    source: tuple[Classifier, PhotoDataset] | None = None

    def __init__(self, count: int = 4):
        self.count = count
        super().__init__(partial(pictures, count=count), prefix="pictures/")

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the figures, with explanations if there are photos and a network."""
        loaders: Any = trainer.predict_dataloaders
        batches = (loaders[0] if isinstance(loaders, list) else loaders).dataset
        source = self.source
        if source is None and isinstance(batches, PhotoBatches):
            assert isinstance(pl_module, Classifier)
            source = pl_module, batches.dataset
        if source is not None and isinstance(source[0].body, Backbone):
            self.draw = partial(pictures, count=self.count, overlays=partial(overlays, *source))
        super().on_predict_end(trainer, pl_module)


def overlays(
    model: Classifier, dataset: PhotoDataset, predictions: Predictions, indices: Sequence[int]
) -> dict[int, np.ndarray[Any, Any]]:
    """Explain the predicted class of some photos.

    Args:
        model: the classifier.
        dataset: its photos, with the evaluation transform.
        predictions: predictions for these photos, or for some of them.
        indices: indices of the photos to explain in the predictions.

    Returns:
        Pictures by index; fewer if they cannot be drawn, which the log says.
    """
    numbers = {path: number for number, path in enumerate(dataset.photos.paths)}
    chosen = [numbers[predictions.paths[index]] for index in indices]
    found = {}
    with optional("overlays"):
        explanations = explain(model, dataset, chosen, predictions.predicted[list(indices)].tolist())
        for index, explanation in zip(indices, explanations, strict=True):
            found[index] = overlay(explanation)
    return found
