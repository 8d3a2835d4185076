"""A page to try the classifier in `photo.onnx`: as a Hugging Face Space, or by `python app.py`."""

import json
import os
from pathlib import Path

# Before the imports below: no telemetry, and no proxy for this machine, which Gradio asks whether the page is there.
os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1", ORT_DISABLE_TELEMETRY="1")
for name in ("no_proxy", "NO_PROXY"):
    os.environ[name] = ",".join(filter(None, [os.environ.get(name), "localhost,127.0.0.1,0.0.0.0"]))

import numpy as np
import onnxruntime
from page import GONE, Refused, Verdict, look, make_page
from PIL import Image
from predict_onnx import decide, read_photo, why

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
        photo: Image.Image = read_photo(file)
        return photo
    except FileNotFoundError as error:
        raise Refused(GONE) from error
    except Exception as error:  # a damaged file can raise almost anything
        raise Refused(why(error)) from error


if __name__ == "__main__":
    page = make_page(judge, lambda: CLASSES)
    _, address, _ = page.launch(**look(), ssr_mode=False, quiet=True, prevent_thread_lock=True)
    print(f"Open {address} in a browser. Ctrl-C ends.", flush=True)
    page.block_thread()
