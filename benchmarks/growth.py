"""Scaling with the number of photos: `python -m benchmarks.growth photos=... count=2000`.

Computes the activations of `count` photos, which are links to the given ones under new names. Prints images per second
and the peak memory of the process as JSON. Run each count in a separate process. Also times the cache key of 20,000
files, which `train.py` computes at every start.
"""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.settings import from_command_line
from dogscats.base.console import peak_rss_mb
from dogscats.base.content import fingerprint
from dogscats.data.loading.datamodule import DogsCatsDataModule
from dogscats.data.loading.dataset import PhotoDataset
from dogscats.data.photos.layouts import Photos
from dogscats.data.photos.listing import list_images
from dogscats.lesson.activations import precompute
from dogscats.lesson.backbone import resnet34
from dogscats.runs.launch import keep_freed_memory


@dataclass
class Growth:
    """Settings of the measurement.

    Attributes:
        photos: folder with photos, at any depth.
        count: number of photos to compute activations for.
        files: number of files for the cache key.
        size: side of the images in pixels; smaller than in the lesson, to save time.
    """

    photos: str
    count: int = 500
    files: int = 20_000
    size: int = 96


def link_photos(source: Path, folder: Path, count: int) -> list[str]:
    """Make `count` links in `folder` that cycle through the photos under `source`; return their names."""
    photos = [photo.resolve() for photo in list_images(source)]
    folder.mkdir(parents=True)
    names = [f"{number}.jpg" for number in range(count)]
    for number, name in enumerate(names):
        os.symlink(photos[number % len(photos)], folder / name)  # noqa: PTH211
    return names


def measure(settings: Growth) -> dict[str, float]:
    """Time the activations and the cache key."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        photos = Photos(folder / "photos", link_photos(Path(settings.photos), folder / "photos", settings.count), [])
        data = DogsCatsDataModule(folder, settings.size)
        loader = data.loader(PhotoDataset(photos, data.evaluation, seed=0), persistent=False)
        body = resnet34("none")
        started = time.perf_counter()
        precompute(body, loader, folder / "cache", torch.device("cpu"))
        seconds = time.perf_counter() - started
        peak = peak_rss_mb()
        names = link_photos(Path(settings.photos), folder / "files", settings.files)
        started = time.perf_counter()
        fingerprint(folder / "files", names)
        keyed = time.perf_counter() - started
    return {
        "count": settings.count,
        "images_per_s": settings.count / seconds,
        "peak_rss_mb": peak,
        "files": settings.files,
        "key_seconds": keyed,
    }


if __name__ == "__main__":
    keep_freed_memory()
    print(json.dumps(measure(from_command_line(Growth("???")))))
