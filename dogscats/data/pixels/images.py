"""Image files: listing and decoding."""

import errno
import io
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.io import ImageReadMode

from dogscats.base.errors import Failure
from dogscats.data.pixels.jpeg import decode_scaled

EXTENSIONS = {*IMG_EXTENSIONS, ".gif"}
JPEG_MAGIC = b"\xff\xd8\xff"
FORMATS = ("PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "AVIF", "JPEG2000")
"""Formats that Pillow may decode, whatever the file extension. For some other formats it starts external programs."""

RAW = {
    *(".cr2", ".cr3", ".nef", ".nrw", ".arw", ".sr2", ".srf", ".dng", ".orf", ".rw2"),
    *(".pef", ".srw", ".raf", ".3fr", ".iiq", ".mos", ".mef", ".kdc", ".dcr"),
}
"""Endings of cameras' raw files. Many contain a TIFF header, but Pillow would decode a small preview at best."""

LEFTOVERS = {
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "zbthumbnail.info"),  # Windows
    *("$recycle.bin", "system volume information", "lost+found"),
    *("@eadir", "#recycle", "#snapshot", "@tmp", "@sharebin", "@recycle", "@recently-snapshot"),  # Synology, QNAP
    *("@__thumb", "lost.dir", "captureone"),
}
"""Names, in lower case, of files and folders to skip; some contain thumbnails."""

LEFTOVER_ENDINGS = (".thm", ".ctg", ".lrdata", ".photoslibrary", "@synoresource", "@synoeastream")
"""Endings of such names: thumbnails and catalogues of cameras, caches of Lightroom and Photos."""

MAX_PIXELS = 100_000_000
"""Larger images count as unreadable. The limit bounds the memory of decoding one: 0.6 GB for a JPEG, 1.4 GB for a
PNG, 2.2 GB for a WebP."""

MAX_BYTES = 8 * MAX_PIXELS
"""Largest file size that is read: `MAX_PIXELS` with 4 channels of 16 bits."""

MAX_SCANS = 100
"""Largest number of scans of a progressive JPEG. Encoders write about 10; 400 scans in 0.5 MB take half a minute."""

LARGE = 1_000_000
"""Pixels from which an image may be large. Smaller ones are decoded in a few milliseconds."""

OF_THE_FILE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.EISDIR}
"""Error numbers that belong to one file: a broken link, or one without permission. Others come from elsewhere."""

# `MAX_PIXELS` replaces Pillow's own limit, which only warns below twice its value.
Image.MAX_IMAGE_PIXELS = None


def _jpeg_decoder() -> Callable[[bytes], torch.Tensor] | None:
    """Return the fastest decoder of JPEGs here; `None` if there is only Pillow's. All give the same pixels."""
    try:
        from torchcodec.decoders import decode_jpeg
    except (ImportError, OSError, RuntimeError):  # absent, older than 0.16, or built for another torch
        decode = getattr(torch.ops.image, "decode_jpeg", None)
        if decode is None:
            return None
        # What `torchvision.io.decode_jpeg` calls, without its warning since 0.29 that torchcodec should be used.
        rgb = ImageReadMode.RGB.value
        return lambda data: decode(torch.frombuffer(bytearray(data), dtype=torch.uint8), rgb, True)
    return cast(Callable[[bytes], torch.Tensor], decode_jpeg)


decode_jpeg = _jpeg_decoder()
"""Decoder of a JPEG to RGB `(3, H, W)`, with its EXIF orientation applied; `None` leaves it to Pillow."""


class UnreadableImageError(Exception):
    """A file that cannot be decoded as an image; the message is the reason."""


DIGITS = re.compile(r"\d+")


def natural_key(path: str | Path) -> str:
    """Return a key for natural sort order: `2.jpg` before `10.jpg`.

    A number is preceded by its length, and by a character that is less than all others: a text sorts before a longer
    one. Text is compared much faster than lists of text and numbers.
    """
    return DIGITS.sub(_number_key, str(path))


def _number_key(found: re.Match[str]) -> str:
    number = found[0]
    if number[0] == "0" or not number.isascii():
        number = str(int(number))
    return f"\0{chr(len(number))}{number}"


