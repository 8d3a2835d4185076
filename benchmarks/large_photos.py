"""Photos as phones take them: `python -m benchmarks.large_photos photos=<root> count=400 folder=<folder>`.

Upscales real photos to 12 megapixels, with noise, once. Then measures, alternating and each in a separate process: the
first pass (check, copies, activations) with `data.shrink=false`, which decodes in full, and with `auto`; and the
loading of a later augmented epoch, of the copies and of the same photos stored at 500 x 375. Prints medians, ratios and
peak memory as JSON; and how much probabilities differ with copies, for a head that is trained on the small photos.
"""

import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.settings import from_command_line
from dogscats.base.console import peak_rss_mb, quiet_libraries, set_progress
from dogscats.data.loading.datamodule import DogsCatsDataModule
from dogscats.data.photos.listing import list_images
from dogscats.lesson.activations import precompute
from dogscats.lesson.backbone import Backbone, resnet34
from dogscats.networks.timm_backbone import efficientnet_lite0
from dogscats.runs.launch import keep_freed_memory

LARGE, SMALL = (4000, 3000), (500, 375)


@dataclass
class LargePhotos:
    """Settings of the measurement.

    Attributes:
        photos: folder with photos in folders of classes, such as `<root>/valid`.
        folder: folder for the upscaled photos, 2 MB each; they are kept for the next time.
        count: number of photos.
        model: backbone, `resnet34` or `efficientnet_lite0`.
        weights: file with its weights, or `imagenet`; empty for random ones.
        size: side of the images, in pixels.
        repetitions: number of repetitions of each measurement.
        row: one measurement, in this process: `first-false`, `first-auto`, `epoch-copies`, `epoch-small`,
            `difference`, or `make` to make the photos; empty for all.
    """

    photos: str
    folder: str
    count: int = 400
    model: str = "resnet34"
    weights: str = ""
    size: int = 224
    repetitions: int = 3
    row: str = ""


