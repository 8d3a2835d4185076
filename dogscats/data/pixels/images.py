"""Decoding of image files."""

import errno
import io
import re
import stat
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from torchvision.io import ImageReadMode

from dogscats.base.environment import how_to_install
from dogscats.base.errors import Failure
from dogscats.data.pixels.picture import (
    DAMAGED_METADATA,
    HEIC,
    MAX_PIXELS,
    check_size,
    decoded,
    formats,
    header_remarks,
    upright_rgb,
    without_metadata,
)

JPEG_MAGIC = b"\xff\xd8\xff"

MAX_BYTES = 8 * MAX_PIXELS
"""Largest file size that is read: `MAX_PIXELS` with 4 channels of 16 bits."""

MAX_SCANS = 100
"""Largest number of scans of a progressive JPEG. Encoders write about 10; 400 scans in 0.5 MB take half a minute."""

LARGE = 1_000_000
"""Pixels from which an image may be large. Smaller ones are decoded in a few milliseconds."""

FILE_ERRORS = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.EISDIR}
"""Error numbers that concern one file, such as a broken link or a missing permission, and not its disk."""

FILLER = bytes(16)
"""Put after the compressed pixels: enough for the decoder to prefetch from, which it does by 64 bits, but too little to
decode more than a block or two."""


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


class Decoded(NamedTuple):
    """A decoded image: its `pixels` `(3, H, W)`, and the `size` in its file.

    `doubtful`: only decoding it in full can tell whether it has odd content. `remarks`: what `SEVERAL`, `DIM` and
    `DAMAGED_METADATA` say of such files.
    """

    pixels: torch.Tensor
    size: tuple[int, int]
    doubtful: bool = False
    remarks: Sequence[str] = ()


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


def thumbnail(path: Path, side: int) -> Image.Image:
    """Read a photo at the size at which it is shown: large ones take no more memory than small ones.

    Returns:
        RGB; its long side has at most `side` pixels.
    """
    picture = picture_of(read_image(path, quietly=True, least=side))
    picture.thumbnail((side, side))
    return picture


def decode(path: Path, quietly: bool = False, least: int | None = None, inspect: bool = False) -> Decoded:
    """Decode an image and apply its EXIF orientation.

    JPEGs are decoded by torchcodec of the extra `fast`, or else by torchvision. To a 224-pixel tensor torchcodec takes
    0.70 ms per photo on one core, against 1.05 ms with Pillow's decoder, and 2.0 ms with Pillow's resizing as well; the
    pixels are the same. All other formats are decoded by Pillow, which supports more of their variants.

    Transparent pixels are composited on white. Of 12 or 16 bits per channel the upper 8 are kept, and of several pages
    or frames the first. 32-bit pixels are refused, since their range is undefined. Damaged metadata are ignored.

    Args:
        path: image file.
        quietly: decode by Pillow in any case: the JPEG library prints what it finds odd in a file.
        least: decode a large JPEG (`is_large`), quietly, at a fraction of its size, but with sides of at least so many
            pixels. Its damages are found as in full.
        inspect: look for further pictures in the file and, of a JPEG, for damaged metadata, for `Decoded.remarks`.

    Raises:
        UnreadableImageError: with the reason, which is in the file itself; also for images above `MAX_PIXELS`,
            `MAX_BYTES` or `MAX_SCANS`.
        Failure: for any other reason, such as too little memory, or a network drive that is away.
    """
    data = _read_bytes(path)
    remarks = header_remarks(data) if inspect else []
    try:
        if data.startswith(JPEG_MAGIC):
            try:
                size = JpegImageFile(io.BytesIO(data)).size
            except Exception as error:
                data, remarks = without_metadata(data), [*remarks, DAMAGED_METADATA]
                try:
                    size = JpegImageFile(io.BytesIO(data)).size
                except Exception:
                    raise error from None
            check_size(size)
            _check_scans(data, size)
            if least is not None and is_large(size, least):
                with suppress(Exception):  # the full decoder says what is wrong, or can read it
                    picture, doubtful = decode_scaled(data, least)
                    return Decoded(tensor_of(upright_rgb(picture)[0]), size, doubtful, remarks)
            if decode_jpeg is not None and not quietly:
                return Decoded(decode_jpeg(data), size, remarks=remarks)
        picture, size, more = decoded(data)
        return Decoded(tensor_of(picture), size, remarks=sorted({*remarks, *more}))
    except UnreadableImageError:
        raise
    except Exception as error:  # a damaged file can raise almost anything
        message = " ".join(str(error).split())
        if isinstance(error, MemoryError) or re.search("alloc|out of memory", message, re.IGNORECASE):
            raise Failure(f"{path}: there is not enough memory to decode it. Set fewer data.num_workers.") from error
        if message == HEIC:
            message = f"{HEIC}: {how_to_install('heif')}"
        reason = re.sub(r"^\w+, \S+:\d+, ", "", message)  # torchcodec's source location
        raise UnreadableImageError(reason or type(error).__name__) from error


