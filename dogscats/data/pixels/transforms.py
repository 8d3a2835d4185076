"""The lesson's transforms: evaluation, side-on and top-down augmentation; how photos become square.

They map uint8 images `(3, H, W)` to uint8 images `(3, size, size)`. Normalization is part of the backbone. Random
numbers come from torch's global generator, as in torchvision's transforms.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tvf

from dogscats.base.errors import ArgumentError
from dogscats.base.rules import is_number

MARGIN = 1.3
"""Pixels per side that are kept, relative to those that transforms need: this keeps double resizing sharp."""

MARGIN_UNKNOWN = 4
"""Pixels per side, relative to the image size, that an unknown transform may need: for a crop of a quarter."""


class LimitAspect(v2.Transform):
    """Crop images whose long side exceeds `ratio` times the short side.

    Resizing the short side of such an image to hundreds of pixels could take gigabytes. The network sees a square
    crop anyway.
    """

    def __init__(self, ratio: int = 16):
        super().__init__()
        self.ratio = ratio

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Crop the centre of an image that is too long."""
        height, width = tvf.get_size(inpt)
        longest = self.ratio * min(height, width)
        if max(height, width) <= longest:
            return inpt
        return tvf.center_crop(inpt, [min(height, longest), min(width, longest)])


class RandomZoom(v2.Transform):
    """Resize the short side to `size`, with probability `p` by a random zoom of up to `max_zoom`."""

    def __init__(self, size: int, max_zoom: float, p: float = 0.75):
        super().__init__()
        self.size, self.max_zoom, self.p = size, max_zoom, p

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the short side in pixels."""
        zoom = 1 + (self.max_zoom - 1) * torch.rand(()).item() if torch.rand(()) < self.p else 1.0
        return {"short_side": int(self.size * zoom)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize with bilinear interpolation and antialiasing."""
        return tvf.resize(inpt, [params["short_side"]])


class RandomRotatedCrop(v2.Transform):
    """Rotate about the centre by up to +-`degrees` with probability `p`, then take a random square crop.

    Borders are filled by reflection, which `v2.RandomRotation` does not support. Only the pixels of the crop are
    computed: the same result as reflection padding, rotation and crop, in half the time.
    """

    def __init__(self, size: int, degrees: float, p: float = 0.75):
        super().__init__()
        self.size, self.degrees, self.p = size, degrees, p

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the angle in degrees and the position of the crop in pixels."""
        height, width = tvf.get_size(flat_inputs[0])
        angle = self.degrees * (2 * torch.rand(()).item() - 1) if torch.rand(()) < self.p else 0.0
        top = int(torch.randint(height - self.size + 1, ()))
        left = int(torch.randint(width - self.size + 1, ()))
        return {"angle": angle, "top": top, "left": left}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Sample the rotated crop bilinearly."""
        top, left = params["top"], params["left"]
        if params["angle"] == 0:
            return tvf.crop(inpt, top, left, self.size, self.size)
        return rotated_crop(inpt, params["angle"], top, left, self.size)


def rotated_crop(image: torch.Tensor, degrees: float, top: int, left: int, size: int) -> torch.Tensor:
    """Crop a square from `image` `(3, H, W)`, rotated counter-clockwise with reflected borders.

    Returns:
        uint8, `(3, size, size)`.
    """
    height, width = image.shape[-2:]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # Centre of the crop relative to the image centre, in pixels. The unit of affine_grid is half a side.
    x, y = left + (size - width) / 2, top + (size - height) / 2
    theta = torch.tensor(
        [
            [cos * size / width, -sin * size / width, 2 * (cos * x - sin * y) / width],
            [sin * size / height, cos * size / height, 2 * (sin * x + cos * y) / height],
        ]
    )
    grid = nnf.affine_grid(theta[None], [1, 3, size, size], align_corners=False)
    crop = nnf.grid_sample(image[None].float(), grid, padding_mode="reflection", align_corners=False)
    return crop[0].round_().to(torch.uint8)


