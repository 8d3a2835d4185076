"""Print the probabilities of each class, and the decision, for photos and folders of them.

A line for each photo, with tabs between the columns that the first line names. Needs onnxruntime, numpy and Pillow, and
pillow-heif for HEIC photos.
"""

import argparse
import json
import os
import sys
from itertools import chain
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before onnxruntime is imported, which sends some since 1.29

import numpy as np
import onnxruntime
from PIL import Image

from dogscats.data.pixels.picture import LFS, LFS_POINTER, MAX_PIXELS, decoded, formats

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


def photos(path: str) -> list[str]:
    """List the photos of a folder, and of the folders in it, by their extensions; or the photo itself."""
    if not Path(path).is_dir():
        return [path]
    readable = formats()
    known = {extension for extension, name in Image.registered_extensions().items() if name in readable}
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
    model = Path(models[0]) if models else Path(__file__).with_name("photo.onnx")
    with model.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            sys.exit(f"{model}: {LFS}")
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
