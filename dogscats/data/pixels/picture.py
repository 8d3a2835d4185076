"""Decoding by Pillow to RGB: upright, of any depth and polarity, transparent pixels on white.

It needs only numpy and Pillow: `export=onnx` puts this module into the script that it writes.
"""

import io
import struct
import warnings
import zlib
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

KNOWN = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "AVIF", "JPEG2000", "HEIF")
"""Formats that Pillow may decode, whatever the file extension. For some other formats it starts external programs."""

MAX_PIXELS = 100_000_000
"""Larger images count as unreadable. The limit bounds the memory of decoding one: 0.6 GB for a JPEG, 1.4 GB for a
PNG, 2.2 GB for a WebP."""

SEVERAL = "have several pictures (pages or frames), of which the first is used"
DIM = "have 16 bits per channel but no value of 4,096 or more, which is less than 7 % of the range"
DAMAGED_METADATA = "have damaged metadata, which are ignored"
HEIC = "it is a HEIC photo, which needs pillow-heif"
LFS = "it is a Git LFS pointer, not the file itself: run git lfs pull"
LFS_POINTER = b"version https://git-lfs"
"""Start of the small text that Git leaves in place of a large file."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture upright, by its EXIF orientation."""

BITS, COMPRESSION, POLARITY, PLANES, SAMPLE_FORMAT = 258, 259, 262, 284, 339
"""Tags of a TIFF: BitsPerSample; Compression, 1 for none; PhotometricInterpretation, 0 for WhiteIsZero;
PlanarConfiguration, 2 for channels apart; and SampleFormat, 2 for signed numbers."""

TIFF_TAGS = {*range(254, 260), 262, 266, *range(273, 285), 292, 293, 296, 297, 317, *range(320, 326), 332, 338, 339}
TIFF_TAGS |= {347, *range(512, 522), *range(529, 533)}
"""Tags that the pixels of a TIFF need; the orientation is among them."""

# `MAX_PIXELS` replaces Pillow's own limit, which only warns below twice its value.
Image.MAX_IMAGE_PIXELS = None
warnings.filterwarnings("ignore", module=r"PIL\.")  # about metadata

# Pillow reads such pixels, but only of one byte order and polarity; `_to_rgb` inverts them.
for prefix, mode in ((b"II", "I;16"), (b"MM", "I;16B")):
    for polarity in (0, 1):
        TiffImagePlugin.OPEN_INFO.setdefault((prefix, polarity, (1,), 1, (12,), ()), ("I;16", "I;12"))
        TiffImagePlugin.OPEN_INFO.setdefault((prefix, polarity, (1,), 1, (16,), ()), (mode, mode))


@cache
def formats() -> tuple[str, ...]:
    """Formats that Pillow decodes here: HEIC photos of phones with `pillow-heif`, AVIF from Pillow 11.3 on."""
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener(thumbnails=False)
    Image.init()
    return tuple(name for name in KNOWN if name in Image.OPEN)


def decoded(data: bytes) -> tuple[Image.Image, tuple[int, int], list[str]]:
    """Decode the first picture of a file.

    Metadata that Pillow stumbles over do not matter: then they are left out.

    Args:
        data: content of the file.

    Returns:
        The picture in RGB, upright; the size in its file; and remarks, as of `upright_rgb`.

    Raises:
        Exception: for a damaged file; the messages are of many kinds. ValueError for an unknown format, pixels of 32
            bits, or more than `MAX_PIXELS`.
    """
    more = []
    try:
        picture, deep = _loaded(data)
    except Exception as error:
        try:
            picture, deep = _loaded(without_metadata(data))
        except Exception:
            raise error from None
        more = [DAMAGED_METADATA]
    rgb, remarks = upright_rgb(picture, deep)
    return rgb, picture.size, sorted({*remarks, *more})


def upright_rgb(picture: Image.Image, deep: bool = False) -> tuple[Image.Image, list[str]]:
    """Convert a loaded picture to RGB, and apply its EXIF orientation.

    Args:
        picture: picture.
        deep: whether its 8 bits per channel are the upper ones of 16.

    Returns:
        The new picture; and remarks about its file: any of `DIM` and `DAMAGED_METADATA`.
    """
    rgb, dim = _to_rgb(picture)
    if deep:
        dim = bool(np.asarray(picture.convert("RGB")).max() < 16)
    turn, damaged = _turn(picture)
    remarks = [remark for remark, holds in ((DIM, dim), (DAMAGED_METADATA, damaged)) if holds]
    return (rgb if turn is None else rgb.transpose(turn)), remarks


def header_remarks(data: bytes) -> list[str]:
    """Remark on what the header of a file tells: `SEVERAL`, or `DAMAGED_METADATA`."""
    remarks = []
    with suppress(Exception), Image.open(io.BytesIO(data), formats=formats()) as picture:  # its damages are found later
        try:
            Image.Exif().load(picture.info.get("exif", b""))  # of a JPEG, Pillow itself has ignored errors
        except Exception:
            remarks.append(DAMAGED_METADATA)
        picture.seek(1)
        remarks.append(SEVERAL)
    return remarks


def _turn(picture: Image.Image) -> tuple[Image.Transpose | None, bool]:
    """Return how to turn a picture upright by its EXIF orientation; and whether its EXIF data are damaged."""
    try:
        return TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1)), False
    except Exception:  # odd metadata can raise almost anything
        return None, True


