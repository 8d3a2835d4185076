"""Nearest neighbors in feature space, and the principal components that make the search fast."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as nnf

from dogscats.data.loading.cached_array import release

DIMENSIONS = 512
"""Largest number of principal components: beyond them, results no longer change and time does."""

ITERATIONS = 4
"""Subspace iterations; see `torch.svd_lowrank`."""

ROWS = 4096
"""Rows of features that are in memory at once."""

BLOCK = 1024
"""Photos whose similarities to all others are computed at once."""


class Neighbors(NamedTuple):
    """The `K` nearest neighbors of `N` photos, nearest first: `indices` and cosine `similarities`, both `(N, K)`."""

    indices: torch.Tensor
    similarities: torch.Tensor


def blocks(features: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield blocks of features `(ROWS, F)`; of memory-mapped ones, no other is in memory then."""
    for rows in torch.split(features, ROWS):
        yield rows
        release(features)


def principal_components(features: torch.Tensor) -> torch.Tensor:
    """Reduce features to their principal components.

    Features are standardized first: those of several depths differ in scale by orders of magnitude.

    Args:
        features: features `(N, F)`; may be memory-mapped, as only `ROWS` are read at once.

    Returns:
        Components `(N, D)`, float32, with `D` at most `DIMENSIONS`.
    """
    count, size = features.shape
    mean, products = torch.zeros(size), torch.zeros(size, size)
    for rows in blocks(features):
        mean += rows.sum(dim=0) / count
    for rows in blocks(features):
        centered = rows - mean
        products.addmm_(centered.T, centered, alpha=1 / count)
    deviation = products.diagonal().sqrt().clamp_min(1e-6)
    correlation = products / deviation[:, None] / deviation
    most = min(DIMENSIONS, size, max(count - 1, 1))
    with torch.random.fork_rng(devices=[]):  # subspace iteration; eigenvectors of all would take ten times as long
        torch.manual_seed(0)
        vectors = torch.svd_lowrank(correlation, most, niter=ITERATIONS)[0] / deviation[:, None]
    return torch.cat([(rows - mean) @ vectors for rows in blocks(features)])


def half_whitened(points: torch.Tensor) -> torch.Tensor:
    """Divide components `(N, D)` by the square root of their deviation, so that the largest do not outweigh all."""
    return points / points.std(dim=0, correction=0).clamp_min(1e-6).sqrt()


def nearest(points: torch.Tensor, count: int, among: torch.Tensor | None = None, skip_same: bool = True) -> Neighbors:
    """Find the nearest neighbors of each point by cosine similarity.

    Args:
        points: points `(N, D)`.
        count: number of neighbors; fewer if there are fewer points.
        among: points to search `(M, D)`; `None` for the points themselves.
        skip_same: whether the two are versions of the same points, in the same order, and a point is not its own
            neighbor.
    """
    unit = nnf.normalize(points, dim=1)
    others = unit if among is None else nnf.normalize(among, dim=1)
    count = min(count, len(others) - skip_same)
    parts = []
    for start in range(0, len(points), BLOCK):
        similarities = unit[start : start + BLOCK] @ others.T
        if skip_same:
            rows = torch.arange(len(similarities))
            similarities[rows, start + rows] = -torch.inf
        parts.append(similarities.topk(count, dim=1))
    return Neighbors(torch.cat([part.indices for part in parts]), torch.cat([part.values for part in parts]))
