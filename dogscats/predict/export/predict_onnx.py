"""Print probabilities and decision for photos: `python predict_onnx.py [photo-int8.onnx] a.jpg b.png ...`.

Needs onnxruntime, numpy and Pillow, and pillow-heif for HEIC photos. `photo.onnx` beside this file is used unless
another is named.
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before onnxruntime is imported, which sends some since 1.29

import numpy as np
import onnxruntime
from PIL import Image

from dogscats.data.pixels.picture import LFS, LFS_POINTER, MAX_PIXELS, decoded

MAX_BYTES = 8 * MAX_PIXELS
"""Largest file that is read."""


def read_photo(path: str) -> Image.Image:
    """Decode a photo to RGB: upright by its EXIF orientation, transparent pixels on white."""
    file = Path(path)
    if file.exists() and not file.is_file():  # a pipe would be waited for
        raise ValueError("it is not a file")
    if file.stat().st_size > MAX_BYTES:
        raise ValueError("the file is too large")
    return decoded(file.read_bytes())[0]


def why(error: Exception) -> str:
    """Say in one line why a photo cannot be decoded, without its path."""
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
    model = Path(paths.pop(0)) if paths[0].endswith(".onnx") else Path(__file__).with_name("photo.onnx")
    with model.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            sys.exit(f"{model}: {LFS}")
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
