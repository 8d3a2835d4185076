"""Figure of augmented versions of one photo."""

import torch
from matplotlib.figure import Figure
from torchvision.utils import make_grid

from dogscats.data.loading.dataset import PhotoDataset
from dogscats.report.figures.publish import DPI


def augmentation(dataset: PhotoDataset, index: int = 0, versions: int = 6) -> Figure:
    """Draw augmented versions of one photo, three per row, as in the lesson.

    Args:
        dataset: dataset with the augmentation transform.
        index: index of the photo.
        versions: number of versions.
    """
    images = torch.stack([dataset[index, epoch][0] for epoch in range(versions)])
    grid = make_grid(images, nrow=3, padding=4, pad_value=255).permute(1, 2, 0).numpy()
    figure = Figure(figsize=(grid.shape[1] / DPI, grid.shape[0] / DPI))
    axes = figure.add_axes((0, 0, 1, 1))  # one pixel of the grid per pixel of the figure
    axes.set_axis_off()
    axes.imshow(grid)
    return figure
