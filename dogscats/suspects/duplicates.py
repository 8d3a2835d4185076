"""Near-duplicates: photos that show the same picture, resized, recompressed, mirrored, rotated, cropped or brightened.

Candidates are the nearest neighbors by features of the network, and by coarse thumbnails in all eight orientations.
Each pair of candidates is confirmed by its thumbnails: aligned, they must be nearly the same up to brightness.
"""

from collections.abc import Iterator
from itertools import product

import torch
import torch.nn.functional as nnf

from dogscats.base.console import progress_bar
from dogscats.reliability.neighbors import nearest

MIN_COARSE_CORRELATION = 0.85
"""Least correlation of the coarse thumbnails of candidates."""

MIN_UNALIGNED_CORRELATION = 0.5
"""Least correlation of thumbnails before alignment, which takes most of the time."""

MIN_CORRELATION = 0.95
"""Least correlation of the thumbnails of two photos of the same picture, after alignment."""

MIN_DETAILS_CORRELATION = 0.8
"""Least correlation of their details: on a plain background, thumbnails of two things can be alike as a whole."""

PLAIN_SHARE, GROUND_TOLERANCE = 0.6, 12.0
"""Share of a picture's pixels whose brightness differs by at most so much from that of its border, if its ground is
plain. What compression does to a ground is less."""

PART_SIDE = 6
"""Side of the parts of thumbnails, in pixels, in which drawings on plain ground are compared."""

MAX_PART_DIFFERENCE = 0.06
"""Largest difference in any part of two copies of a drawing, relative to the mean energy of all parts. Drawings of a
kind, such as arrows, are as alike as copies of photos. Of 250 arrows, letters and forms drawn apart no two differed by
less in every part, some by less than .1; all copies of photos of waste did (`benchmarks/suspects.py`)."""

BLUR_SIDE = 3
"""Side of the window, in pixels of a thumbnail, whose mean makes up for copies that are not aligned to the pixel."""

DETAILS_SIDE = 5
"""Side of the window, in pixels of a thumbnail, whose mean is subtracted from a pixel to leave the details."""

MIN_CONTRAST = 6.0
"""Standard deviation of brightness below which thumbnails show too little to tell pictures apart."""

WINDOWS = torch.tensor(
    [
        [[1 / scale, 0.0, (1 - 1 / scale) * right], [0.0, 1 / scale, (1 - 1 / scale) * down]]
        for scale in (1.0, 1.027, 1.053, 1.08)  # of the sides of the two photos: 5 % cropped make 1.053
        for down, right in (product((-1.0, -0.5, 0.0, 0.5, 1.0), repeat=2) if scale > 1 else [(0.0, 0.0)])
    ]
)
"""Windows of the larger photo that the smaller one may be, from edge to edge, as affine matrices `(W, 2, 3)`."""

FULL_WINDOWS = 4
"""Number of windows that are compared in full resolution."""

PAIRS_AT_ONCE = 1024
"""Pairs that are aligned at once."""


def candidates_by_features(features: torch.Tensor, count: int = 4) -> torch.Tensor:
    """List each photo's nearest neighbors by features as pairs `(P, 2)`; see `nearest`."""
    indices = nearest(features, count).indices
    return _pairs(torch.arange(len(indices)).repeat_interleave(indices.shape[1]), indices.flatten())


def candidates_by_thumbnails(thumbnails: torch.Tensor, count: int = 3) -> torch.Tensor:
    """List pairs `(P, 2)` of photos whose coarse thumbnails `(N, T, T)` are alike in one of eight orientations."""
    coarse = nnf.adaptive_avg_pool2d(thumbnails.float(), 8)  # their side in pixels
    pairs = []
    for turned in progress_bar(_orientations(coarse), "Comparing thumbnails", 8, "orientation"):
        found = nearest(_normalized(coarse).flatten(1), count, among=_normalized(turned).flatten(1))
        first = torch.arange(len(coarse)).repeat_interleave(found.indices.shape[1])
        likely = found.similarities.flatten() >= MIN_COARSE_CORRELATION
        pairs.append(_pairs(first[likely], found.indices.flatten()[likely]))
    return torch.cat(pairs)


