"""Transforms of whole batches on a device: `data.resident`.

A transform has two parts. Its first steps, up to a random one, are the same in every epoch: photos are kept as they are
after these, at most as large as the others need. The random steps are drawn for each photo by their own `make_params`,
so that a seed gives what it gives where the transform itself is called. `render` applies what was drawn to a batch.

Each pixel is computed from its own picture alone, without matrix products or sums of floats over pixels, whose rounding
depends on the size of a batch: pictures are bit-equal in any batch.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tvf

from dogscats.data.pixels.shrink import resized
from dogscats.data.pixels.transforms import LimitAspect, RandomQuarterTurn, RandomRotatedCrop, RandomZoom, Square

FIXED = (LimitAspect, Square, v2.Resize, v2.CenterCrop, v2.Identity)
"""Transforms without random numbers."""

MARGIN = 1.05
"""Pixels per side that pictures keep, relative to those that the largest zoom needs. Without it, noise in augmented
pictures of a small size differs by more than 1.5 grey levels from that of the transform itself."""

LEAST_REDUCTION = 1.2
"""Pictures that need a smaller reduction are kept as they are: it would save little, and blur them."""

MAX_ASPECT = 4
"""Largest ratio of the sides of pictures that are kept for cropping: batches have room for the longest of theirs."""

LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in torchvision's grayscale."""

Row = tuple[float, float, float]


@dataclass
class View:
    """What was drawn for a version of a picture.

    Attributes:
        height: height to which the picture is resized first, in pixels.
        width: the same for its width.
        x: the point (X, Y) of the version is at `x[0] * X + x[1] * Y + x[2]` in the resized picture, in pixels.
        y: the same for its vertical position.
        light: factors of brightness before contrast, of contrast, and of brightness after it.
    """

    height: int
    width: int
    x: Row = (1.0, 0.0, 0.0)
    y: Row = (0.0, 1.0, 0.0)
    light: Row = (1.0, 1.0, 1.0)

    def move(self, x: Row, y: Row) -> None:
        """Make a version of this one: `x` and `y` say where in this one its points are."""
        (a, b, c), (d, e, f) = self.x, self.y
        self.x = a * x[0] + b * y[0], a * x[1] + b * y[1], a * x[2] + b * y[2] + c
        self.y = d * x[0] + e * y[0], d * x[1] + e * y[1], d * x[2] + e * y[2] + f


def _zoom(view: View, size: int, short_side: int) -> None:
    long_side = int(short_side * max(view.height, view.width) / min(view.height, view.width))  # as torchvision's resize
    tall = view.height > view.width
    view.height, view.width = (long_side, short_side) if tall else (short_side, long_side)


def _rotated_crop(view: View, size: int, angle: float, top: int, left: int) -> None:
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    x, y = left - view.width / 2, top - view.height / 2
    view.move((cos, -sin, cos * x - sin * y + view.width / 2), (sin, cos, sin * x + cos * y + view.height / 2))


def _crop(view: View, size: int, top: int, left: int, **others: Any) -> None:
    view.move((1, 0, left), (0, 1, top))


def _relight(view: View, size: int, fn_idx: torch.Tensor, **factors: Any) -> None:
    brightness, contrast = (1.0 if factors[f"{of}_factor"] is None else factors[f"{of}_factor"] for of in LIGHT)
    order = fn_idx.tolist()
    brightness_first = order.index(0) < order.index(1)
    view.light = (brightness, contrast, 1.0) if brightness_first else (1.0, contrast, brightness)


def _turn(view: View, size: int, turns: int) -> None:
    for _ in range(turns):
        view.move((0, -1, size), (1, 0, 0))


LIGHT = ("brightness", "contrast")

CROPS: dict[type, Callable[..., None]] = {RandomRotatedCrop: _rotated_crop, v2.RandomCrop: _crop}
LATER: dict[type, Callable[..., None]] = {
    v2.ColorJitter: _relight,
    v2.RandomHorizontalFlip: lambda view, size: view.move((-1, 0, size), (0, 1, 0)),
    v2.RandomVerticalFlip: lambda view, size: view.move((1, 0, 0), (0, -1, size)),
    RandomQuarterTurn: _turn,
}
STEPS: dict[type, Callable[..., None]] = {RandomZoom: _zoom} | CROPS | LATER
"""Random steps: perhaps a zoom; a crop to `size`; changes of the crop. Each function adds what a step drew."""


