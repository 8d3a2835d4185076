"""Large photos are read at a fraction of their size, and kept so: `data.shrink`.

A photo of 12 megapixels takes 53 ms to decode in full, and 25 ms at an eighth of its size; its copy takes 1 ms. Copies
are JPEGs of quality 95 with 4:2:0 chroma, of 50 kB: they differ from their source by 1.1 grey levels (RMS), as much as
two ways of resizing do. 4:4:4 differs by .8 but takes twice as long to decode; WebP takes eight times
as long, PNG ten times and 220 kB; uncompressed, 400 kB. See `benchmarks/large_photos.py`.
"""

import io
import logging
import shutil
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from PIL import Image

from dogscats.base.console import in_threads
from dogscats.base.content import fingerprint
from dogscats.base.errors import Failure
from dogscats.base.files import atomic_path
from dogscats.base.text import counted
from dogscats.data.pixels import images
from dogscats.data.pixels.images import UnreadableImageError, decode, image_size, is_large, picture_of, tensor_of

log = logging.getLogger(__name__)

MAGIC = b"shrunken"
"""First bytes of a copy, so that no program takes it for a photo. The CRC-32 of the JPEG follows, then the JPEG."""

BYTES_PER_PIXEL = 0.5
"""Size of a copy, for the estimate; measured .37 for noisy photos."""

RESERVE = 1_000_000_000
"""Bytes of the disk that copies leave free."""

SAMPLED = 64
"""Number of photos whose size is read before the first pass, to estimate the size of all copies."""


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
        with suppress(OSError):
            if (pixels := _decoded(file.read_bytes())) is not None:
                return pixels
        content = _encoded(shrunken(root / path, self.side, quietly=True))
        with suppress(Failure):  # a full disk or a read-only cache: the copy is made again every time
            _write(file, content)
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
        """Return the settings that the pixels of these photos depend on; empty if none is large."""
        return f"{self.side} {self.folder is not None}" if any(path in self.copies for path in paths) else ""


def shrunken(file: Path, side: int, quietly: bool = False) -> torch.Tensor:
    """Read a photo `(3, H, W)`: a large one with a short side of `side` pixels, others as they are."""
    photo = decode(file, quietly, side)
    return resized(photo.pixels, side) if is_large(photo.size, side) else photo.pixels


def resized(pixels: torch.Tensor, side: int) -> torch.Tensor:
    """Resize an image `(3, H, W)` to a short side of `side` pixels."""
    picture = picture_of(pixels)
    scale = side / min(picture.size)
    size = (max(round(picture.width * scale), side), max(round(picture.height * scale), side))
    # Pillow's own reduction by a whole factor comes first: most of the time for photos that are decoded in full.
    return tensor_of(picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0))


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
    sampled, share = sampled_sizes(root, paths)
    sizes = [size for size in sampled if is_large(size, shrink.side)]
    has_room = not sizes or _has_room(shrink, sizes, share)
    return shrink if has_room else replace(shrink, folder=None)


def sampled_sizes(root: Path, paths: Sequence[str]) -> tuple[list[tuple[int, int]], float]:
    """Read the width and height of `SAMPLED` of some photos; return how many photos each stands for, too."""
    chosen = paths[:: -(-len(paths) // SAMPLED)]
    return [size for path in chosen if (size := image_size(root / path))], len(paths) / len(chosen)


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

    def make(path: str) -> None:
        try:
            shrink.keep(root, path, decode(root / path, quietly=True, least=shrink.side).pixels)
        except UnreadableImageError as error:
            log.debug("%s: %s", path, error)  # said with its name when it is read for training

    reason = "There is too little disk space."
    try:
        if _has_room(shrink, [sizes[path] for path in missing]):
            for _ in in_threads(make, missing, "Shrinking photos"):
                pass
            return shrink
    except Failure as error:
        if shrink.required:
            raise
        reason = str(error)
    log.warning("%s Large photos are read without copies, which takes longer.", reason)
    return replace(shrink, folder=None)


def _has_room(shrink: Shrink, sizes: Sequence[tuple[int, int]], share: float = 1) -> bool:
    """Return whether the disk has room for copies, and log how much they need, if each size stands for `share` photos.

    Raises:
        Failure: if there is too little room and copies are required.
    """
    assert shrink.folder is not None
    folder, count = shrink.folder.parent, round(len(sizes) * share)
    need = share * sum(BYTES_PER_PIXEL * shrink.side**2 * max(size) / min(size) for size in sizes)
    free = shutil.disk_usage(folder).free
    needs = f"need about {max(need / 1e6, 1):.0f} MB; {free / 1e9:.1f} GB are free in {folder}"
    if need + RESERVE <= free:
        log.info("Large photos: about %s at %d pixels %s", counted(count, "copy"), shrink.side, needs)
    elif shrink.required:
        raise Failure(
            f"data.shrink=true: shrunken copies of {counted(count, 'photo')} {needs}, and {RESERVE / 1e9:.0f} GB must "
            "stay free. Free some space, choose another folder with activations.dir=<folder>, or set data.shrink=auto."
        )
    return need + RESERVE <= free


def copy_name(root: Path, path: str) -> str:
    """Return the file name of the copy of a photo, by its path, size, modification time and samples of its content."""
    return f"{fingerprint(root, [path])}.shrunken"


def _encoded(pixels: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    picture_of(pixels).save(buffer, "JPEG", quality=95, subsampling=2)
    jpeg = buffer.getvalue()
    return MAGIC + zlib.crc32(jpeg).to_bytes(4) + jpeg


def _decoded(content: bytes) -> torch.Tensor | None:
    """Decode a copy; `None` if it is damaged."""
    start = len(MAGIC) + 4
    jpeg = content[start:]
    if content[:start] != MAGIC + zlib.crc32(jpeg).to_bytes(4):
        return None
    return images.decode_jpeg(jpeg) if images.decode_jpeg else tensor_of(Image.open(io.BytesIO(jpeg)))


def _write(file: Path, content: bytes) -> None:
    """Write a copy atomically, without waiting for the disk: a copy cut off by a power failure fails its checksum."""
    with atomic_path(file, flush=False) as temporary:
        temporary.write_bytes(content)
