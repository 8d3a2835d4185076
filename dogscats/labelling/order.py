"""In which order photos are worth a label: by margin once a classifier is trained, and by diversity before."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as nnf

from dogscats.base.console import progress_bar
from dogscats.reliability.neighbors import half_whitened, principal_components
from dogscats.suspects.appearance import THUMBNAIL, look_at
from dogscats.suspects.duplicates import candidates_by_thumbnails, duplicates
from dogscats.suspects.photo_groups import joined_by

BLOCK = 300
"""Photos that are compared at once with those chosen before."""

MOST_LOOKED_AT = 10
"""Blocks that are looked at: a folder may have a thousand copies of a photo."""


def margins(probabilities: torch.Tensor) -> torch.Tensor:
    """Return the difference between the two largest probabilities of each photo `(N,)`.

    A photo with a small one is worth a label: Scheffer, Decomain and Wrobel, "Active Hidden Markov Models for
    Information Extraction", 2001.

    Args:
        probabilities: class probabilities `(N, C)`.
    """
    first, second = probabilities.topk(2, dim=1).values.unbind(dim=1)
    return first - second


def comparable(features: torch.Tensor) -> torch.Tensor:
    """Return points `(N, D)` of length 1 by which photos are compared.

    By their distance, photos that are unlike all others would come first, which teach little: with the first 20, a
    classifier of waste is right on .51 of new photos, and on .65 by their direction (benchmarks/labelling.py).

    Args:
        features: features `(N, F)`; may be memory-mapped.
    """
    return nnf.normalize(half_whitened(principal_components(features)), dim=1)


def k_center(points: torch.Tensor, count: int) -> torch.Tensor:
    """Order points by diversity: each of the first `count` is the one farthest from all before it.

    The first is nearest to the mean, and those after `count` follow by their distance to the nearest one chosen.
    Gonzalez, "Clustering to Minimize the Maximum Intercluster Distance", 1985; for labels, Sener and Savarese,
    https://arxiv.org/abs/1708.00489. It takes `count` passes over the points.

    Args:
        points: points `(N, D)`.
        count: number of points that are chosen so; at most `N`.

    Returns:
        Indices of all points `(N,)`.
    """
    lengths, chosen = points.square().sum(dim=1), list[int]()
    distances = torch.full((len(points),), torch.inf)
    following = int((lengths - points @ (2 * points.mean(dim=0))).argmin())
    total = min(count, len(points))
    for _ in progress_bar(range(total), "Choosing diverse photos", total, "photo"):
        chosen.append(following)
        squares = (lengths - points @ (2 * points[following]) + lengths[following]).clamp_min(0)
        distances = torch.minimum(distances, squares)
        distances[following] = -1
        following = int(distances.argmax())
    distances[chosen] = torch.inf
    rest = distances.argsort(descending=True, stable=True)[len(chosen) :]
    return torch.cat([torch.tensor(chosen, dtype=torch.long), rest])


def distinct(root: Path, paths: Sequence[str], order: Sequence[int], count: int) -> tuple[list[int], dict[int, int]]:
    """Choose the first photos of an order, of near-duplicates only one.

    Args:
        root: folder that `paths` are relative to.
        paths: paths of the photos.
        order: indices of photos, best first.
        count: number of photos to choose.

    Returns:
        Indices of the chosen photos; and, for each near-duplicate that was met, the chosen one that it is like.
    """
    chosen, twins = list[int](), dict[int, int]()
    thumbnails = torch.empty(0, THUMBNAIL, THUMBNAIL, dtype=torch.uint8)
    for start in range(0, min(len(order), MOST_LOOKED_AT * BLOCK), BLOCK):
        block = order[start : start + BLOCK]
        candidates = [*chosen, *block]
        thumbnails = torch.cat([thumbnails, look_at(root, [paths[index] for index in block]).thumbnails])
        pairs = duplicates(thumbnails, candidates_by_thumbnails(thumbnails)) if len(candidates) > 1 else []
        groups = joined_by(len(candidates), [pair[:2] for pair in pairs])
        twins |= {candidates[row]: candidates[first] for row, first in enumerate(groups) if first != row}
        kept = [row for row, first in enumerate(groups) if first == row][:count]
        chosen, thumbnails = [candidates[row] for row in kept], thumbnails[kept]
        if len(chosen) == count:
            break
    return chosen, twins
