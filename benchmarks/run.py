"""`make bench`: measure all rows, alternating dogscats and fastai, and write `docs/measurements/benchmark.md`.

    python -m benchmarks.run root=<dogscats> weights=<file>      all rows
    python -m benchmarks.run ... rows=frozen,tta                 only these rows again; the others are kept
    python -m benchmarks.run ... rows=missing                    rows that an interrupted run has not measured

Each measurement runs in a separate process. Measurements are stored in `docs/measurements/measurements.json`, from
which the tables are written.
"""

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.results import COMPARED, write_results
from benchmarks.settings import from_command_line
from dogscats.base.files import atomic_path
from dogscats.data.photos.listing import list_images

FOLDER = Path(__file__).parent
GROWTH = (500, 2_000, 8_000, 20_000)


@dataclass
class Bench:
    """Settings of the benchmark.

    Attributes:
        root: folder with `train/<class>/` and `valid/<class>/`.
        weights: file with a state dict of torchvision's ResNet34; empty for random weights.
        train: number of training photos, over all classes; use whole batches, as fastai drops the last incomplete
            batch.
        valid: number of validation photos.
        size: side of the square images, in pixels.
        batch_size: photos per batch.
        repetitions: number of repetitions of each measurement.
        rows: `all`, `missing`, or comma-separated row names.
        output: folder for `measurements.json` and the tables made from it, `benchmark.md`.
    """

    root: str = "data/dogscats"
    weights: str = ""
    train: int = 384
    valid: int = 100
    size: int = 224
    batch_size: int = 64
    repetitions: int = 3
    rows: str = "all"
    output: str = str(FOLDER.parent / "docs" / "measurements")


class Measurements:
    """Measurements by name, in a file that is updated after each one."""

    def __init__(self, file: Path):
        self.file = file
        self.taken: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.exists() else {}

    def add(self, name: str, metrics: dict[str, Any]) -> None:
        """Store a measurement."""
        self.taken[name] = metrics
        with atomic_path(self.file) as temporary:
            temporary.write_text(json.dumps(self.taken, indent=1, sort_keys=True) + "\n")


def subset(root: Path, folder: Path, train: int, valid: int) -> None:
    """Link the first photos of each class, the same number per class."""
    for split, count in (("train", train), ("valid", valid)):
        if not (root / split).is_dir():
            raise SystemExit(f"root={root}: it has no folder {split}/. Pass root=<dogscats folder>.")
        classes = sorted(path for path in (root / split).iterdir() if path.is_dir())
        for source in classes:
            (folder / split / source.name).mkdir(parents=True)
            for photo in list_images(source)[: count // len(classes)]:
                (folder / split / source.name / photo.name).symlink_to(photo.resolve())


def child(*arguments: str) -> dict[str, Any]:
    """Run a module of this package in a separate process, and return the JSON of its last line."""
    started = time.time()
    command = [sys.executable, "-W", "ignore", "-m", *arguments]
    result = subprocess.run(command, cwd=FOLDER.parent, capture_output=True, text=True)
    if result.returncode != 0:
        raise SystemExit(f"{' '.join(arguments)}:\n{result.stderr[-3000:]}")
    metrics: Any = json.loads(result.stdout.strip().splitlines()[-1])
    if isinstance(metrics, float):  # from benchmarks.start: time of the first step
        return {"seconds": metrics - started}
    return metrics  # type: ignore[no-any-return]


def measure(settings: Bench) -> None:
    """Measure the requested rows."""
    measurements = Measurements(Path(settings.output) / "measurements.json")
    with tempfile.TemporaryDirectory() as temporary:
        photos = Path(temporary) / "photos"
        subset(Path(settings.root).expanduser(), photos, settings.train, settings.valid)
        common = [
            f"photos={photos}",
            f"weights={settings.weights and Path(settings.weights).expanduser().resolve()}",
            f"size={settings.size}",
            f"batch_size={settings.batch_size}",
        ]

        def once(name: str, row: str, *arguments: str) -> None:
            if settings.rows == "missing":
                wanted = name not in measurements.taken
            else:
                wanted = settings.rows == "all" or row in settings.rows.split(",")
            if wanted:
                if row == "start" and name.endswith("/0"):
                    child(*arguments)  # warm-up: checks the photos, and fills the system caches
                metrics = child(*arguments)
                print(f"{name}: {json.dumps(metrics)}", flush=True)
                measurements.add(name, metrics)

        sides = ["ours", "with_fastai"]
        if importlib.util.find_spec("fastai") is None:
            print("fastai is not installed: pip install '.[bench]'. Its rows are skipped.", flush=True)
            sides.remove("with_fastai")
        for row in COMPARED:
            for repetition in range(settings.repetitions):
                for side in sides:
                    name = f"{row.name}/{side}/{repetition}"
                    work = f"{temporary}/{row.name}-{side}"
                    if row.name == "start":
                        once(name, "start", "benchmarks.start", side, work, *common)
                    elif side in row.sides:
                        once(name, row.name, "benchmarks.measure", f"{side}.{row.name}", work, *common)
                        shutil.rmtree(work, ignore_errors=True)
        once("limit", "limit", "benchmarks.limit", *common)
        for count in GROWTH:
            once(f"growth/{count}", "growth", "benchmarks.growth", f"photos={photos}", f"count={count}")
        once("million", "million", "benchmarks.million")
        once("startup", "startup", "benchmarks.startup")
        for model, weights in (("resnet34", common[1]), ("efficientnet_lite0", "weights=imagenet")):
            large = [f"photos={Path(settings.root).expanduser() / 'train'}", f"folder={temporary}/large", weights]
            once(f"large_photos/{model}", "large_photos", "benchmarks.large_photos", *large, f"model={model}")
    measurements.add("machine", machine(settings))
    write_results(measurements.taken, Path(settings.output) / "benchmark.md")


def machine(settings: Bench) -> dict[str, Any]:
    """Describe the machine, the software and the workload."""
    processor = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), processor)
    names = ("torch", "torchvision", "pytorch-lightning", "fastai", "onnxruntime")
    installed = {name for name in names if importlib.util.find_spec(name.replace("-", "_")) is not None}
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: version(name) for name in names if name in installed},
        "work": f"{settings.train} training and {settings.valid} validation photos, {settings.size} pixels, "
        f"batch {settings.batch_size}, {'the weights of a file' if settings.weights else 'random weights'}",
    }


if __name__ == "__main__":
    measure(from_command_line(Bench()))