def walk_files(folder: Path) -> Iterator[str]:
    """Yield the files under `folder`, relative to it, with `/` as separator, in any order.

    Symbolic links are followed, but no folder is visited twice. Hidden files, and those that systems, cameras and
    network storage leave behind, are skipped: `.DS_Store`, `__MACOSX`, `@eaDir`, `Thumbs.db`.
    """
    visited: set[str] = set()
    start = len(os.path.join(folder, ""))  # noqa: PTH118  # a Path for each file would take most of the time
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not is_leftover(name))
        inner = f"{parent[start:]}/" if len(parent) > start else ""
        yield from (f"{inner}{name}" for name in files if not is_leftover(name))


def image_names(folder: Path) -> list[str]:
    """List the images under `folder`, relative to it, in natural order; see `walk_files`."""
    return sorted((name for name in walk_files(folder) if is_image_name(folder, name)), key=natural_key)


def is_leftover(name: str) -> bool:
    """Return whether a file or folder is hidden, or left by a system, a camera or network storage."""
    lower = name.lower()
    return lower.startswith((".", "__macosx", "synophoto_")) or lower in LEFTOVERS or lower.endswith(LEFTOVER_ENDINGS)


def list_images(folder: Path) -> list[Path]:
    """List the images under `folder`, in natural order; see `walk_files`."""
    return [folder / name for name in image_names(folder)]


def is_image_name(folder: Path, name: str) -> bool:
    """Return whether the file `name` in `folder` is an image; see `is_image`."""
    dot = name.rfind(".")
    if dot > 0 and name[dot - 1] not in "./" and name[dot:].lower() in EXTENSIONS:
        return True  # as of most files; a Path for each would take most of the time
    return is_image(folder / name)


def is_image(path: Path) -> bool:
    """Return whether a file is an image: by its ending, or else by its content.

    A damaged file with the ending of an image counts as one, so that it is reported.
    """
    ending = path.suffix.lower()
    if ending in EXTENSIONS or ending in RAW:
        return ending in EXTENSIONS
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with Image.open(path, formats=_formats()):
            return True
    except Exception:  # what cannot be opened is no image; other decoders' errors are of many kinds
        return False


@cache
def _formats() -> tuple[str, ...]:
    """Formats that Pillow decodes here: HEIC photos of phones with `pillow-heif`, AVIF from Pillow 11.3 on."""
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener(thumbnails=False)
    Image.init()
    return tuple(name for name in ("JPEG", *FORMATS, "HEIF") if name in Image.OPEN)


class Decoded(NamedTuple):
    """A decoded image: its `pixels` `(3, H, W)`, and the `size` in its file.

    `doubtful`: only decoding it in full can tell whether it has odd content.
    """

    pixels: torch.Tensor
    size: tuple[int, int]
    doubtful: bool = False


def is_large(size: tuple[int, int], side: int) -> bool:
    """Return whether an image has at least twice the pixels per side that are needed; see `LARGE`.

    Args:
        size: width and height, in pixels.
        side: needed pixels of the short side.
    """
    short, long = sorted(size)
    return short >= 2 * side and short * long >= LARGE and long <= 16 * short


def read_image(path: Path, quietly: bool = False, least: int | None = None) -> torch.Tensor:
    """Decode an image to RGB, uint8, `(3, H, W)`; see `decode`."""
    return decode(path, quietly, least).pixels