def decode_scaled(data: bytes, least: int) -> tuple[Image.Image, bool]:
    """Decode a JPEG at 1/2, 1/4 or 1/8 of its size, with sides of at least `least` pixels, in a third of the time.

    Pillow's decoder is silent about corrupt data that it can recover from. Such data is recognized by its end: the
    last row is complete long before the end of the compressed pixels, or only after it. With several scans or restart
    markers, the decoder may find its way again before the end.

    Returns:
        The decoded picture, not yet turned by its EXIF orientation; and whether only a decoder that reports warnings
        can tell if its data is in order.

    Raises:
        Exception: for a damaged file; the decoder's messages are of many kinds.
    """
    end, stops = _end_of_pixels(data), tuple[int, ...]()
    if end is not None:
        stops = (end - 1, end + len(FILLER))
        data = data[:end] + FILLER + data[end:]
    content = _Stopping(data, stops)
    picture = JpegImageFile(content)
    picture.draft("RGB", (least, least))
    picture.load()
    return picture, end is None or content.tell() != stops[1]


def _end_of_pixels(data: bytes) -> int | None:
    """Return the position of the first marker behind the header; `None` if it is not that of the image's end."""
    header = JpegImageFile(io.BytesIO(data))
    assert header.fp is not None
    start = header.fp.tell()
    pixels = np.frombuffer(data, np.uint8)[start:]
    places = np.flatnonzero(pixels[:-1] == 0xFF)
    followers = pixels[places + 1]
    markers = places[followers != 0]  # in compressed pixels, 0xff is followed by 0
    return start + int(markers[0]) if len(markers) and pixels[markers[0] + 1] == 0xD9 else None


class _Stopping(io.BytesIO):
    """A file whose reads end at its stops, so that its position tells how much was needed."""

    def __init__(self, data: bytes, stops: tuple[int, ...]):
        super().__init__(data)
        self.stops = stops

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to `size` bytes, or up to the next stop."""
        left = next((stop - self.tell() for stop in self.stops if stop > self.tell()), None)
        if left is not None and (size is None or size < 0 or size > left):
            size = left
        return super().read(size)


def image_size(path: Path) -> tuple[int, int] | None:
    """Read an image's width and height from its header; `None` if it cannot be read."""
    try:
        if not path.is_file():  # a pipe would be waited for
            return None
        with Image.open(path, formats=formats()) as picture:
            return picture.size
    except Exception:  # a damaged file can raise almost anything
        return None


def picture_of(pixels: torch.Tensor) -> Image.Image:
    """Return an image `(3, H, W)`, uint8, as a picture."""
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def tensor_of(picture: Image.Image) -> torch.Tensor:
    """Return a picture in RGB as an image `(3, H, W)`, uint8."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


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
        if error.errno in FILE_ERRORS:
            raise UnreadableImageError(error.strerror) from error
        raise Failure(
            f"{path}: it cannot be read now ({error.strerror}). The photo itself may be good: try again."
        ) from error


def _check_scans(data: bytes, size: tuple[int, int]) -> None:
    """Check the number of scans of a progressive JPEG: each is a pass over all pixels."""
    scans = data.count(b"\xff\xda")  # a marker; in compressed pixels, 0xff is followed by another byte
    if scans > MAX_SCANS or scans * size[0] * size[1] > 15 * MAX_PIXELS:
        raise UnreadableImageError(f"its {scans} scans would take too long to decode; save it again as a normal JPEG")


def stack_images(images: Iterable[torch.Tensor]) -> torch.Tensor:
    """Stack `(3, H, W)` images into a `(B, 3, H, W)` batch in channels_last memory format.

    Decoders return interleaved pixels, so no reordering is needed, and convolutions are fastest in this format.
    """
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)
