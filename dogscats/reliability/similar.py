"""Training photos that are similar to others."""

import torch

from dogscats.base.errors import UserError
from dogscats.data.loading.dataset import PhotoDataset
from dogscats.lesson.classifier import Classifier


def similar_photos(model: Classifier, dataset: PhotoDataset, count: int) -> list[list[tuple[str, float]]]:
    """List the most similar training photos of each photo, best first.

    Args:
        model: trained classifier with its likeness.
        dataset: photos with the evaluation transform.
        count: number of training photos for each; fewer if there are fewer.

    Returns:
        For each photo, paths of training photos below the root of the data, with their cosine similarity.

    Raises:
        UserError: if a photo cannot be read, or the run has not kept its training photos.
    """
    if model.likeness is None:
        raise UserError("This run has not kept its training photos (strangers.npz), or this checkpoint is another one.")
    with torch.inference_mode():
        images = (dataset[index, 0][0][None].to(model.device) for index in range(len(dataset)))
        features = [model.body(image) for image in images]
        return model.likeness.similar(torch.cat(features), count) if features else []
