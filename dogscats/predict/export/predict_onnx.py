"""Print probabilities and decision for photos: `python predict_onnx.py [photo-int8.onnx] a.jpg b.png ...`.

Needs onnxruntime, numpy and Pillow, and pillow-heif for HEIC photos. `photo.onnx` beside this file is used unless
another is named.
"""

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before onnxruntime is imported, which sends some since 1.29

import numpy as np
import onnxruntime
from PIL import Image, ImageOps, UnidentifiedImageError

with suppress(ImportError):
    from pillow_heif import register_heif_opener

    register_heif_opener(thumbnails=False)
Image.init()
KNOWN = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "AVIF", "JPEG2000", "HEIF")
FORMATS = [name for name in KNOWN if name in Image.OPEN]  # Pillow before 11.3 has no AVIF
"""Formats that are decoded. For some others Pillow starts external programs."""

MOST_PIXELS = 100_000_000
"""Larger photos are refused."""

Image.MAX_IMAGE_PIXELS = None  # replaced by `MOST_PIXELS`


def read_photo(path: str) -> Image.Image:
    """Decode a photo to RGB: upright by its EXIF orientation, transparent pixels on white."""
    if Path(path).exists() and not Path(path).is_file():  # a pipe would be waited for
        raise ValueError("it is not a file")
    photo: Image.Image = Image.open(path, formats=FORMATS)
    if photo.width * photo.height > MOST_PIXELS:
        most = f"{MOST_PIXELS / 1e6:.0f} megapixels"
        raise ValueError(f"it has {photo.width} x {photo.height} pixels, more than {most}")
    ImageOps.exif_transpose(photo, in_place=True)
    if photo.mode.startswith("I;16") or (photo.mode == "I" and photo.format in ("PPM", "PNG")):
        # 16 bits; Pillow's own conversion clips at 255
        photo = Image.fromarray((np.asarray(photo) >> 8).astype(np.uint8))
    if photo.mode in ("I", "F"):
        raise ValueError("its pixels have 32 bits; save it with 8 or 16 bits per channel")
    if photo.has_transparency_data:
        layer, photo = photo.convert("RGBA"), Image.new("RGB", photo.size, "white")
        photo.paste(layer, mask=layer.getchannel("A"))
    return photo.convert("RGB")


def why(error: Exception) -> str:
    """Say in one line why a photo cannot be decoded, without its path."""
    if isinstance(error, UnidentifiedImageError):
        return "it is not a picture of a known format"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def decide(classes: list[str], probabilities: np.ndarray, unlike: float, metadata: dict[str, str]) -> str:
    """Name the class of a photo, or `unsure`, or `none`; in parentheses if a class is called so."""
    decision = classes[int(probabilities.argmax())]
    improbable = probabilities.max() < float(metadata["unsure_below"])
    word = "none" if unlike > float(metadata["none_above"]) else "unsure" if improbable else ""
    while word in classes:
        word = f"({word})"
    return word or decision


if __name__ == "__main__":
    paths = sys.argv[1:]
    if not paths:
        sys.exit(__doc__)
    model = paths.pop(0) if paths and paths[0].endswith(".onnx") else Path(__file__).with_name("photo.onnx")
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    classes = json.loads(metadata["classes"])
    failed = False
    for path in paths:
        try:
            photo = np.asarray(read_photo(path))
        except Exception as error:  # a damaged file can raise almost anything
            print(f"{path}: {why(error)}", file=sys.stderr)
            failed = True
            continue
        probabilities, *unlike = session.run(None, {"photo": photo})
        decision = [decide(classes, probabilities, unlike[0], metadata)] if unlike else []
        cells = (f"{name} {value:.4f}" for name, value in zip(classes, probabilities, strict=True))
        print(path, *cells, *decision, sep="  ")
    sys.exit(failed)