class BatchedTransform:
    """A transform in two parts, for `render`.

    Args:
        transform: a transform to a square.
        size: side of the square, in pixels.

    Raises:
        ValueError: if it is not of this form: fixed steps that end with a centre crop; or fixed steps, a `RandomZoom`
            or none, a random crop, mirror images and quarter turns, and one change of brightness and contrast or none.
    """

    def __init__(self, transform: v2.Transform, size: int):
        steps = list(_flattened(transform))
        first = next((place for place, step in enumerate(steps) if type(step) not in FIXED), len(steps))
        self.size, self.fixed, self.random = size, steps[:first], steps[first:]
        self.zoom = next((step for step in self.random[:1] if isinstance(step, RandomZoom)), None)
        crop, *later = [*self.random[1 if self.zoom else 0 :], None] if self.random else [*steps[-1:], None]
        if (
            type(crop) not in (CROPS if self.random else {v2.CenterCrop})
            or {*(crop.size if isinstance(crop.size, Sequence) else [crop.size])} != {size}
            or (isinstance(crop, v2.RandomCrop) and (crop.padding or crop.pad_if_needed))
            or not {type(step) for step in later[:-1]} <= LATER.keys()
            or any(isinstance(step, v2.ColorJitter) and (step.saturation or step.hue) for step in later)
            or sum(isinstance(step, v2.ColorJitter) for step in later) > 1
        ):
            raise ValueError(f"{transform}: not of the form that is applied to batches")

    @property
    def version(self) -> str:
        """Everything that kept pictures depend on, besides the photo."""
        return f"{[str(step) for step in self.fixed]} {self.kept_side(1 << 30)}"

    def kept_side(self, short_side: int) -> int:
        """Return the short side of a picture that is kept, in pixels."""
        needed = math.ceil(MARGIN * self.zoom.size * self.zoom.max_zoom) if self.zoom else short_side
        return short_side if short_side < LEAST_REDUCTION * needed else needed

    def kept_bytes(self, width: int, height: int) -> float:
        """Estimate the bytes that are kept of a photo."""
        side = self.kept_side(min(width, height)) if self.random else self.size
        return 3 * side**2 * (min(max(width, height) / min(width, height), MAX_ASPECT) if self.random else 1)

    def keep(self, photo: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        """Make the picture `(3, H, W)` of a photo `(3, H, W)` that is kept.

        Returns:
            The picture; and the height and width that it stands for.
        """
        for step in self.fixed:
            photo = step(photo)
        height, width = photo.shape[1:]
        if self.zoom:
            longest = MAX_ASPECT * min(height, width)
            height, width = min(height, longest), min(width, longest)
            photo = tvf.center_crop(photo, [height, width])
        side = self.kept_side(min(height, width))
        return (photo if side == min(height, width) else resized(photo, side)), (height, width)

    def draw(self, height: int, width: int) -> list[float]:
        """Draw a version of a picture from torch's global generator; return the 11 numbers of its `View`.

        Args:
            height: height that the picture stands for.
            width: width that it stands for.
        """
        view = View(height, width)
        for step in self.random:
            if isinstance(step, v2.RandomHorizontalFlip | v2.RandomVerticalFlip):
                if torch.rand(1) < step.p:  # as torchvision draws it
                    STEPS[type(step)](view, self.size)
            else:
                picture = torch.empty(1).expand(3, view.height, view.width)  # only its size is looked at
                STEPS[type(step)](view, self.size, **step.make_params([picture]))
        return [view.height, view.width, *view.x, *view.y, *view.light]


def _flattened(transform: Any) -> Iterator[Any]:
    if type(transform) is v2.Compose:
        for step in transform.transforms:
            yield from _flattened(step)
    else:
        yield transform


@torch.no_grad()
def render(
    pixels: torch.Tensor, starts: torch.Tensor, sizes: torch.Tensor, views: torch.Tensor, size: int, room: Sequence[int]
) -> torch.Tensor:
    """Apply views to pictures: resize with antialiasing, crop and rotate with reflected borders, relight.

    Args:
        pixels: pixels of all pictures, row by row, one picture after the other `(P, 3)`, uint8.
        starts: row of the first pixel of each picture of the batch `(B,)`.
        sizes: height and width of each `(B, 2)`.
        views: what was drawn for each `(B, 11)`; see `BatchedTransform.draw`.
        size: side of the results, in pixels.
        room: `room_for(sizes, views)`, computed on the CPU: the device need not be waited for.

    Returns:
        uint8 `(B, 3, size, size)`, in channels_last memory format.
    """
    heights, widths = sizes[:, 0], sizes[:, 1]
    rows, to_rows, to_columns, taps = room
    lines = torch.minimum(torch.arange(rows, device=pixels.device), heights[:, None] - 1)
    places = starts[:, None] + lines * widths[:, None]
    wide = torch.zeros((), device=pixels.device)
    for column, weight in _taps(widths, views[:, 1], to_columns, taps):
        wide = wide + pixels[places[:, :, None] + column[:, None]] * weight[:, None, :, None]
    wide, batch = wide.round(), torch.arange(len(starts), device=pixels.device)[:, None]
    small = torch.zeros((), device=pixels.device)
    for row, weight in _taps(heights, views[:, 0], to_rows, taps):
        small = small + wide[batch, row] * weight[:, :, None, None]
    images = _sampled(small.round(), views, size)
    before, contrast, after = views[:, 8:, None, None, None].unbind(dim=1)
    images = (images * before).clamp(0, 255).floor()
    gray = (images[..., 0] * LUMA[0] + images[..., 1] * LUMA[1] + images[..., 2] * LUMA[2]).floor()
    mean = gray.sum(dim=(1, 2), dtype=torch.int64).float() / size**2  # integers: exact in any order
    images = (images * contrast + mean[:, None, None, None] * (1 - contrast)).clamp(0, 255).floor()
    return (images * after).clamp(0, 255).to(torch.uint8).permute(0, 3, 1, 2)


def room_for(sizes: torch.Tensor, views: torch.Tensor) -> tuple[int, int, int, int]:
    """Return the rows of a batch's pictures, their rows and columns once resized, and the source pixels of a pixel."""
    reduction = max((sizes / views[:, :2]).max().item(), 1)
    return int(sizes[:, 0].max()), int(views[:, 0].max()), int(views[:, 1].max()), 2 * math.ceil(reduction) + 1


def _taps(
    lengths: torch.Tensor, targets: torch.Tensor, room: int, taps: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the source pixels of resizing along a side, with their weights, as torchvision's antialiased bilinear.

    Args:
        lengths: source pixels of each picture `(B,)`.
        targets: pixels that they are resized to `(B,)`.
        room: largest of these.
        taps: largest number of source pixels of one.

    Yields:
        Numbers and weights of one source pixel of each `(B, room)`.
    """
    scale = (lengths / targets)[:, None]
    reach = scale.clamp_min(1)
    centers = (torch.arange(room, device=lengths.device) + 0.5) * scale
    first = (centers - reach + 0.5).floor()
    numbers = [first + tap for tap in range(taps)]
    weights = [
        (1 - ((number + 0.5 - centers) / reach).abs()).clamp_min(0) * ((number >= 0) & (number < lengths[:, None]))
        for number in numbers
    ]
    total = sum(weights[1:], start=weights[0])
    for number, weight in zip(numbers, weights, strict=True):
        yield number.long().clamp_min(0).minimum(lengths[:, None] - 1), weight / total.clamp_min(1e-6)


def _sampled(pictures: torch.Tensor, views: torch.Tensor, size: int) -> torch.Tensor:
    """Sample squares `(B, size, size, 3)` bilinearly from pictures `(B, H, W, 3)`, each as large as its view says."""
    middles = torch.arange(size, device=pictures.device) + 0.5
    across, down = middles[None, None, :], middles[None, :, None]
    a, b, c, d, e, f = views[:, 2:8, None, None].unbind(dim=1)
    x = _reflected(a * across + b * down + c, views[:, 1, None, None])
    y = _reflected(d * across + e * down + f, views[:, 0, None, None])
    left, top = x.floor(), y.floor()
    right, bottom = (x - left)[..., None], (y - top)[..., None]
    batch = torch.arange(len(pictures), device=pictures.device)[:, None, None]
    x0, y0 = left.long(), top.long()
    x1 = (left + 1).minimum(views[:, 1, None, None] - 1).long()
    y1 = (top + 1).minimum(views[:, 0, None, None] - 1).long()
    upper = pictures[batch, y0, x0] * (1 - right) + pictures[batch, y0, x1] * right
    lower = pictures[batch, y1, x0] * (1 - right) + pictures[batch, y1, x1] * right
    return (upper * (1 - bottom) + lower * bottom).round()


def _reflected(positions: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """Return numbers of pixels, with fractions, reflected at the borders of a side, as by `grid_sample`."""
    positions = positions.remainder(2 * length)
    return (torch.minimum(positions, 2 * length - positions) - 0.5).clamp_min(0).minimum(length - 1)