def decode(path: Path, quietly: bool = False, least: int | None = None) -> Decoded:
    """Decode an image and apply its EXIF orientation.

    JPEGs are decoded by torchcodec of the extra `fast`, or else by torchvision. To a 224-pixel tensor torchcodec takes
    0.70 ms per photo on one core, against 1.05 ms with Pillow's decoder, and 2.0 ms with Pillow's resizing as well; the
    pixels are the same. All other formats are decoded by Pillow, which supports more of their variants.

    Transparent pixels are composited on white. Of 16 bits per channel the upper 8 are kept, and of an animation the
    first frame. 32-bit pixels are refused, since their range is undefined.

    Args:
        path: image file.
        quietly: decode by Pillow in any case: the JPEG library prints what it finds odd in a file.
        least: decode a large JPEG (`is_large`), quietly, at a fraction of its size, but with sides of at least so many
            pixels. Its damages are found as in full.

    Raises:
        UnreadableImageError: with the reason, which is in the file itself; also for images above `MAX_PIXELS`,
            `MAX_BYTES` or `MAX_SCANS`.
        Failure: for any other reason, such as too little memory, or a network drive that is away.
    """
    data = _read_bytes(path)
    try:
        if data.startswith(JPEG_MAGIC):
            size = JpegImageFile(io.BytesIO(data)).size
            _check_size(size)
            _check_scans(data, size)
            if least is not None and is_large(size, least):
                with suppress(Exception):  # the full decoder says what is wrong, or can read it
                    picture, doubtful = decode_scaled(data, least)
                    return Decoded(_upright(picture), size, doubtful)
            if decode_jpeg is not None and not quietly:
                return Decoded(decode_jpeg(data), size)
        with Image.open(io.BytesIO(data), formats=_formats()) as picture:
            size = picture.size
            _check_size(size)
            return Decoded(_upright(picture), size)
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError("it is not a picture of a known format") from error
    except Exception as error:  # a damaged file can raise almost anything
        message = " ".join(str(error).split())
        if isinstance(error, MemoryError) or re.search("alloc|out of memory", message, re.IGNORECASE):
            raise Failure(f"{path}: there is not enough memory to decode it. Set fewer data.num_workers.") from error
        reason = re.sub(r"^\w+, \S+:\d+, ", "", message)  # torchcodec's source location
        raise UnreadableImageError(reason or type(error).__name__) from error


def image_size(path: Path) -> tuple[int, int] | None:
    """Read an image's width and height from its header; `None` if it cannot be read."""
    try:
        if not path.is_file():  # a pipe would be waited for
            return None
        with Image.open(path, formats=_formats()) as picture:
            return picture.size
    except Exception:  # a damaged file can raise almost anything
        return None


def _upright(picture: Image.Image) -> torch.Tensor:
    ImageOps.exif_transpose(picture, in_place=True)
    return torch.from_numpy(np.array(_to_rgb(picture))).permute(2, 0, 1)


def _read_bytes(path: Path) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableImageError("it is not a file")
        if not 0 < status.st_size <= MAX_BYTES:
            raise UnreadableImageError("the file is empty" if status.st_size == 0 else "the file is too large")
        return path.read_bytes()
    except MemoryError as error:
        raise Failure(f"{path}: there is not enough memory to read it. Set fewer data.num_workers.") from error
    except OSError as error:
        if error.errno in OF_THE_FILE:
            raise UnreadableImageError(error.strerror) from error
        raise Failure(
            f"{path}: it cannot be read now ({error.strerror}). The photo itself may be good: try again."
        ) from error


def _check_scans(data: bytes, size: tuple[int, int]) -> None:
    """Check the number of scans of a progressive JPEG: each is a pass over all pixels."""
    scans = data.count(b"\xff\xda")  # a marker; in compressed pixels, 0xff is followed by another byte
    if scans > MAX_SCANS or scans * size[0] * size[1] > 15 * MAX_PIXELS:
        raise UnreadableImageError(f"its {scans} scans would take too long to decode; save it again as a normal JPEG")


def _check_size(size: tuple[int, int]) -> None:
    """Check the size before memory is allocated for the pixels."""
    if size[0] * size[1] > MAX_PIXELS:
        megapixels, most = size[0] * size[1] / 1e6, MAX_PIXELS / 1e6
        raise UnreadableImageError(
            f"it has {size[0]} x {size[1]} pixels: {megapixels:.0f} megapixels, more than {most:.0f}"
        )


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in ("PPM", "PNG")):
        # Pillow's own conversion clips at 255. It opens 16-bit greyscale PGM files, and older ones PNG, in mode "I".
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise UnreadableImageError("its pixels have 32 bits; save it with 8 or 16 bits per channel")
    if picture.has_transparency_data:
        layer = picture if picture.mode == "RGBA" else picture.convert("RGBA")
        white = Image.new("RGB", layer.size, "white")
        white.paste(layer, mask=layer.getchannel("A"))
        return white
    return picture if picture.mode == "RGB" else picture.convert("RGB")  # convert() would copy it


def stack_images(images: Iterable[torch.Tensor]) -> torch.Tensor:
    """Stack `(3, H, W)` images into a `(B, 3, H, W)` batch in channels_last memory format.

    Decoders return interleaved pixels, so no reordering is needed, and convolutions are fastest in this format.
    """
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)
