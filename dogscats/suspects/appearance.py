"""How photos look: a thumbnail of each, and bad quality: blank, very dark or bright, tiny, or blurred."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as nnf

from dogscats.base.console import in_threads
from dogscats.base.errors import Failure
from dogscats.data.pixels.images import UnreadableImageError, decode

THUMBNAIL = 48
"""Side of a thumbnail in pixels: 5 % cropped from a photo are 2 of them, which alignment can tell."""

SHARPNESS_SIDE = 256
"""Pixels of the short side at which sharpness is measured, so that it depends on the picture, not on the camera."""

LUMA = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
"""Weights of red, green and blue in brightness (ITU-R BT.601)."""


@dataclass(frozen=True)
class Appearance:
    """How `N` photos look; those that cannot be read have NaN and a black thumbnail.

    Attributes:
        thumbnails: brightness `(N, THUMBNAIL, THUMBNAIL)`, uint8; the whole photo, squashed to a square.
        sides: short side of each photo in pixels `(N,)`.
        brightness: mean `(N,)`, from 0 to 255.
        contrast: standard deviation of brightness `(N,)`.
        sharpness: standard deviation of the Laplacian of brightness `(N,)`.
    """

    thumbnails: torch.Tensor
    sides: torch.Tensor
    brightness: torch.Tensor
    contrast: torch.Tensor
    sharpness: torch.Tensor


def look_at(root: Path, paths: Sequence[str]) -> Appearance:
    """Decode photos once, large JPEGs scaled, and describe how they look.

    Args:
        root: folder that `paths` are relative to.
        paths: paths of the photos.
    """
    thumbnails = torch.zeros(len(paths), THUMBNAIL, THUMBNAIL, dtype=torch.uint8)
    numbers = torch.full((len(paths), 4), torch.nan)

    def look(index: int) -> None:
        try:
            found = decode(root / paths[index], quietly=True, least=SHARPNESS_SIDE)
        except (UnreadableImageError, Failure):
            return
        gray = (found.pixels * LUMA).sum(dim=0, keepdim=True)[None]
        numbers[index, 0] = min(found.size)
        numbers[index, 1], numbers[index, 2] = gray.mean(), gray.std(correction=0)
        numbers[index, 3] = _sharpness(gray)
        small = nnf.interpolate(gray, (THUMBNAIL, THUMBNAIL), mode="bilinear", antialias=True)
        thumbnails[index] = small[0, 0].round().to(torch.uint8)

    for _ in in_threads(look, range(len(paths)), "Looking at photos"):
        pass
    return Appearance(thumbnails, *numbers.unbind(dim=1))


def _sharpness(gray: torch.Tensor) -> torch.Tensor:
    """Return the standard deviation of the Laplacian (Pech-Pacheco et al., "Diatom autofocusing", 2000)."""
    scale = SHARPNESS_SIDE / min(gray.shape[2:])
    if scale < 1:
        size = [max(round(side * scale), 3) for side in gray.shape[2:]]
        gray = nnf.interpolate(gray, size, mode="bilinear", antialias=True)
    kernel = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])[None, None]
    padded = nnf.pad(gray, (1, 1, 1, 1), mode="replicate")
    return nnf.conv2d(padded, kernel).std(correction=0)


def quality(appearance: Appearance, size: int) -> tuple[torch.Tensor, Callable[[int], str]]:
    """Score the quality of photos.

    Args:
        appearance: how `N` photos look.
        size: side of the square images that the network takes, in pixels.

    Returns:
        Scores `(N,)` from 0 to 1, above .5 for bad quality and 0 for photos that cannot be read; and a function that
        gives the reason for the score of a photo.
    """
    a = appearance
    blur = a.sharpness / a.contrast.clamp_min(1e-3)
    ratios = {  # above 1: bad
        # A photo shows nothing below a contrast of 4, and little below a brightness of 25 or above one of 240.
        "blank: its contrast is {:.1f} of 255": (4 / a.contrast.clamp_min(1e-3), a.contrast),
        "dark: its brightness is {:.0f} of 255": (25 / a.brightness.clamp_min(1e-3), a.brightness),
        "bright: its brightness is {:.0f} of 255": ((255 - 240) / (255 - a.brightness).clamp_min(1e-3), a.brightness),
        # Smaller photos would be enlarged to a blur.
        f"small: {{:.0f}} pixels, for a network of {size}": (0.3 * size / a.sides, a.sides),
        # Below this sharpness, relative to contrast, edges are wide.
        "blurred: its sharpness is {:.3f} of its contrast": (0.06 * a.contrast / a.sharpness.clamp_min(1e-3), blur),
    }
    worst, which = torch.stack([ratio for ratio, _ in ratios.values()]).nan_to_num(nan=0.0).max(dim=0)
    scores = worst**2 / (1 + worst**2)
    texts = [(text, values) for text, (_, values) in ratios.items()]

    def reason(index: int) -> str:
        text, values = texts[int(which[index])]
        return text.format(values[index].item())

    return scores, reason
