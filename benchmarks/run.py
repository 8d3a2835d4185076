"""`make bench`: measure every row, ours and fastai in turn, and write `benchmarks/RESULTS.md`.

    python -m benchmarks.run root=<dogscats> weights=<file>      all rows
    python -m benchmarks.run ... rows=frozen,tta                 these rows anew, the others as they were
    python -m benchmarks.run ... rows=missing                    what an interrupted run has not measured

Each measurement is a process of its own. All are kept in `benchmarks/measurements.json`, which the table is
written from.
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
from dogscats.atomic import atomic_path
from dogscats.images import list_images

FOLDER = Path(__file__).parent
GROWTH = (500, 2_000, 8_000)


@dataclass
class Bench:
    """What to measure.

    Attributes:
        root: folder with `train/<class>/` and `valid/<class>/`.
        weights: file with a state dict of torchvision's ResNet34; empty for random weights.
        train: training photos to use, of all classes together; in whole batches, as fastai drops the last,
            incomplete one.
        valid: validation photos to use.
        size: side of the square images, in pixels.
        batch_size: photos in a batch.
        repetitions: of each measurement.
        rows: `all`, `missing`, or names of rows with commas between them.
        output: folder of `measurements.json` and `RESULTS.md`.
    """

    root: str = "data/dogscats"
    weights: str = ""
    train: int = 384
    valid: int = 100
    size: int = 224
    batch_size: int = 64
    repetitions: int = 3
    rows: str = "all"
    output: str = str(FOLDER)


class Measurements:
    """All measurements so far, by their name, in a file that is written after each."""

    def __init__(self, file: Path):
        self.file = file
        self.taken: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.exists() else {}

    def add(self, name: str, figures: dict[str, Any]) -> None:
        """Keep a measurement."""
        self.taken[name] = figures
        with atomic_path(self.file) as temporary:
            temporary.write_text(json.dumps(self.taken, indent=1, sort_keys=True) + "\n")


def subset(root: Path, folder: Path, train: int, valid: int) -> None:
    """Link the first photos of each class, as many of one as of the other."""
    for split, count in (("train", train), ("valid", valid)):
        if not (root / split).is_dir():
            raise SystemExit(f"root={root}: there is no folder {split}/ in it; pass root=<dogscats folder>.")
        classes = sorted(path for path in (root / split).iterdir() if path.is_dir())
        for source in classes:
            (folder / split / source.name).mkdir(parents=True)
            for photo in list_images(source)[: count // len(classes)]:
                (folder / split / source.name / photo.name).symlink_to(photo.resolve())


def child(*arguments: str) -> dict[str, Any]:
    """Run a module of this package in a process of its own, and return the JSON of its last line."""
    started = time.time()
    command = [sys.executable, "-W", "ignore", "-m", *arguments]
    result = subprocess.run(command, cwd=FOLDER.parent, capture_output=True, text=True)
    if result.returncode != 0:
        raise SystemExit(f"{' '.join(arguments)}:\n{result.stderr[-3000:]}")
    figures: Any = json.loads(result.stdout.strip().splitlines()[-1])
    if isinstance(figures, float):  # of benchmarks.start: when the first step began
        return {"seconds": figures - started}
    return figures  # type: ignore[no-any-return]


def measure(settings: Bench) -> None:
    """Measure the rows that are asked for."""
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
                    child(*arguments)  # checks the photos, and fills the caches of the system
                figures = child(*arguments)
                print(f"{name}: {json.dumps(figures)}", flush=True)
                measurements.add(name, figures)

        sides = ["ours", "with_fastai"]
        if importlib.util.find_spec("fastai") is None:
            print("fastai is not installed: pip install 'dogscats[bench]'. Its side is left out.", flush=True)
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
    measurements.add("machine", machine(settings))
    write_results(measurements.taken, Path(settings.output) / "RESULTS.md")


def machine(settings: Bench) -> dict[str, Any]:
    """Describe the machine, the software and the work."""
    processor = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(
            (line.partition(": ")[2] for line in lines if line.startswith("model name")), processor
        )
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
