"""Wrong labels: what heads that have not seen a photo, and its nearest neighbors, say about its class.

The heads are kernel ridge regressions on cached features. Leaving one photo out of such a head has a closed form, so
that each photo is judged by a head that was trained on all others, in seconds. Wrong labels of other photos hardly
move them, unlike heads trained by gradient descent, which learn single photos by heart.
"""

import math

import torch
import torch.nn.functional as nnf

from dogscats.reliability.agreement import without_photo
from dogscats.reliability.neighbors import ROWS, Neighbors

LANDMARKS = 1000
"""Photos that the kernel is approximated by (Nystroem, https://proceedings.neurips.cc/paper/2000, Williams and Seeger);
of fewer photos it is exact."""

JITTER = 1e-6
"""Added to the kernel of the landmarks, so that those that are nearly equal do no harm."""

WIDTHS = (1.0, 3.0)
"""Factors of squared distances on the unit sphere in the Gaussian kernel exp(width (cosine - 1))."""

PENALTIES = (0.03, 0.1, 0.3, 1.0)
"""Penalties of squared weights to choose from, by the likelihood of labels left out: the more labels are wrong, the
larger it should be."""

TEMPERATURES = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Factors that turn regressed values into logits, to choose from."""

SEEDS = (0, 1)
"""Seeds of the landmarks, if there are more photos."""

VOTERS = (10, 20)
"""Numbers of nearest neighbors that vote."""


def left_out_probabilities(
    points: torch.Tensor, labels: torch.Tensor, classes: int, neighbors: Neighbors
) -> torch.Tensor:
    """Return class probabilities `(N, C)` of each photo by what was learned from all others.

    Args:
        points: principal components `(N, D)`.
        labels: class indices `(N,)`.
        classes: number of classes.
        neighbors: nearest neighbors, at least the largest of `VOTERS` where there are as many.
    """
    seeds = SEEDS if len(points) > LANDMARKS else SEEDS[:1]
    heads = [_kernel_ridge(points, labels, classes, width, seed) for width in WIDTHS for seed in seeds]
    votes = [vote(neighbors, labels, classes, count) for count in VOTERS]
    return (torch.stack(heads).mean(dim=0) + torch.stack(votes).mean(dim=0)) / 2


def vote(neighbors: Neighbors, labels: torch.Tensor, classes: int, count: int) -> torch.Tensor:
    """Return the share of each class `(N, C)` among the nearest neighbors, weighted by similarity.

    A tenth of a vote is spread over all classes, so that no class is impossible.
    """
    indices, similarities = neighbors.indices[:, :count], neighbors.similarities[:, :count].clamp_min(0)
    votes = torch.full((len(labels), classes), 0.1 / classes)
    votes.scatter_add_(1, labels[indices], similarities)
    return votes / votes.sum(dim=1, keepdim=True)


def _kernel_ridge(points: torch.Tensor, labels: torch.Tensor, classes: int, width: float, seed: int) -> torch.Tensor:
    """Return leave-one-out probabilities `(N, C)` of the penalty and temperature with the largest likelihood."""
    unit = nnf.normalize(points, dim=1)
    generator = torch.Generator().manual_seed(seed)
    landmarks = unit[torch.randperm(len(unit), generator=generator)[:LANDMARKS].sort().values]

    def kernel(rows: torch.Tensor) -> torch.Tensor:
        return ((rows @ landmarks.T - 1) * width).exp()

    # By Cholesky factors: those of eigenvectors would take ten times as long.
    factor = torch.linalg.cholesky(kernel(landmarks).double() + JITTER * torch.eye(len(landmarks)))
    inverse = torch.linalg.solve_triangular(factor, torch.eye(len(landmarks), dtype=torch.double), upper=False)
    features = torch.cat([kernel(rows) @ inverse.T.float() for rows in torch.split(unit, ROWS)])
    features = torch.cat([features, torch.ones(len(features), 1)], dim=1)
    targets = nnf.one_hot(labels, classes).float()
    size = features.shape[1]
    gram, products = torch.zeros(size, size, dtype=torch.double), torch.zeros(size, classes, dtype=torch.double)
    for rows, wanted in zip(torch.split(features, ROWS), torch.split(targets, ROWS), strict=True):
        gram += (rows.T @ rows).double()
        products += (rows.T @ wanted).double()
    best, likelihood = torch.empty(0), -math.inf
    for penalty in PENALTIES:
        factor = torch.linalg.cholesky(gram + penalty * torch.eye(size))
        fitted = features @ torch.cholesky_solve(products, factor).float()
        inverse = torch.linalg.solve_triangular(factor, torch.eye(size, dtype=torch.double), upper=False).float()
        squares = [(rows @ inverse.T).square().sum(dim=1) for rows in torch.split(features, ROWS)]
        leverage = torch.cat(squares)[:, None]
        without = without_photo(fitted, targets, leverage)
        for temperature in TEMPERATURES:
            logs = (without * temperature).log_softmax(dim=1)
            mean = -nnf.nll_loss(logs, labels).item()
            if mean > likelihood:
                best, likelihood = logs.exp(), mean
    return best


def label_scores(probabilities: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how likely each label is wrong `(N,)`, from 0 to 1, and the most probable other class `(N,)`."""
    given = probabilities.gather(1, labels[:, None])[:, 0]
    others = probabilities.scatter(1, labels[:, None], -1.0)
    return 1 - given, others.argmax(dim=1)
