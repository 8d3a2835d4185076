"""Large photos are read at a fraction of their size, and kept so: `data.shrink`.

A photo of 12 megapixels takes 53 ms to decode in full, and 25 ms at an eighth of its size; its copy takes 1 ms. Copies
are JPEGs of quality 95 with 4:2:0 chroma: they differ from what they are made of by 1.1 grey levels (RMS), as much as
two ways of resizing do, and have 50 kB. 4:4:4 differs by .8 but takes twice as long to decode; WebP takes eight times
as long, PNG ten times and 220 kB; uncompressed, 400 kB. See `benchmarks/large_photos.py`.
"""

import io
import logging
import math
import os
import shutil
import uuid
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from dogscats.base.console import progress_bar
from dogscats.base.content import fingerprint
from dogscats.base.errors import Failure
from dogscats.base.files import CANNOT_WRITE, cannot_write
from dogscats.data.pixels import images
from dogscats.data.pixels.fit import Square
from dogscats.data.pixels.images import UnreadableImageError, decode, image_size, is_large
from dogscats.data.pixels.transforms import LimitAspect, RandomQuarterTurn, RandomRotatedCrop, RandomZoom

log = logging.getLogger(__name__)

MARGIN = 1.3
"""Pixels per side that are kept, relative to those that transforms need: resizing twice blurs less so."""

GENEROUS = 4
"""Pixels per side, relative to the image size, that an unknown transform may need: for a crop of a quarter."""

NEUTRAL = (
    *(v2.Identity, v2.ColorJitter, v2.RandomHorizontalFlip, v2.RandomVerticalFlip, v2.CenterCrop),
    *(v2.RandomCrop, v2.RandomErasing, v2.RandomGrayscale, v2.GaussianBlur, v2.RandomRotation),
    *(LimitAspect, RandomRotatedCrop, RandomQuarterTurn),
)
"""Transforms that need no more pixels than the image has that they are given."""

MAGIC = b"shrunken"
"""What a copy begins with, so that no program takes it for a photo; the CRC-32 of the JPEG follows, and the JPEG."""

BYTES_PER_PIXEL = 0.5
"""Size of a copy, for the estimate; measured .37 for noisy photos."""

RESERVE = 1_000_000_000
"""Bytes of the disk that copies leave free."""

SAMPLED = 64
"""Photos whose size is looked at before the first pass, to estimate the size of all copies."""


def needed_side(transforms: Iterable[Callable[..., Any]], size: int) -> int:
    """Return the short side in pixels at which large photos are read.

    Args:
        transforms: transforms that photos pass through.
        size: side of the square that they make.
    """
    return max(math.ceil(side) for transform in transforms for side in _sides(transform, size))


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
    return [MARGIN * size if type(transform) in NEUTRAL else GENEROUS * size]


@dataclass(frozen=True)
class Shrink:
    """How large photos are read.

    Attributes:
        side: short side in pixels that is read of large photos.
        folder: folder of copies; `None` to read the photos themselves.
        copies: name of the copy of each large photo, by its path.
        required: whether it is an error if copies cannot be written.
    """

    side: int
    folder: Path | None = None
    copies: Mapping[str, str] = field(default_factory=dict)
    required: bool = False

    def read(self, root: Path, path: str, quietly: bool = False) -> torch.Tensor:
        """Read a photo `(3, H, W)`: a large one from its copy, which is made if it is missing or damaged.

        Raises:
            UnreadableImageError: as `images.decode`.
        """
        if self.folder is None or path not in self.copies:
            return shrunken(root / path, self.side, quietly)
        file = self.folder / self.copies[path]
        try:
            pixels = _decoded(file.read_bytes())
        except OSError:
            pixels = None
        if pixels is None:
            content = _encoded(shrunken(root / path, self.side, quietly=True))
            try:
                _write(file, content)
            except Failure as error:
                log.debug("%s", error)  # a full disk or a read-only cache: the copy is made again every time
            pixels = _decoded(content)
            assert pixels is not None
        return pixels

    def keep(self, root: Path, path: str, pixels: torch.Tensor) -> None:
        """Write the copy of a large photo, unless it is there.

        Args:
            root: folder that `path` is relative to.
            path: path of the photo.
            pixels: the photo as `images.decode` gives it for `side`.

        Raises:
            Failure: if it cannot be written.
        """
        assert self.folder is not None
        file = self.folder / copy_name(root, path)
        if not file.exists():
            _write(file, _encoded(resized(pixels, self.side)))

    def version(self, paths: Iterable[str]) -> str:
        """Return what pixels of these photos depend on; empty if none is large."""
        return f"{self.side} {self.folder is not None}" if any(path in self.copies for path in paths) else ""


def shrunken(file: Path, side: int, quietly: bool = False) -> torch.Tensor:
    """Read a photo `(3, H, W)`: a large one with a short side of `side` pixels, others as they are."""
    photo = decode(file, quietly, side)
    return resized(photo.pixels, side) if is_large(photo.size, side) else photo.pixels


def resized(pixels: torch.Tensor, side: int) -> torch.Tensor:
    """Resize an image `(3, H, W)` to a short side of `side` pixels."""
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    scale = side / min(picture.size)
    size = (max(round(picture.width * scale), side), max(round(picture.height * scale), side))
    # Pillow's own reduction by a whole factor comes first: most of the time for photos that are decoded in full.
    small = picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)


