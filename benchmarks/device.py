"""Photos decoded in every epoch against photos that stay decoded (`data.resident`): `python -m benchmarks.device`.

Draws photos as `lesson_at_scale` does, and measures both ways: the whole lesson, on all cores; one stage on a part of
the photos with 2 cores (`taskset`), and in each precision. Also how many photos a second each part takes alone:
decoding, drawing, transfer, augmentation, network. Writes a JSON file, and prints a table. On a machine with a GPU it
takes at most 8 minutes; it also runs on a CPU, with few photos: `train=160 valid=40 part=40`.
"""

import csv
import json
import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from benchmarks.lesson_at_scale import Scale, draw_root, measure
from benchmarks.settings import from_command_line
from dogscats.base.console import device_name, quiet_libraries
from dogscats.base.files import write_json
from dogscats.data.loading.datamodule import DogsCatsDataModule
from dogscats.data.loading.dataset import PhotoBatches
from dogscats.data.loading.loaders import photo_loader
from dogscats.data.loading.resident import Drawn, DrawnBatches
from dogscats.data.pixels.batched import BatchedTransform, render, room_for
from dogscats.lesson.backbone import resnet34
from dogscats.runs.launch import keep_freed_memory

WAYS = {"decoded every epoch": "data.resident=false", "resident": "data.resident=true"}

ONE_STAGE = [
    "~recipe.precompute", "~recipe.finetune", "recipe.augmented.cycles=2", "callbacks.tta.n_aug=0",
    "callbacks.lr_finder.before=none", "callbacks.reports=null",
]  # fmt: skip
"""Settings that train the head alone on augmented photos for two epochs; resident photos are decoded before."""

ROUNDS = 20
"""Batches that a part is measured with."""


@dataclass
class Device:
    """Settings of the measurement.

    Attributes:
        train: number of training photos.
        valid: number of validation photos.
        part: number of training photos of the rows with 2 cores and of each precision.
        size: side of the square images, in pixels.
        batch_size: photos per batch.
        precisions: precisions to compare.
        folder: folder that keeps the photos for later runs; empty for a temporary one.
        output: JSON file to write.
        overrides: further arguments of `train.py`.
    """

    train: int = 23_000
    valid: int = 2_000
    part: int = 3_000
    size: int = 224
    batch_size: int = 64
    precisions: list[str] = field(default_factory=lambda: ["32-true", "bf16-mixed", "16-mixed"])
    folder: str = ""
    output: str = "device.json"
    overrides: list[str] = field(default_factory=list)


def lesson(scale: Scale, root: Path) -> dict[str, Any]:
    """Run the lesson; add photos a second of the last epoch of `augmented`, and how long the GPU idles."""
    metrics: dict[str, Any] = measure(scale, root)
    with (root / "run" / "history.csv").open(newline="") as file:
        last = [float(row["seconds"]) for row in csv.DictReader(file) if row["stage"] == "augmented"][-1]
    used = metrics["gpu_utilisation_percent"]
    return {
        "seconds": metrics["seconds"],
        "augmented_photos_per_s": (scale.train + scale.valid) / last,
        "gpu_idle_share": None if used is None else 1 - used / 100,
        "stages": metrics["stages"],
    }


