"""Print probabilities and decision for photos: `python predict_onnx.py [photo-int8.onnx] a.jpg b.png ...`.

Needs onnxruntime, numpy and Pillow. `photo.onnx` beside this file is used unless another is named.
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before onnxruntime is imported, which sends some since 1.29

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def read_photo(path: str) -> Image.Image:
    """Decode a photo to RGB: upright by its EXIF orientation, transparent pixels on white."""
    photo = ImageOps.exif_transpose(Image.open(path))
    if photo.mode.startswith("I"):  # 16 bits; Pillow's own conversion clips at 255
        photo = Image.fromarray((np.asarray(photo) >> 8).astype(np.uint8))
    if photo.has_transparency_data:
        layer, photo = photo.convert("RGBA"), Image.new("RGB", photo.size, "white")
        photo.paste(layer, mask=layer.getchannel("A"))
    return photo.convert("RGB")


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
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for damaged files
            print(f"{path}: {error}", file=sys.stderr)
            failed = True
            continue
        probabilities, *unlike = session.run(None, {"photo": photo})
        decision = [decide(classes, probabilities, unlike[0], metadata)] if unlike else []
        cells = (f"{name} {value:.4f}" for name, value in zip(classes, probabilities, strict=True))
        print(path, *cells, *decision, sep="  ")
    sys.exit(failed)