def make_copies(shrink: Shrink, root: Path, paths: Sequence[str]) -> None:
    """Make the copies of large photos, with all cores.

    Args:
        shrink: side and folder.
        root: folder that `paths` are relative to.
        paths: paths of large photos.

    Raises:
        Failure: if they cannot be written.
    """

    def make(path: str) -> None:
        try:
            shrink.keep(root, path, decode(root / path, quietly=True, least=shrink.side).pixels)
        except UnreadableImageError as error:
            log.debug("%s: %s", path, error)  # said with its name when it is read for training

    with (
        ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool,
        progress_bar(paths, "Shrinking photos", len(paths), "photo") as bar,
    ):
        for _ in pool.map(make, paths):
            bar.update()


def planned(shrink: Shrink, root: Path, paths: Sequence[str]) -> Shrink:
    """Estimate from a sample of photos whether there is room for copies, before any photo is decoded.

    Args:
        shrink: side, and folder if copies are wanted.
        root: folder that `paths` are relative to.
        paths: paths of all photos.

    Returns:
        `shrink`; without its folder if there seems to be too little room.

    Raises:
        Failure: if there is too little room and copies are required.
    """
    if shrink.folder is None or not paths:
        return shrink
    chosen = paths[:: -(-len(paths) // SAMPLED)]
    sizes = [size for path in chosen if (size := image_size(root / path)) and is_large(size, shrink.side)]
    if not sizes:
        return shrink
    share = len(paths) / len(chosen)
    room = _Room(shrink, round(len(sizes) * share), copies_bytes(sizes, shrink.side) * share)
    if room.enough:
        log.info("%s", room)
        return shrink
    if shrink.required:
        raise room.error()
    return replace(shrink, folder=None)


def completed(shrink: Shrink, root: Path, sizes: Mapping[str, tuple[int, int]]) -> Shrink:
    """Make the copies that are missing, and name all.

    Args:
        shrink: side, and folder if copies are wanted.
        root: folder that the paths are relative to.
        sizes: width and height of photos by path, at least of all large ones.

    Returns:
        `shrink` with the copies; without its folder if there is too little room.

    Raises:
        Failure: if copies are required and cannot be written.
    """
    large = [path for path, size in sizes.items() if is_large(size, shrink.side)]
    shrink = replace(shrink, copies={path: copy_name(root, path) if shrink.folder else "" for path in large})
    there = {file.name for file in shrink.folder.iterdir()} if shrink.folder and shrink.folder.is_dir() else set()
    missing = [path for path in large if shrink.copies[path] not in there]
    if shrink.folder is None or not missing:
        return shrink
    room = _Room(shrink, len(missing), copies_bytes([sizes[path] for path in missing], shrink.side))
    if not room.enough and shrink.required:
        raise room.error()
    try:
        if room.enough:
            log.info("%s", room)
            make_copies(shrink, root, missing)
            return shrink
        log.warning("%s: they are read without copies, which takes longer", room)
    except Failure as error:
        if shrink.required:
            raise
        log.warning("%s Large photos are read without copies, which takes longer.", error)
    return replace(shrink, folder=None)


@dataclass(frozen=True)
class _Room:
    """The disk space of copies that are to be made."""

    shrink: Shrink
    count: int
    need: float

    @property
    def folder(self) -> Path:
        assert self.shrink.folder is not None
        return self.shrink.folder.parent

    @property
    def free(self) -> int:
        return shutil.disk_usage(self.folder).free

    @property
    def enough(self) -> bool:
        return self.need + RESERVE <= self.free

    def __str__(self) -> str:
        return (
            f"Large photos: about {self.count} are kept at {self.shrink.side} pixels, which takes about "
            f"{max(self.need / 1e6, 1):.0f} of {self.free / 1e6:.0f} MB free in {self.folder}"
        )

    def error(self) -> Failure:
        return Failure(
            f"data.shrink=true: {self.folder}: shrunken copies of {self.count} photos take about "
            f"{self.need / 1e6:.0f} MB, and {RESERVE / 1e6:.0f} stay free, but only {self.free / 1e6:.0f} MB are. Free "
            "some space, choose another folder with activations.dir=<folder>, or set data.shrink=auto."
        )


def copies_bytes(sizes: Iterable[tuple[int, int]], side: int) -> float:
    """Estimate the size of copies in bytes."""
    return sum(BYTES_PER_PIXEL * side * side * max(size) / min(size) for size in sizes)


def copy_name(root: Path, path: str) -> str:
    """Return the file name of the copy of a photo, by its path, size, modification time and samples of its content."""
    return f"{fingerprint(root, [path])}.shrunken"


def _encoded(pixels: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=95, subsampling=2)
    jpeg = buffer.getvalue()
    return MAGIC + zlib.crc32(jpeg).to_bytes(4) + jpeg


def _decoded(content: bytes) -> torch.Tensor | None:
    """Decode a copy; `None` if it is damaged."""
    start = len(MAGIC) + 4
    jpeg = content[start:]
    if content[:start] != MAGIC + zlib.crc32(jpeg).to_bytes(4):
        return None
    if images.decode_jpeg is not None:
        return images.decode_jpeg(jpeg)
    return torch.from_numpy(np.array(Image.open(io.BytesIO(jpeg)))).permute(2, 0, 1)


def _write(file: Path, content: bytes) -> None:
    """Write a copy atomically, without waiting for the disk: what a power cut leaves of it fails its checksum."""
    temporary = file.with_name(f".{file.stem}.{uuid.uuid4().hex}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(file)
    except OSError as error:
        if error.errno in CANNOT_WRITE:
            raise cannot_write(file, error.strerror) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
