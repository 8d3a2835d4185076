"""Start of a run with very many photos: `python -m benchmarks.million files=1000000`.

The files are empty, and the results of what takes hours, decoding and computing activations, are in the cache. Prints
the seconds of each step and the peak memory of the process as JSON. Measured are the first time, when the content of
all files is sampled, and the start of a run that is repeated, up to its first batch of activations.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.settings import from_command_line
from dogscats.base.console import peak_rss_mb
from dogscats.base.content import cache_folder, fingerprint
from dogscats.base.files import write_json
from dogscats.data.loading.cached_array import seal_array
from dogscats.data.loading.datamodule import DogsCatsDataModule
from dogscats.data.loading.dataset import ActivationDataset, PhotoDataset
from dogscats.data.loading.loaders import activation_loader
from dogscats.data.loading.photo_check import Findings
from dogscats.data.photos.layouts import DatasetFinder
from dogscats.data.photos.listing import left_out
from dogscats.data.photos.run_photos import keep_photos
from dogscats.lesson.activations import activation_key, precompute
from dogscats.lesson.backbone import Backbone, resnet34
from dogscats.runs.launch import keep_freed_memory


@dataclass
class Million:
    """Settings of the measurement.

    Attributes:
        files: number of files.
        classes: number of classes.
    """

    files: int = 1_000_000
    classes: int = 10


def make_files(root: Path, settings: Million) -> None:
    """Create empty files in class folders; a share is held out."""
    for label in range(settings.classes):
        (root / f"class{label}").mkdir(parents=True)
    for number in range(settings.files):
        (root / f"class{number % settings.classes}/photo.{number}.jpg").touch()


def cache_activations(body: Backbone, dataset: PhotoDataset, folder: Path) -> None:
    """Write zeros as the activations of the photos; the file takes hardly any space."""
    file = folder / f"activations-{activation_key(body, dataset, None)}.npy"
    np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(len(dataset), body.num_features))
    seal_array(file)


def measure(settings: Million) -> dict[str, float]:
    """Time the steps."""
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(step: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        seconds[f"{step}_seconds"] = time.perf_counter() - started

    with TemporaryDirectory() as temporary:
        root, run_dir = Path(temporary) / "photos", Path(temporary)
        make_files(root, settings)
        with timed("listing"):
            found = DatasetFinder(root).find()
            assert not left_out(root, found.used)
        with timed("fingerprint"):
            key = fingerprint(root, sorted([*found.train.paths, *found.valid.paths]))
        del found
        folder = cache_folder(root)
        nothing = Findings(bad={}, odd={}, sizes={})
        write_json(folder / f"checked-{key}.json", {"photos": settings.files, **asdict(nothing)})
        data = DogsCatsDataModule(root, num_workers=0, shrink="auto")
        data.setup()
        labelled = {name: (photos, data.classes) for name, photos in data.splits.items()}
        with timed("photos_csv"):
            keep_photos(run_dir, data.root, labelled, resumed=False)
        with timed("sampler"):
            batches = data.batch_sampler(data.train_dataset("s", augment=False), shuffle=True)
            assert sum(map(len, batches)) > settings.files // 2
        peak = peak_rss_mb()

        body = resnet34("none")
        for dataset in data.train_dataset("s", augment=False), data.valid_dataset():
            cache_activations(body, dataset, folder)
        with timed("repeated"):
            data = DogsCatsDataModule(root, num_workers=0, shrink="auto")
            data.prepare_data()
            data.setup()
            keep_photos(run_dir, data.root, labelled, resumed=False)
            assert not data.left_out
            for dataset in data.train_dataset("s", augment=False), data.valid_dataset():
                features = precompute(body, data.loader(dataset), folder, torch.device("cpu"))
                cached = ActivationDataset([features], dataset.photos, seed=0)
                next(iter(activation_loader(cached, data.batch_sampler(dataset))))
    return {"files": settings.files, **seconds, "peak_rss_mb": peak, "repeated_peak_rss_mb": peak_rss_mb()}


if __name__ == "__main__":
    keep_freed_memory()
    print(json.dumps(measure(from_command_line(Million()))))