def make_photos(source: Path, folder: Path, count: int) -> None:
    """Write `count` photos in both sizes, a fifth of them for validation, unless they are there."""
    photos = list_images(source)
    chosen = photos[:: max(len(photos) // count, 1)][:count]
    for number, photo in enumerate(chosen):
        name = f"{'valid' if number % 5 == 0 else 'train'}/{photo.parent.name}/{number}.jpg"
        for kind, size, sigma, quality in [("small", SMALL, 0, 85), ("large", LARGE, 5, 87)]:
            file = folder / kind / name
            if file.exists():
                continue
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.asarray(Image.open(photo).convert("RGB").resize(size, Image.Resampling.BICUBIC)).astype(float)
            pixels += np.random.default_rng(number).normal(0, sigma, (*pixels.shape[:2], 1))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, quality=quality)


def prepared(settings: LargePhotos, kind: str, cache: str | Path, shrink: str | bool) -> DogsCatsDataModule:
    """Make a data module, and check its photos."""
    data = DogsCatsDataModule(Path(settings.folder) / kind, settings.size, cache_dir=str(cache), shrink=shrink)
    data.setup()
    return data


def body(settings: LargePhotos) -> Backbone:
    """Make the network."""
    torch.manual_seed(0)
    build = {"resnet34": resnet34, "efficientnet_lite0": efficientnet_lite0}[settings.model]
    return build(settings.weights or "none")


def activations(settings: LargePhotos, data: DogsCatsDataModule, cache: str | Path) -> tuple[torch.Tensor, ...]:
    """Compute the activations of training and validation photos."""
    network = body(settings)
    datasets = data.train_dataset("bench", augment=False), data.valid_dataset()
    loaders = [data.loader(dataset, persistent=False) for dataset in datasets]
    return tuple(precompute(network, loader, Path(cache), torch.device("cpu")) for loader in loaders)


def first(settings: LargePhotos, shrink: str | bool, cache: str) -> dict[str, float]:
    """Time the first pass; `reading` is what it takes without the network."""
    started = time.perf_counter()
    data = prepared(settings, "large", cache, shrink)
    checked = time.perf_counter()
    for dataset in data.train_dataset("bench", augment=False), data.valid_dataset():
        for _ in data.loader(dataset, persistent=False):
            pass
    read = time.perf_counter()
    activations(settings, data, cache)
    computed = time.perf_counter() - read
    check = checked - started
    return {"seconds": check + computed, "reading": read - started, "check": check, "activations": computed}


def epoch(settings: LargePhotos, kind: str, cache: str) -> dict[str, float]:
    """Time the loading of an augmented epoch; the network does not compute."""
    data = prepared(settings, kind, cache, "auto")
    loader = data.loader(data.train_dataset("bench", augment=True), shuffle=True, persistent=False)
    started = time.perf_counter()
    for _ in loader:
        pass
    return {"seconds": time.perf_counter() - started}


def difference(settings: LargePhotos, cache: str) -> dict[str, float]:
    """Compare probabilities of validation and training photos, decoded in full and from copies."""
    features, labels = {}, torch.zeros(0)
    shrinks: dict[str, str | bool] = {"small": False, "full": False, "copies": "auto"}
    for name, shrink in shrinks.items():
        kind = "small" if name == "small" else "large"
        data = prepared(settings, kind, cache, shrink)
        features[name] = torch.cat(activations(settings, data, cache))
        labels = torch.tensor([*data.train.labels, *data.valid.labels])
    mean, std = features["small"].mean(0), features["small"].std(0) + 1e-6
    head = torch.nn.Linear(len(mean), int(labels.max()) + 1)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logits = head((features["small"] - mean) / std)
        value = torch.nn.functional.cross_entropy(logits, labels) + 0.01 * head.weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    probability = {name: head((f - mean) / std).softmax(1)[:, 1] for name, f in features.items()}
    off = (probability["copies"] - probability["full"]).abs()
    return {
        "median": float(off.median()),
        "p99": float(off.quantile(0.99)),
        "below_.02": float((off < 0.02).float().mean()),
    }


ROWS: dict[str, Callable[[LargePhotos, str], dict[str, float]]] = {
    "first-false": lambda settings, cache: first(settings, False, cache),
    "first-auto": lambda settings, cache: first(settings, "auto", cache),
    "epoch-small": lambda settings, cache: epoch(settings, "small", cache),
    "epoch-copies": lambda settings, cache: epoch(settings, "large", cache),
    "difference": difference,
}


def measured(row: str) -> dict[str, float]:
    """Measure a row in a process of its own, with the same settings."""
    command = [sys.executable, "-m", "benchmarks.large_photos", *sys.argv[1:], f"row={row}"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return result


def main() -> None:
    """Measure one row, or all and their ratios."""
    settings = from_command_line(LargePhotos("???", "???"))
    quiet_libraries()
    keep_freed_memory()
    set_progress(False)
    if settings.row == "make":
        make_photos(Path(settings.photos), Path(settings.folder), settings.count)
        print("{}")
        return
    if settings.row:
        with TemporaryDirectory(dir=settings.folder) as cache:
            result = ROWS[settings.row](settings, cache)
        print(json.dumps(result | {"peak_rss_mb": peak_rss_mb()}))
        return
    Path(settings.folder).mkdir(parents=True, exist_ok=True)
    measured("make")  # not here: the peak memory of a process counts for those that it starts
    results: dict[str, list[dict[str, float]]] = defaultdict(list)
    for _ in range(settings.repetitions):
        for row in list(ROWS)[:4]:
            results[row].append(measured(row))
    summary: dict[str, Any] = {
        row: {key: round(median(result[key] for result in runs), 3) for key in runs[0]} for row, runs in results.items()
    }
    for key in ("seconds", "reading"):
        summary[f"first_{key}_ratio"] = round(summary["first-auto"][key] / summary["first-false"][key], 3)
    summary["epoch_ratio"] = round(summary["epoch-copies"]["seconds"] / summary["epoch-small"]["seconds"], 3)
    summary["difference"] = measured("difference")
    print(json.dumps({"count": settings.count, "model": settings.model} | summary))


if __name__ == "__main__":
    main()