class RandomQuarterTurn(v2.Transform):
    """Rotate by 0, 90, 180 or 270 degrees with equal probability."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the number of quarter turns."""
        return {"turns": int(torch.randint(4, ()))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Rotate without interpolation."""
        return torch.rot90(inpt, params["turns"], dims=(-2, -1))


def none(size: int) -> v2.Transform:
    """Resize the short side to `size` and crop the centre: the evaluation transform.

    Example:
        >>> transform = none(224)
        >>> transform(image)  # uint8: (3, H, W) to (3, 224, 224)

    Args:
        size: side of the square images, in pixels.
    """
    return v2.Compose([LimitAspect(), v2.Resize(size), v2.CenterCrop(size)])


def _check(max_zoom: float, degrees: float = 0, lighting: float = 0) -> None:
    """Refuse bad strengths of augmentation."""
    limits = {"max_zoom": (max_zoom, 1, 10), "degrees": (degrees, 0, 180), "lighting": (lighting, 0, 1)}
    for key, (value, low, high) in limits.items():
        if not is_number(value) or not low <= value <= high:
            raise ArgumentError("augment", f"{key}={value}: expected a number from {low} to {high}.")


def crops(size: int, max_zoom: float = 1.1) -> v2.Transform:
    """Zoom and crop at random, as `side_on` does, but do not turn, mirror or relight.

    Heads that were trained without augmentation do not know photos that are turned or mirrored.

    Example:
        >>> transform = crops(224, max_zoom=1.2)
        >>> transform(image)  # uint8: (3, H, W) to (3, 224, 224)

    Args:
        size: side of the square images, in pixels.
        max_zoom: largest zoom, 1 to 10; 1 for none.

    Raises:
        ArgumentError: for a bad strength.
    """
    _check(max_zoom)
    return v2.Compose([LimitAspect(), RandomZoom(size, max_zoom), v2.RandomCrop(size)])


def side_on(size: int, max_zoom: float = 1.1, degrees: float = 10, lighting: float = 0.05) -> v2.Transform:
    """Augment photos taken from the side: fastai 0.7's `transforms_side_on` with `max_zoom`.

    Zoom, rotation, lighting, horizontal flip and random crop. Unlike fastai, the crop is part of the rotation,
    contrast changes about the mean of the crop, and brightness is multiplied rather than added.

    Example:
        >>> transform = side_on(224)
        >>> transform(image)  # uint8: (3, H, W) to (3, 224, 224)

    Args:
        size: side of the square images, in pixels.
        max_zoom: largest zoom, 1 to 10; 1 for none.
        degrees: largest angle of rotation, in degrees, 0 to 180.
        lighting: largest relative change of brightness and contrast, 0 to 1.

    Raises:
        ArgumentError: for a bad strength.
    """
    _check(max_zoom, degrees, lighting)
    return v2.Compose(
        [
            LimitAspect(),
            RandomZoom(size, max_zoom),
            RandomRotatedCrop(size, degrees),
            v2.ColorJitter(brightness=lighting, contrast=lighting),
            v2.RandomHorizontalFlip(),
        ]
    )


def top_down(size: int, max_zoom: float = 1.1, degrees: float = 10, lighting: float = 0.05) -> v2.Transform:
    """Augment photos taken from above: `side_on` with vertical flips and quarter turns.

    Example:
        >>> transform = top_down(224, degrees=45)
        >>> transform(image)  # uint8: (3, H, W) to (3, 224, 224)

    Args:
        size: side of the square images, in pixels.
        max_zoom: largest zoom, 1 to 10; 1 for none.
        degrees: largest angle of rotation, in degrees, 0 to 180.
        lighting: largest relative change of brightness and contrast, 0 to 1.

    Raises:
        ArgumentError: for a bad strength.
    """
    return v2.Compose([side_on(size, max_zoom, degrees, lighting), v2.RandomVerticalFlip(), RandomQuarterTurn()])


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


def needed_side(transforms: Iterable[Callable[..., Any]], size: int) -> int:
    """Return the short side in pixels at which large photos are read.

    Args:
        transforms: transforms that photos pass through.
        size: side of the square that they make.
    """
    return max(math.ceil(side) for transform in transforms for side in _sides(transform, size))


NEUTRAL = (
    *(v2.Identity, v2.ColorJitter, v2.RandomHorizontalFlip, v2.RandomVerticalFlip, v2.CenterCrop),
    *(v2.RandomCrop, v2.RandomErasing, v2.RandomGrayscale, v2.GaussianBlur, v2.RandomRotation),
    *(LimitAspect, RandomRotatedCrop, RandomQuarterTurn),
)
"""Transforms that need no more pixels than the image that they are given."""


def _sides(transform: Callable[..., Any], size: int) -> list[float]:
    if isinstance(transform, v2.Compose | v2.RandomApply | v2.RandomChoice | v2.RandomOrder | nn.Sequential):
        steps = list(transform if isinstance(transform, nn.Sequential) else transform.transforms)
        if square := next((step for step in steps if isinstance(step, Square)), None):
            return [2 * square.size]  # all that it leaves of an image
        return [side for step in steps for side in _sides(step, size)] or [MARGIN * size]
    if isinstance(transform, RandomZoom):
        return [MARGIN * transform.size * transform.max_zoom]
    if isinstance(transform, v2.RandomResizedCrop):
        return [MARGIN * max(transform.size) / math.sqrt(min(transform.scale))]
    if isinstance(transform, v2.Resize) and transform.size:
        return [MARGIN * max(transform.size)]
    return [MARGIN * size if type(transform) in NEUTRAL else MARGIN_UNKNOWN * size]