def check_size(size: tuple[int, int]) -> None:
    """Check the size before memory is allocated for the pixels."""
    if size[0] * size[1] > MAX_PIXELS:
        megapixels, most = size[0] * size[1] / 1e6, MAX_PIXELS / 1e6
        raise ValueError(f"it has {size[0]} x {size[1]} pixels: {megapixels:.0f} megapixels, more than {most:.0f}")


def _loaded(data: bytes) -> tuple[Image.Image, bool]:
    """Load the pixels of a file; also return whether Pillow keeps the upper 8 of their 16 bits."""
    try:
        picture = Image.open(io.BytesIO(data), formats=formats())
    except UnidentifiedImageError as error:
        raise ValueError(_unknown(data)) from error
    check_size(picture.size)
    tags: Any = getattr(picture, "tag_v2", {})
    deep = (";16" in repr(picture.tile) or tags.get(BITS, (8,))[0] == 16) and picture.mode in ("RGB", "RGBA", "LA")
    if deep and tags.get(PLANES) == 2 and tags.get(COMPRESSION) == 1:
        # Of planes, Pillow says which channel they are, but not that they have 16 bits.
        order = ";16L" if data[:1] == b"I" else ";16B"
        opened: Any = picture
        opened.tile = [  # tuples, from Pillow 11 on with names
            getattr(tile, "_make", tuple)((*tile[:3], (tile[3][0] + order, *tile[3][1:]))) for tile in opened.tile
        ]
    picture.load()
    return picture, deep


def _unknown(data: bytes) -> str:
    """Say why Pillow does not know the format of a file."""
    if data.startswith(LFS_POINTER):
        return LFS
    if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"):
        return HEIC
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "this kind of TIFF cannot be read; save it with 8 or 16 bits per channel, without compression"
    return "it is not a picture of a known format"


def _to_rgb(picture: Image.Image) -> tuple[Image.Image, bool]:
    """Convert to RGB; also return whether it is grey, of 16 bits, with low values only."""
    tags: Any = getattr(picture, "tag_v2", {})
    signed = picture.mode == "I" and tags.get(BITS) == (16,)
    # Pillow opens 16-bit greyscale PGM files, and older ones PNG, in mode "I".
    if picture.mode.startswith("I;16") or signed or (picture.mode == "I" and picture.format in ("PPM", "PNG")):
        values = np.asarray(picture)
        dim = tags.get(BITS) != (12,) and bool(np.abs(values).max() < 4096)
        if signed:
            values = values + 32768
        if tags.get(BITS) == (12,):
            values = values << 4
        if tags.get(POLARITY) == 0:
            values = 65535 - values
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB"), dim  # convert() clips at 255
    if picture.mode in ("I", "F"):
        raise ValueError("its pixels have 32 bits; save it with 8 or 16 bits per channel")
    if picture.mode == "L" and tags.get(SAMPLE_FORMAT) == (2,):
        picture = Image.fromarray(np.asarray(picture) ^ 128)  # from -128 on
    if picture.has_transparency_data:
        layer = picture if picture.mode == "RGBA" else picture.convert("RGBA")
        white = Image.new("RGB", layer.size, "white")
        white.paste(layer, mask=layer.getchannel("A"))
        return white, False
    return (picture if picture.mode == "RGB" else picture.convert("RGB")), False  # convert() would copy it


def without_metadata(data: bytes) -> bytes:
    """Leave out what the pixels of a PNG, JPEG or TIFF do not need; other files are returned as they are."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png_without_metadata(data)
    if data.startswith(b"\xff\xd8"):
        return _jpeg_without_metadata(data)
    return _tiff_without_metadata(data) if data[:4] in (b"II*\0", b"MM\0*") else data


def _png_without_metadata(data: bytes) -> bytes:
    """Keep the critical chunks, whose names begin with a capital, and transparency and EXIF data if they are whole."""
    parts, start = [data[:8]], 8
    transparency = {0: 2, 2: 6}.get(data[25])  # bytes of the transparent color, by the kind of colors
    while start < len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        kind, content, check = data[start + 4 : start + 8], data[start + 4 : end - 4], data[end - 4 : end]
        whole = zlib.crc32(content).to_bytes(4, "big") == check
        whole &= kind != b"tRNS" or transparency in (None, len(content))
        if kind[:1].isupper() or (kind in (b"tRNS", b"eXIf") and whole):
            parts.append(data[start:end])
        start = end
    return b"".join(parts)


def _jpeg_without_metadata(data: bytes) -> bytes:
    """Leave out the segments of applications before the pixels, but for EXIF data and a whole one about colors."""
    parts, start = [data[:2]], 2
    while data[start : start + 1] == b"\xff" and data[start + 1] != 0xDA:  # start of the pixels
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        of_colors = data[start + 1] == 0xEE and end - start >= 16
        if not 0xE0 <= data[start + 1] <= 0xEF or of_colors or data[start + 4 : start + 8] == b"Exif":
            parts.append(data[start:end])
        start = end
    return b"".join(parts) + data[start:]


def _tiff_without_metadata(data: bytes) -> bytes:
    """Replace the tags of the first page that are not in `TIFF_TAGS` by one that means nothing."""
    order, content = "<" if data[:2] == b"II" else ">", bytearray(data)
    (directory,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, directory)
    for start in range(directory + 2, directory + 2 + 12 * count, 12):
        if struct.unpack_from(f"{order}H", data, start)[0] not in TIFF_TAGS:
            content[start : start + 12] = struct.pack(f"{order}HHII", 65000, 1, 1, 0)
    return bytes(content)