def duplicates(thumbnails: torch.Tensor, candidates: torch.Tensor) -> list[tuple[int, int, float]]:
    """Confirm pairs of candidates by their thumbnails.

    Args:
        thumbnails: brightness `(N, T, T)`.
        candidates: pairs `(P, 2)`.

    Returns:
        Indices of both photos, the lower one first, and the correlation of the details of their aligned thumbnails;
        most alike first.
    """
    candidates = torch.unique(candidates, dim=0)
    contrast = thumbnails.float().flatten(1).std(dim=1, correction=0)
    candidates = candidates[(contrast[candidates] >= MIN_CONTRAST).all(dim=1)]
    found = []
    batches = torch.split(candidates, PAIRS_AT_ONCE)
    for pairs in progress_bar(batches, "Comparing pairs", -(-len(candidates) // PAIRS_AT_ONCE), "batch"):
        first, second = (thumbnails[pairs[:, side]].float() for side in (0, 1))
        turned = torch.stack(list(_orientations(second)), dim=1)  # (P, 8, T, T)
        before = _correlation(first[:, None], turned)
        best, orientation = before.max(dim=1)
        likely = (best >= MIN_UNALIGNED_CORRELATION).nonzero().flatten()
        if not len(likely):
            continue
        first, second = first[likely], turned[likely, orientation[likely]]
        alike, details, difference = _aligned(first, second)
        same = (alike >= MIN_CORRELATION) & (details >= MIN_DETAILS_CORRELATION)
        plain = _has_plain_ground(first) | _has_plain_ground(second)
        same &= (difference <= MAX_PART_DIFFERENCE) | ~plain
        for pair, value in zip(pairs[likely][same].tolist(), details[same].tolist(), strict=True):
            found.append((*pair, value))
    return sorted(found, key=lambda pair: (-pair[2], pair[:2]))


def _pairs(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    pairs = torch.stack([torch.minimum(first, second), torch.maximum(first, second)], dim=1)
    return pairs[pairs[:, 0] != pairs[:, 1]]


def _orientations(images: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield images `(N, T, T)` in their eight orientations: rotated and mirrored."""
    for quarters in range(4):
        rotated = images.rot90(quarters, dims=(1, 2))
        yield rotated
        yield rotated.flip(2)


def _normalized(images: torch.Tensor) -> torch.Tensor:
    """Scale images `(..., T, T)` to mean 0 and norm 1: their products are correlations, whatever the brightness."""
    centered = images - images.mean(dim=(-2, -1), keepdim=True)
    normalized: torch.Tensor = centered / torch.linalg.vector_norm(centered, dim=(-2, -1), keepdim=True).clamp_min(1e-6)
    return normalized


def _has_plain_ground(images: torch.Tensor) -> torch.Tensor:
    """Return whether most of each image `(P, T, T)` is as bright as the middle value of its border, `(P,)`."""
    border = torch.cat([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], dim=1)
    ground = border.median(dim=1).values[:, None, None]
    return ((images - ground).abs() <= GROUND_TOLERANCE).float().mean(dim=(1, 2)) >= PLAIN_SHARE


def _aligned(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Align images `(P, T, T)`, either of which may be cropped: at a third of their size, and the best few in full.

    Returns:
        The largest correlation, and that of the details there; and the smallest difference of parts; each `(P,)`.
    """
    small = [nnf.avg_pool2d(images[:, None], 3)[:, 0] for images in (first, second)]
    found = torch.stack(
        [_correlation(_window(whole, window), cropped) for whole, cropped in (small, small[::-1]) for window in WINDOWS]
    )
    best, details = torch.full((2, len(first)), -1.0)
    difference = torch.full((len(first),), torch.inf)
    for numbers in found.topk(FULL_WINDOWS, dim=0).indices:
        swapped = (numbers >= len(WINDOWS))[:, None, None]
        whole, cropped = torch.where(swapped, second, first), torch.where(swapped, first, second)
        window = _window(whole, WINDOWS[numbers % len(WINDOWS)])
        alike = _correlation(window, cropped)
        details = torch.where(alike > best, _correlation(_details(window), _details(cropped)), details)
        difference = torch.minimum(difference, _part_difference(window, cropped))
        best = torch.maximum(best, alike)
    return best, details, difference


def _correlation(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    correlation: torch.Tensor = (_normalized(first) * _normalized(second)).sum(dim=(-2, -1))
    return correlation


def _part_difference(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the largest squared difference in any part of two images, relative to their mean square (`PART_SIDE`)."""
    first, second = (_normalized(_local_mean(images, BLUR_SIDE)) for images in (first, second))
    parts = nnf.avg_pool2d((first - second).square()[:, None], PART_SIDE, stride=PART_SIDE // 2).flatten(1)
    return parts.max(dim=1).values * first[0].numel()


def _details(images: torch.Tensor) -> torch.Tensor:
    return images - _local_mean(images, DETAILS_SIDE)


def _local_mean(images: torch.Tensor, side: int) -> torch.Tensor:
    padded = nnf.pad(images[:, None], (side // 2,) * 4, mode="replicate")
    return nnf.avg_pool2d(padded, side, stride=1)[:, 0]


def _window(images: torch.Tensor, window: torch.Tensor) -> torch.Tensor:
    """Cut windows out of images `(P, T, T)`, and scale them to their size.

    Args:
        images: images.
        window: affine matrices `(2, 3)` for all images, or `(P, 2, 3)`.
    """
    shape = [len(images), 1, *images.shape[1:]]
    grid = nnf.affine_grid(window.expand(len(images), 2, 3), shape, align_corners=False)
    sampled = nnf.grid_sample(images[:, None], grid, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled[:, 0]