def per_second(step: Callable[[], object], photos: int, device: torch.device, rounds: int = ROUNDS) -> float:
    """Take a step again and again; return how many photos that are a second."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    step()
    wait()
    started = time.perf_counter()
    for _ in range(rounds):
        step()
    wait()
    return rounds * photos / (time.perf_counter() - started)


def parts(settings: Device, root: Path, device: torch.device) -> dict[str, float]:
    """Measure each part of an augmented epoch alone, in photos a second."""
    shutil.rmtree(root / "tmp", ignore_errors=True)
    data = DogsCatsDataModule(root, settings.size, settings.batch_size, limit=settings.part // 2, resident=True)
    data.keep_resident(device, 2)
    started = time.perf_counter()
    data.setup()
    found = {"check and keep": (len(data.train.paths) + len(data.valid.paths)) / (time.perf_counter() - started)}
    dataset, transform = data.train_dataset("device", augment=True), BatchedTransform(data.augmentation, data.size)
    assert data.resident is not None
    pictures = data.resident.pictures
    assert pictures is not None
    rows = pictures.of(transform.version, dataset.photos.paths)
    assert rows is not None
    sends = DrawnBatches(dataset, transform, pictures, rows, device, None)
    draws = DrawnBatches(dataset, transform, pictures, rows, device, pictures.pixels)
    workers = {"decode and augment in workers": PhotoBatches(dataset), "draw in workers": draws}
    for name, batches in (workers | {"draw and send in workers": sends}).items():
        kept = pictures.pixels.numel() // len(pictures.starts)
        loader = photo_loader(batches, data.batch_sampler(dataset), data.num_workers, kept)
        found[name] = per_second(partial(deque, loader, 0), len(dataset), device, 1)
    keys = [(index % len(dataset), 0) for index in range(settings.batch_size)]
    drawn = sends[keys]
    pixels = drawn.pixels.pin_memory() if device.type == "cuda" else drawn.pixels
    found["transfer"] = per_second(lambda: pixels.to(device, non_blocking=True, copy=True), len(keys), device)
    moved, room = Drawn(*(tensor.to(device) for tensor in drawn)), room_for(drawn.sizes, drawn.views)
    found["augment in batches"] = per_second(lambda: render(*moved[:4], data.size, room), len(keys), device)
    images, network = render(*moved[:4], data.size, room), resnet34("none").to(device).eval()
    for precision, dtype in (("32-true", None), ("bf16-mixed", torch.bfloat16), ("16-mixed", torch.float16)):
        if precision in settings.precisions:
            with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype is not None):
                found[f"frozen network, {precision}"] = per_second(lambda: network(images), len(keys), device)
    return found


def measured(settings: Device, root: Path, device: torch.device) -> dict[str, Any]:
    """Measure everything; return the metrics by row and way."""
    base = [f"data.size={settings.size}", f"data.batch_size={settings.batch_size}", *settings.overrides]
    whole = Scale(settings.train, settings.valid, folder=str(root))
    draw_root(root, whole)
    some = replace(whole, train=settings.part, valid=min(settings.valid, settings.part))
    rows = {"the lesson, all cores": whole}
    limits = [f"data.limit={settings.part // 2}", *ONE_STAGE]
    if shutil.which("taskset"):
        rows["one stage, 2 cores"] = replace(some, cores=2, overrides=[*limits, "data.num_workers=2"])
    for precision in settings.precisions:
        rows[f"one stage, {precision}"] = replace(some, overrides=[*limits, f"trainer.precision={precision}"])
    found: dict[str, Any] = {"device": device_name(device), "cores": os.cpu_count(), "settings": asdict(settings)}
    found["parts"] = parts(settings, root, device)
    for row, scale in rows.items():
        for way, override in WAYS.items():
            found.setdefault("rows", {}).setdefault(row, {})[way] = lesson(
                replace(scale, overrides=[*base, *scale.overrides, override]), root
            )
            print(f"{row}, {way}: {json.dumps(found['rows'][row][way])}", flush=True)
            write_json(Path(settings.output), found)  # what is measured so far
    return found


def table(found: Mapping[str, Any]) -> str:
    """Write the metrics as Markdown."""
    lines = [f"{found['device']}, {found['cores']} cores", "", "| part | photos a second |", "|---|---|"]
    lines += [f"| {part} | {value:,.0f} |" for part, value in found["parts"].items()]
    lines += ["", "| run | way | seconds | photos a second, last augmented epoch | GPU idle |", "|---|---|---|---|---|"]
    for row, ways in found["rows"].items():
        for way, metrics in ways.items():
            idle = metrics["gpu_idle_share"]
            cells = [f"{row}", way, f"{metrics['seconds']:.0f}", f"{metrics['augmented_photos_per_s']:,.0f}"]
            lines.append(f"| {' | '.join(cells)} | {'' if idle is None else f'{idle:.0%}'} |")
    return "\n".join(lines)


def main() -> None:
    """Draw the photos, measure, and print the table."""
    settings = from_command_line(Device())
    quiet_libraries()
    keep_freed_memory()
    folder = Path(settings.folder or tempfile.mkdtemp())
    try:
        print(table(measured(settings, folder, Fabric().device)))
    finally:
        if not settings.folder:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
