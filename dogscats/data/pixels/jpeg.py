"""JPEGs decoded at a fraction of their size: the decoder scales while it decodes, in a third of the time."""

import io

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

FILLER = bytes(16)
"""Put after the compressed pixels: enough for the decoder to prefetch from, which it does by 64 bits, but too little to
decode more than a block or two."""


def decode_scaled(data: bytes, least: int) -> tuple[Image.Image, bool]:
    """Decode a JPEG at 1/2, 1/4 or 1/8 of its size, with sides of at least `least` pixels.

    Pillow's decoder is silent about corrupt data that it can go on after. Such data is recognized by its end: the
    last row is complete long before the end of the compressed pixels, or only after it. With several scans or restart
    markers, the decoder may find its way again before the end.

    Returns:
        The decoded picture, not yet turned by its EXIF orientation; and whether only a decoder that reports warnings
        can tell if its data is in order.

    Raises:
        Exception: for a damaged file; the decoder's messages are of many kinds.
    """
    end = _end_of_pixels(data)
    if end is None:
        picture = JpegImageFile(io.BytesIO(data))
        picture.draft("RGB", (least, least))
        picture.load()
        return picture, True
    stops = (end - 1, end + len(FILLER))
    content = _Stopping(data[:end] + FILLER + data[end:], stops)
    picture = JpegImageFile(content)
    picture.draft("RGB", (least, least))
    picture.load()
    return picture, content.tell() != stops[1]


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
    """A file that is never read across one of its stops at once, so that its position tells what was needed."""

    def __init__(self, data: bytes, stops: tuple[int, ...]):
        super().__init__(data)
        self.stops = stops

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to `size` bytes, or up to the next stop."""
        left = next((stop - self.tell() for stop in self.stops if stop > self.tell()), None)
        if left is not None and (size is None or size < 0 or size > left):
            size = left
        return super().read(size)
