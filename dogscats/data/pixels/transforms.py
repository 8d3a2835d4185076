"""The lesson's transforms: evaluation, side-on and top-down augmentation.

They map uint8 images `(3, H, W)` to uint8 images `(3, size, size)`. Normalisation is part of the backbone. Random
numbers come from torch's global generator, as in torchvision's transforms.
"""

import math
from typing import Any

import torch
import torch.nn.functional as nnf
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tvf

from dogscats.base.errors import ArgumentError


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
    """Resize the short side to `size` and crop the centre: the evaluation transform."""
    return v2.Compose([LimitAspect(), v2.Resize(size), v2.CenterCrop(size)])


def _check(max_zoom: float, degrees: float = 0, lighting: float = 0) -> None:
    """Refuse bad strengths of augmentation."""
    for key, value, low, high in (
        ("max_zoom", max_zoom, 1, 10),
        ("degrees", degrees, 0, 180),
        ("lighting", lighting, 0, 1),
    ):
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ArgumentError("augment", f"{key}={value}: expected a number from {low} to {high}.")


def crops(size: int, max_zoom: float = 1.1) -> v2.Transform:
    """Zoom and crop at random, as `side_on` does, but do not turn, mirror or relight.

    Heads that were trained without augmentation do not know photos that are turned or mirrored.
    """
    _check(max_zoom)
    return v2.Compose([LimitAspect(), RandomZoom(size, max_zoom), v2.RandomCrop(size)])


def side_on(size: int, max_zoom: float = 1.1, degrees: float = 10, lighting: float = 0.05) -> v2.Transform:
    """Augment photos taken from the side: fastai 0.7's `transforms_side_on` with `max_zoom`.

    Zoom, rotation, lighting, horizontal flip and random crop. Unlike fastai, the crop is part of the rotation,
    contrast changes about the mean of the crop, and brightness is multiplied rather than added.
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
    """Augment photos taken from above: `side_on` with vertical flips and quarter turns."""
    return v2.Compose([side_on(size, max_zoom, degrees, lighting), v2.RandomVerticalFlip(), RandomQuarterTurn()])
