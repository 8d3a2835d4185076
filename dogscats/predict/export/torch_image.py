"""The steps of `preprocessing` in PyTorch: in `photo.pt2`, and to check files for photos that are decoded in full."""

import torch
from torch import nn

from dogscats.predict.export.preprocessing import center_start


class TorchImage:
    """An image `(1, 3, H, W)` uint8, whose methods `torch.export` can trace for all sizes; see `OnnxImage`."""

    def __init__(self, pixels: torch.Tensor):
        self.pixels, self.sides = pixels, pixels.shape[-2:]

    def least(self, first: int, second: int) -> int:
        """Return the smaller of two numbers; see `_number`."""
        return _number(torch.minimum(_scalar(first), _scalar(second)), 0)

    def most(self, first: int, second: int) -> int:
        """Return the larger of two numbers; see `_number`."""
        return _number(torch.maximum(_scalar(first), _scalar(second)), 0)

    def center(self, *parts: int) -> "TorchImage":
        """Crop to the height and width in the middle."""
        starts = (center_start(whole, part) for whole, part in zip(self.sides, parts, strict=True))
        return self._picked(*(torch.arange(_side(part)) + start for part, start in zip(parts, starts, strict=True)))

    def resized(self, height: int, width: int, kept: int | None = None, mode: str = "bilinear") -> "TorchImage":
        """Resize, and keep a square of `kept` pixels in the middle."""
        sides = _side(height), _side(width)
        image = TorchImage(nn.functional.interpolate(self.pixels, sides, mode=mode, antialias=True))
        return image if kept is None else image.center(kept, kept)

    def reduced(self, height: int, width: int) -> "TorchImage":
        """Reduce with a cubic filter."""
        # Without this format PyTorch's next resizing would fail for some photos that are one pixel wide.
        pixels = self.resized(height, width, mode="bicubic").pixels
        return TorchImage(pixels.clone(memory_format=torch.channels_last))

    def reflected(self, side: int) -> "TorchImage":
        """Pad to a square, reflected as often as needed: the photo and its reflection repeat with a fixed period."""
        shown = []
        for pixels in self.sides:
            period = 2 * pixels - 2
            wave = (torch.arange(_side(side)) - (side - pixels) // 2) % period
            shown.append(torch.minimum(wave, period - wave))
        return self._picked(*shown)

    def _picked(self, rows: torch.Tensor, columns: torch.Tensor) -> "TorchImage":
        return TorchImage(self.pixels[:, :, rows][:, :, :, columns])


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
