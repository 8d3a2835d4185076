"""Print the probabilities of each class, and the decision, for photos and folders of them.

A line for each photo, with tabs between the columns that the first line names. Needs onnxruntime, numpy and Pillow, and
pillow-heif for HEIC photos.
"""

import argparse
import json
import os
import sys
from contextlib import suppress
from itertools import chain
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


def photos(path: str) -> list[str]:
    """List the photos of a folder, and of the folders in it, by their extensions; or the photo itself."""
    if not Path(path).is_dir():
        return [path]
    known = {extension for extension, name in Image.registered_extensions().items() if name in FORMATS}
    found = [str(file) for file in sorted(Path(path).rglob("*")) if file.suffix.lower() in known]
    if not found:
        print(f"{path}: there are no photos in it", file=sys.stderr)
    return found


def decide(classes: list[str], probabilities: np.ndarray, unlike: float, metadata: dict[str, str]) -> str:
    """Name the class of a photo, or `unsure`, or `none`; in parentheses if a class is called so."""
    decision = classes[int(probabilities.argmax())]
    improbable = probabilities.max() < float(metadata["unsure_below"])
    word = "none" if unlike > float(metadata["none_above"]) else "unsure" if improbable else ""
    while word in classes:
        word = f"({word})"
    return word or decision


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "paths", nargs="+", metavar="photo", help="photo or folder; an .onnx file is used instead of photo.onnx"
    )
    given = parser.parse_args().paths
    models, paths = ([path for path in given if path.endswith(".onnx") == wanted] for wanted in (True, False))
    if not paths or len(models) > 1:
        parser.error("give at least one photo or folder, and at most one .onnx file")
    model = models[0] if models else Path(__file__).with_name("photo.onnx")
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    classes = json.loads(metadata["classes"])
    decides = len(session.get_outputs()) > 1
    print("photo", *classes, *(["decision"] if decides else []), sep="\t")
    failed = False
    for path in chain.from_iterable(map(photos, paths)):
        try:
            photo = np.asarray(read_photo(path))
        except Exception as error:  # a damaged file can raise almost anything
            print(f"{path}: {why(error)}", file=sys.stderr)
            failed = True
            continue
        probabilities, *unlike = session.run(None, {"photo": photo})
        decision = [decide(classes, probabilities, unlike[0], metadata)] if unlike else []
        print(path, *(f"{value:.6g}" for value in probabilities), *decision, sep="\t")
    sys.exit(failed)
