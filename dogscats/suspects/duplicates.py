"""Near-duplicates: photos that show the same picture, resized, recompressed, mirrored, rotated, cropped or brightened.

Candidates are the nearest neighbors by features of the network, and by coarse thumbnails in all eight orientations.
Each pair of candidates is confirmed by its thumbnails: aligned, they must be nearly the same up to brightness.
"""

from collections.abc import Iterator
from itertools import product

import torch
import torch.nn.functional as nnf

from dogscats.runs.console import progress_bar
from dogscats.suspects.neighbors import nearest

COARSE = 8
"""Side of the thumbnails that candidates are looked for by, in pixels."""

LIKELY = 0.9
"""Least correlation of coarse thumbnails, and of thumbnails before alignment, of candidates."""

SAME = 0.95
"""Least correlation of the thumbnails of two photos of the same picture, after alignment."""

SAME_DETAILS = 0.8
"""Least correlation of their details: on a plain background, thumbnails of two things can be alike as a whole."""

DETAILS = 5
"""Side of the window, in pixels of a thumbnail, whose mean is subtracted from a pixel to leave the details."""

FLAT = 6.0
"""Standard deviation of brightness below which thumbnails show too little to tell pictures apart."""

SCALES = (1.0, 1.027, 1.053, 1.08)
"""Sides of a photo relative to the other one's: 5 % cropped make 1.053."""

SHIFTS = (-1.0, -0.5, 0.0, 0.5, 1.0)
"""Where the smaller one is in the larger one, from edge to edge."""

PAIRS = 1024
"""Pairs that are aligned at once."""


def candidates_by_features(features: torch.Tensor, count: int = 4) -> torch.Tensor:
    """List each photo's nearest neighbors by features as pairs `(P, 2)`; see `nearest`."""
    indices = nearest(features, count).indices
    return _pairs(torch.arange(len(indices)).repeat_interleave(indices.shape[1]), indices.flatten())


def candidates_by_thumbnails(thumbnails: torch.Tensor, count: int = 3) -> torch.Tensor:
    """List pairs `(P, 2)` of photos whose coarse thumbnails `(N, T, T)` are alike in one of eight orientations."""
    coarse = nnf.adaptive_avg_pool2d(thumbnails.float(), COARSE)
    pairs = []
    for turned in progress_bar(_orientations(coarse), "Comparing thumbnails", 8, "orientation"):
        found = nearest(_normalized(coarse).flatten(1), count, among=_normalized(turned).flatten(1))
        first = torch.arange(len(coarse)).repeat_interleave(found.indices.shape[1])
        likely = found.similarities.flatten() >= LIKELY
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
    candidates = candidates[(contrast[candidates] >= FLAT).all(dim=1)]
    found = []
    for pairs in progress_bar(torch.split(candidates, PAIRS), "Comparing pairs", -(-len(candidates) // PAIRS), "batch"):
        first, second = (thumbnails[pairs[:, side]].float() for side in (0, 1))
        turned = torch.stack(list(_orientations(second)), dim=1)  # (P, 8, T, T)
        before = _correlation(first[:, None], turned)
        best, orientation = before.max(dim=1)
        likely = (best >= LIKELY - 0.2).nonzero().flatten()
        alike, details = _aligned(first[likely], turned[likely, orientation[likely]])
        same = (alike >= SAME) & (details >= SAME_DETAILS)
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
    """Scale images `(..., T, T)` to mean 0 and norm 1, so that products are correlations, whatever the brightness."""
    centered = images - images.mean(dim=(-2, -1), keepdim=True)
    normalized: torch.Tensor = centered / torch.linalg.vector_norm(centered, dim=(-2, -1), keepdim=True).clamp_min(1e-6)
    return normalized


def _aligned(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Align images `(P, T, T)`, either of which may be cropped.

    Returns:
        The largest correlation, and that of the details there, both `(P,)`.
    """
    best, details = torch.full((2, len(first)), -1.0)
    for whole, cropped in ((first, second), (second, first)):
        for scale in SCALES:
            shifts = SHIFTS if scale > 1 else (0.0,)
            for down, right in product(shifts, shifts):
                window = _window(whole, 1 / scale, down, right)
                found = _correlation(cropped, window)
                details = torch.where(found > best, _correlation(_details(cropped), _details(window)), details)
                best = torch.maximum(best, found)
    return best, details


def _correlation(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    correlation: torch.Tensor = (_normalized(first) * _normalized(second)).sum(dim=(-2, -1))
    return correlation


def _details(images: torch.Tensor) -> torch.Tensor:
    margin = DETAILS // 2
    padded = nnf.pad(images[:, None], (margin,) * 4, mode="replicate")
    return images - nnf.avg_pool2d(padded, DETAILS, stride=1)[:, 0]


def _window(images: torch.Tensor, share: float, down: float, right: float) -> torch.Tensor:
    """Cut a window of a share of the sides out of images, and scale it to their size."""
    theta = torch.tensor([[share, 0.0, (1 - share) * right], [0.0, share, (1 - share) * down]])
    grid = nnf.affine_grid(theta[None].expand(len(images), 2, 3), [len(images), 1, *images.shape[1:]], False)
    sampled = nnf.grid_sample(images[:, None], grid, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled[:, 0]
