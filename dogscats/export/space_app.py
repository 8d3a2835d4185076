"""A page to try the classifier in `photo.onnx`: as a Hugging Face Space, or by `python app.py`."""

import json
import os
from pathlib import Path

# No telemetry: before the imports below.
os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1", ORT_DISABLE_TELEMETRY="1")

import numpy as np
import onnxruntime
from page import Refused, Verdict, look, make_page
from PIL import Image, UnidentifiedImageError
from predict_onnx import decide, read_photo

Image.init()
KNOWN = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "AVIF", "JPEG2000")
FORMATS = [name for name in KNOWN if name in Image.OPEN]  # Pillow before 11.3 has no AVIF
"""Formats that are decoded. For some others Pillow starts external programs."""

MOST_PIXELS = 100_000_000
"""Larger photos are refused."""

Image.MAX_IMAGE_PIXELS = None  # replaced by `MOST_PIXELS`

SESSION = onnxruntime.InferenceSession(Path(__file__).with_name("photo.onnx"), providers=["CPUExecutionProvider"])
METADATA = SESSION.get_modelmeta().custom_metadata_map
CLASSES = json.loads(METADATA["classes"])


def judge(file: str) -> Verdict:
    """Predict a photo."""
    probabilities, *unlike = SESSION.run(None, {"photo": np.asarray(decode(file))})
    decision = decide(CLASSES, probabilities, unlike[0], METADATA) if unlike else None  # as the run had thresholds
    return Verdict(dict(zip(CLASSES, map(float, probabilities), strict=True)), decision)


def decode(file: str) -> Image.Image:
    """Decode a photo, or say why not."""
    try:
        with Image.open(file, formats=FORMATS) as header:
            width, height = header.size
        if width * height > MOST_PIXELS:
            raise Refused(f"it has {width} x {height} pixels, more than {MOST_PIXELS / 1e6:.0f} megapixels")
        photo: Image.Image = read_photo(file)
        return photo
    except Refused:
        raise
    except UnidentifiedImageError as error:
        raise Refused("it is not a picture of a known format") from error
    except Exception as error:  # a damaged file can raise almost anything
        raise Refused(str(error) or type(error).__name__) from error


if __name__ == "__main__":
    make_page(judge, lambda: CLASSES).launch(**look(), ssr_mode=False)
