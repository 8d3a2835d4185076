"""The evaluation transform without branches, for photos of any size, as a PyTorch module.

It computes what `data.fit.fitted(transforms.none(size), size, fit)` does, whose branches depend on the photo's shape.
Here all sizes are integer formulas. torchvision's `int(size * long / short)` is a whole-number division, and its
`round(gap / 2)` rounds half to even. `preprocessing_graph` writes the same in ONNX.

Large photos are reduced first, as predictions read them (`data.shrink`), in two steps like the decoder and Pillow. For
photos of 12 megapixels, probabilities differed by up to .08 without these steps, and by .03 with one of them.
"""

import torch
from torch import nn

from dogscats.data.pixels.images import LARGE

ASPECT = 16
"""Longest side that is resized, relative to the short one, as in `transforms.LimitAspect` and `images.is_large`."""


class Preprocessing(nn.Module):
    """Make the image of a network from a photo: `(H, W, 3)` uint8 to `(1, 3, size, size)` uint8.

    Args:
        size: side of the square image, in pixels.
        fit: how photos become square: `crop`, `pad` or `squash`.
        shrink: short side in pixels that large photos are reduced to; 0 to leave them as they are.
    """

    def __init__(self, size: int, fit: str, shrink: int = 0):
        super().__init__()
        self.size, self.fit, self.shrink = size, fit, shrink

    def forward(self, photo: torch.Tensor) -> torch.Tensor:
        """Resize, crop and pad as the evaluation transform does."""
        image = photo.permute(2, 0, 1)[None]
        if self.shrink:
            image = _reduce(image, self.shrink)
        height, width = image.shape[-2:]
        short = least(height, width)
        image = _center_crop(image, least(height, ASPECT * short), least(width, ASPECT * short))
        if self.fit == "squash":
            side = least(short, 2 * self.size)
            image = _resize(image, side, side)
        if self.fit == "pad":
            height, width = image.shape[-2:]
            long = most(height, width)
            side = least(long, 2 * self.size)
            # At least two equal rows of a single one: an exported program would not serve a dimension of 1.
            height, width = (most(pixels * side // long, 2) for pixels in (height, width))
            side = most(side, 2)
            image = _reflect(_resize(image, height, width), side)
        height, width = image.shape[-2:]
        short = least(height, width)
        image = _resize(image, height * self.size // short, width * self.size // short)
        return _center_crop(image, self.size, self.size)


def least(first: int, second: int) -> int:
    """Return the smaller of two numbers; see `_number`."""
    return _number(torch.minimum(_scalar(first), _scalar(second)), 0)


def most(first: int, second: int) -> int:
    """Return the larger of two numbers; see `_number`."""
    return _number(torch.maximum(_scalar(first), _scalar(second)), 0)


def _side(pixels: int) -> int:
    """Return a side of at least one pixel; see `_number`. A constant stays one."""
    return pixels if isinstance(pixels, int) else _number(_scalar(pixels), 1)


def _scalar(number: int) -> torch.Tensor:
    return torch.scalar_tensor(number, dtype=torch.int64)


def _number(scalar: torch.Tensor, at_least: int) -> int:
    """Return an integer that an exported program computes for each photo.

    Otherwise `torch.export` would carry formulas of height and width from step to step, and guard what it cannot prove
    about them: it took half a minute, and the program did not serve all shapes.
    """
    number: int = scalar.item()  # type: ignore[assignment]  # int() would make it a constant of the program
    torch._check(number >= at_least)
    return number


def _reduce(image: torch.Tensor, side: int) -> torch.Tensor:
    """Reduce the short side to `side` pixels if the image is large as in `images.is_large`."""
    height, width = image.shape[-2:]
    short, long = least(height, width), most(height, width)
    large = least(short // (2 * side), 1) * least(height * width // LARGE, 1) * least(ASPECT * short // long, 1)
    # The decoder's reduction, to at least `side`: 2, 4 or 8.
    factor = 1 + large * sum(power * least(short // (2 * power * side), 1) for power in (1, 2, 4))
    image = _cubic(image, *((pixels + factor - 1) // factor for pixels in (height, width)))
    height, width = (
        pixels + large * ((2 * pixels * side + short) // (2 * short) - pixels) for pixels in (height, width)
    )
    # Without this format PyTorch's next resizing would fail for some photos that are one pixel wide.
    return _cubic(image, height, width).clone(memory_format=torch.channels_last)


def _cubic(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    sides = _side(height), _side(width)
    return nn.functional.interpolate(image, sides, mode="bicubic", antialias=True)


def _resize(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    sides = _side(height), _side(width)
    return nn.functional.interpolate(image, sides, mode="bilinear", antialias=True)


def _center_crop(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    rows, columns = (
        torch.arange(_side(part)) + _half_to_even(whole - part)
        for whole, part in zip(image.shape[-2:], (height, width), strict=True)
    )
    return image[:, :, rows][:, :, :, columns]


def _half_to_even(gap: int) -> int:
    """Return `round(gap / 2)`."""
    return (gap + gap // 2 % 2) // 2


def _reflect(image: torch.Tensor, side: int) -> torch.Tensor:
    """Pad to a square, reflected as often as needed: the photo and its reflection repeat with a fixed period."""
    rows, columns = (_reflected(pixels, side) for pixels in image.shape[-2:])
    return image[:, :, rows][:, :, :, columns]


def _reflected(pixels: int, side: int) -> torch.Tensor:
    """Return which of so many pixels each of `side` pixels shows."""
    period = 2 * pixels - 2
    wave = (torch.arange(_side(side)) - (side - pixels) // 2) % period
    return torch.minimum(wave, period - wave)
