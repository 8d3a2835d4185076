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
from predict_onnx import read_photo

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "AVIF", "JPEG2000")
"""Formats that are decoded. For some others Pillow starts external programs."""

MOST_PIXELS = 100_000_000
"""Larger photos are refused."""

Image.MAX_IMAGE_PIXELS = None  # replaced by `MOST_PIXELS`

SESSION = onnxruntime.InferenceSession(Path(__file__).with_name("photo.onnx"), providers=["CPUExecutionProvider"])
METADATA = SESSION.get_modelmeta().custom_metadata_map
CLASSES = json.loads(METADATA["classes"])
OUTPUTS = [output.name for output in SESSION.get_outputs()]


def judge(file: str) -> Verdict:
    """Predict a photo."""
    photo = np.asarray(decode(file))
    outputs = dict(zip(OUTPUTS, SESSION.run(OUTPUTS, {"photo": photo}), strict=True))
    probabilities = dict(zip(CLASSES, map(float, outputs["probabilities"]), strict=True))
    return Verdict(probabilities, decide(probabilities, outputs.get("unlike")))


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


def decide(probabilities: dict[str, float], unlike: np.ndarray | None) -> str | None:
    """Return the most probable class, `unsure`, or `none`; `None` if the file has no thresholds."""
    name = max(probabilities, key=probabilities.__getitem__)
    unsure_below, none_above = METADATA.get("unsure_below"), METADATA.get("none_above")
    if none_above is not None and unlike is not None and float(unlike.squeeze()) > float(none_above):
        return "none"
    if unsure_below is not None and probabilities[name] < float(unsure_below):
        return "unsure"
    return None if unsure_below is None and none_above is None else name


if __name__ == "__main__":
    make_page(judge, lambda: CLASSES).launch(**look(), ssr_mode=False)
