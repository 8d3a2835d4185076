"""The full lesson at its original number of photos: `python -m benchmarks.lesson_at_scale`.

Draws JPEGs of the lesson's size, 500 x 375, and runs `train.py` on them with random weights. Prints seconds and images
per second of each stage, the seconds of the rest, and GPU utilisation if nvidia-smi is available. Drawing is not timed.
The photos are noise and a few shapes: as expensive to decode as real photos, but with nothing to learn.
"""

import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

from benchmarks.settings import from_command_line

REPOSITORY = Path(__file__).parent.parent


@dataclass
class Scale:
    """Size of the generated dataset.

    Attributes:
        train: number of training photos, over both classes.
        valid: number of validation photos, over both classes.
        width: width of the photos in pixels.
        height: height of the photos in pixels.
        folder: folder that keeps the photos for later runs; empty for a temporary one.
        overrides: further arguments of `train.py`.
        cores: number of CPU cores that it may use; 0 for all.
    """

    train: int = 23_000
    valid: int = 2_000
    width: int = 500
    height: int = 375
    folder: str = ""
    overrides: list[str] = field(default_factory=list)
    cores: int = 0


def draw(file: Path, number: int, width: int, height: int) -> None:
    """Draw one JPEG, determined by its number."""
    rng = random.Random(number)
    picture = Image.frombytes("RGB", (width // 4, height // 4), rng.randbytes(3 * (width // 4) * (height // 4)))
    picture = picture.resize((width, height)).filter(ImageFilter.GaussianBlur(2))
    pencil = ImageDraw.Draw(picture)
    for _ in range(12):
        x, y, size = rng.randrange(width), rng.randrange(height), rng.randrange(10, 150)
        color = (rng.randrange(256), rng.randrange(256), rng.randrange(256))
        pencil.ellipse((x, y, x + size, y + size), fill=color)
    picture.save(file, quality=90)


def draw_root(root: Path, scale: Scale) -> None:
    """Draw the missing photos of both classes and splits, on all cores."""
    with ProcessPoolExecutor() as pool:
        jobs = []
        for split, count in (("train", scale.train), ("valid", scale.valid)):
            for label, name in enumerate(("cats", "dogs")):
                (root / split / name).mkdir(parents=True, exist_ok=True)
                for number in range(label, count, 2):
                    file = root / split / name / f"{number}.jpg"
                    if not file.exists():
                        seed = number + (scale.train if split == "valid" else 0)
                        jobs.append(pool.submit(draw, file, seed, scale.width, scale.height))
        for job in jobs:
            job.result()


def measure(scale: Scale, root: Path) -> dict[str, object]:
    """Run the lesson once, after removing the caches of an earlier run."""
    shutil.rmtree(root / "tmp", ignore_errors=True)
    run = root / "run"
    shutil.rmtree(run, ignore_errors=True)
    arguments = [f"data.root={root}", "model.weights=none", f"hydra.run.dir={run}", *scale.overrides]
    monitor = None
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-l", "1"]
        monitor = subprocess.Popen(query, stdout=subprocess.PIPE, text=True)
    try:
        few = ["taskset", "-c", f"0-{scale.cores - 1}"] if scale.cores else []
        subprocess.run([*few, sys.executable, str(REPOSITORY / "train.py"), *arguments], check=True)
    finally:
        utilisation = ""
        if monitor is not None:
            monitor.terminate()
            utilisation = monitor.communicate()[0]
    metrics = json.loads((run / "metrics.json").read_text())
    stages = {}
    for name, stage in metrics["stages"].items():
        # Activations are computed once; in other stages every epoch reads all photos.
        passes = 1 if name == "precompute" else stage["epochs"]
        images = passes * (scale.train + scale.valid)
        stages[name] = {"seconds": stage["seconds"], "images_per_s": images / stage["seconds"]}
    rest = metrics["seconds"] - sum(stage["seconds"] for stage in stages.values())
    samples = [float(line) for line in utilisation.split() if line.isdigit()]
    return {
        "train": scale.train,
        "valid": scale.valid,
        "stages": stages,
        "rest_seconds": rest,  # set-up, test-time augmentation, pictures
        "seconds": metrics["seconds"],
        "peak_rss_mb": metrics["peak_rss_mb"],
        "gpu_utilisation_percent": statistics.mean(samples) if samples else None,
    }


def main() -> None:
    """Draw the photos and measure."""
    scale = from_command_line(Scale())
    folder = Path(scale.folder or tempfile.mkdtemp())
    try:
        draw_root(folder, scale)
        print(json.dumps(measure(scale, folder), indent=2))
    finally:
        if not scale.folder:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
