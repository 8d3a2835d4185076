"""How photos that are not square become square."""

from typing import Any

from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tvf

from dogscats.data.pixels.transforms import LimitAspect


class Square(v2.Transform):
    """Make an image square without cutting anything off, before a transform that resizes and crops it.

    The image keeps at most twice the pixels per side that are needed, so that a transform can zoom in twofold.

    Args:
        size: side of the square that the following transform makes, in pixels.
        fit: `pad` to add reflected borders to the short side; `squash` to shrink the long side.
    """

    def __init__(self, size: int, fit: str):
        super().__init__()
        self.size, self.fit = size, fit

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Pad or squash an image `(3, H, W)`."""
        height, width = tvf.get_size(inpt)
        if self.fit == "squash":
            side = min(height, width, 2 * self.size)
            return tvf.resize(inpt, [side, side])
        if max(height, width) > 2 * self.size:
            inpt = tvf.resize(inpt, None, max_size=2 * self.size)
        return pad_to_square(inpt)


def pad_to_square(image: Any) -> Any:
    """Add borders to the short side of an image `(3, H, W)`, reflected as often as needed."""
    height, width = tvf.get_size(image)
    while height != width:
        # One reflection is at most one pixel smaller than the image.
        missing, most = abs(height - width), 2 * (min(height, width) - 1)
        added = min(missing, most) if most else missing
        before, after = added // 2, added - added // 2
        border = [0, before, 0, after] if height < width else [before, 0, after, 0]
        image = tvf.pad(image, border, padding_mode="reflect" if most else "edge")
        height, width = tvf.get_size(image)
    return image


def fitted(transform: v2.Transform, size: int, fit: str) -> v2.Transform:
    """Put `Square` before a transform; with the fit `crop` the transform crops, as in the lesson."""
    return transform if fit == "crop" else v2.Compose([LimitAspect(), Square(size, fit), transform])
