"""A picture of what augmentation does to one photo."""

import torch
from torchvision.utils import make_grid

from dogscats.data import PhotoDataset


def augmentation_picture(dataset: PhotoDataset, index: int = 0, versions: int = 6) -> torch.Tensor:
    """Draw augmented versions of one photo, three in a row, as the lesson does.

    Args:
        dataset: photos with the augmenting transform.
        index: of the photo.
        versions: how many.

    Returns:
        RGB `(3, H, W)`, uint8.
    """
    images = torch.stack([dataset[index, epoch][0] for epoch in range(versions)])
    picture: torch.Tensor = make_grid(images, nrow=3, padding=4, pad_value=255)
    return picture
