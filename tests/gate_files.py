"""What the gate compares of each kind of file, and how two values differ."""

import csv
import difflib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from PIL import Image
from safetensors import safe_open
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SIZE = 64
"""Side in pixels of the squares that the networks of all cases take."""

VARYING_KEYS = {"seconds", "peak_rss_mb", "run_dir", "date", "commit", "strangers"}
"""Keys and columns that differ from run to run; and the digest of `strangers.npz`, whose arrays are compared."""

VARYING_TEXT = [
    (r"(?m)^.*\d%\|.*$", ""),  # progress bars
    (r"(?m)^\s*\n", ""),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(,\d+|\+00:00)?", "<date>"),
    (r"\b[0-9a-f]{40}(-dirty)?\b", "<commit>"),
    (r"base64,[A-Za-z0-9+/=]+", "base64,<picture>"),
    (r"[\d.,]+ (s|seconds|MB)\b", r"<number> \1"),
    (r"(?m) *\b\d+\.\d *$|(?<=<td>)\d+\.\d(?=</td>)", "<seconds>"),  # in a table
]
"""Patterns of what differs from run to run in a text, and what replaces it."""

MOST_CHANGES = 6
"""Number of changed lines of a text that are shown."""

Contents = dict[str, Any]
"""What a file contains, by key: arrays, columns (lists of strings), numbers and texts."""


def flat(value: Any, key: str = "") -> Contents:
    """Flatten nested dictionaries and lists, without what differs from run to run."""
    if not isinstance(value, dict | list):
        return {key: value.numpy() if isinstance(value, torch.Tensor) else value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    parts = (flat(part, f"{key}.{name}".lstrip(".")) for name, part in items if name not in VARYING_KEYS)
    return {name: leaf for part in parts for name, leaf in part.items()}


def read_safetensors(file: Path) -> Contents:
    with safe_open(file, "np") as opened:
        return flat({"metadata": opened.metadata()}) | {key: opened.get_tensor(key) for key in list(opened.keys())}


def read_table(file: Path) -> Contents:
    header, *rows = csv.reader(file.read_text().splitlines())
    columns = {name: [row[index] for row in rows] for index, name in enumerate(header)}
    return {"header": header} | {name: column for name, column in columns.items() if name not in VARYING_KEYS}


def read_events(file: Path) -> Contents:
    """Read TensorBoard's scalars, and the tags of its pictures."""
    events = EventAccumulator(str(file), size_guidance={"scalars": 0}).Reload()
    points = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    return {"images": sorted(events.Tags()["images"])} | {tag: np.array(values) for tag, values in points.items()}


def read_text(file: Path) -> Contents:
    text = file.read_text(errors="replace")
    for pattern, replacement in VARYING_TEXT:
        text = re.sub(pattern, replacement, text)
    return {"text": text}


def read_picture(file: Path) -> Contents:
    return {"pixels": np.array(Image.open(file))}


def outputs(file: Path) -> Contents:
    """Compute the outputs of an exported file for photos as they are, or for squares if it takes those."""
    work = next(folder for folder in file.parents if (folder / "drawn").is_dir())
    if file.suffix == ".onnx":
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    else:
        program = torch.export.load(file).module()
    found: Contents = {}
    for path in [*sorted((work / "photos" / "test1").iterdir())[:3], *(work / "table" / "images").glob("[12].jpg")]:
        photo = Image.open(path).convert("RGB")
        pixels = np.array(photo)
        if file.name.startswith("model"):
            pixels = np.array(photo.resize((SIZE, SIZE))).transpose(2, 0, 1)[None].repeat(2, axis=0)
        if file.suffix == ".onnx":
            computed = session.run(None, {session.get_inputs()[0].name: pixels})
        else:
            with torch.inference_mode():
                computed = program(torch.tensor(pixels))
        found |= {f"{path.name}, output {number}": np.array(output) for number, output in enumerate(computed)}
    return found


READERS: dict[str, Callable[[Path], Contents]] = {
    ".ckpt": lambda file: flat(torch.load(file, weights_only=True)),
    ".safetensors": read_safetensors,
    ".npz": lambda file: dict(np.load(file)),
    ".json": lambda file: flat(json.loads(file.read_text())),
    ".csv": read_table,
    ".onnx": outputs,
    ".pt2": outputs,
    ".png": read_picture,
    ".jpg": read_picture,
    ".sha256": lambda file: {},  # of files that are compared
}
"""How to read a file by its suffix; others are texts."""


def read(file: Path, hidden: list[str]) -> Contents:
    """Read what is compared of a file, without the names of the folders in `hidden`."""

    def hide(value: Any) -> Any:
        if isinstance(value, list):
            return [hide(item) for item in value]
        for folder in hidden if isinstance(value, str) else ():
            value = value.replace(folder, "<folder>")
        return value

    if re.search(r"/(photos|table)/(train|valid|test1|images|tmp)/", str(file)):
        return {}  # the name alone: what is computed from photos and cached activations is compared
    reader = read_events if "tfevents" in file.name else READERS.get(file.suffix, read_text)
    return {key: hide(value) for key, value in reader(file).items()}


def difference(a: Any, b: Any) -> str:
    """Say how two values differ; empty if they are equal to the bit."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and (a.dtype, a.shape) == (b.dtype, b.shape):
        return "" if a.tobytes() == b.tobytes() else largest(a, b)
    if not isinstance(a, np.ndarray) and repr(a) == repr(b):  # nan is equal to nan
        return ""
    if isinstance(a, str) and isinstance(b, str) and "\n" in a + b:
        return changes(a, b)
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        first, second = next((x, y) for x, y in zip(a, b, strict=True) if x != y)
        return f"first {first} became {second}, {largest(a, b)}"
    return f"{brief(a)} became {brief(b)}"


def largest(a: Any, b: Any) -> str:
    """Say the largest difference of two arrays of numbers, or columns of them, in which cells may be empty."""
    a, b = ([cell or "nan" for cell in values] if isinstance(values, list) else values for values in (a, b))
    try:
        with np.errstate(invalid="ignore"):  # infinity less infinity
            distance = np.abs(np.array(a, dtype=float) - np.array(b, dtype=float))
    except ValueError:
        return "not numbers"
    return (
        f"{np.count_nonzero(np.nan_to_num(distance))} of {distance.size} differ, at most by {np.nanmax(distance):.3g}"
    )


def changes(a: str, b: str) -> str:
    """Return the first changed lines of a text."""
    lines = difflib.unified_diff(a.splitlines(), b.splitlines(), lineterm="", n=0)
    changed = [line[:200] for line in lines if not line.startswith(("---", "+++", "@@"))]
    rest = [f"... {len(changed) - MOST_CHANGES} more"] if len(changed) > MOST_CHANGES else []
    return "\n        ".join(["", *changed[:MOST_CHANGES], *rest])


def brief(value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)} rows"
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else str(value)[:200]
