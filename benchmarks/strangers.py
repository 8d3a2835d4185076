"""Which strangers pass as a class: `python -m benchmarks.strangers folder=... weights=... cache=...`.

Trains each combination of dataset, backbone and recipe by `python train.py`, then predicts photos of no class with the
run, in the plain version:

- far strangers: `valid/` of the other datasets;
- near strangers: the classes of the same dataset that were left out, as in `trash-paper-plastic`.

Prints Markdown: the share of strangers that are classified by the run's thresholds, and by the largest probability
alone with a threshold of its own; both keep 95 % of the validation photos. The share that is kept of unseen photos is
by thresholds of one half of the validation photos for the other half. Then the calibration of each run. Runs are kept
in `cache`, and reused.
"""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.ours import REPOSITORY
from benchmarks.settings import from_command_line
from dogscats.base.console import quiet_libraries
from dogscats.base.errors import UserError, user_errors_exit
from dogscats.base.files import read_json
from dogscats.data.photos.listing import list_images
from dogscats.lesson.predictions import Predictions
from dogscats.predict.predictor import Predictor
from dogscats.reliability.measured import Version
from dogscats.reliability.thresholds import KEEP, choose_thresholds


@dataclass
class Strangers:
    """Settings of the benchmark.

    Attributes:
        folder: folder with the datasets.
        weights: file with a state dict of torchvision's ResNet34.
        cache: folder for runs and activations.
        datasets: datasets to train on, each as `<folder>[-<class left out>...]:<side of the images in pixels>`.
        far: datasets whose `valid/` are far strangers, except to themselves.
        models: backbones.
        recipes: recipes of `train.py`.
        overrides: further arguments of `train.py`.
        most: largest number of photos of each group of strangers, evenly spaced.
    """

    folder: str
    weights: str
    cache: str
    datasets: list[str] = field(default_factory=lambda: ["dogscats:224", "trash-paper-plastic:224", "digits-7-8-9:128"])
    far: list[str] = field(default_factory=lambda: ["dogscats", "trash", "digits"])
    models: list[str] = field(default_factory=lambda: ["efficientnet_lite0", "resnet34"])
    recipes: list[str] = field(default_factory=lambda: ["small", "adapt", "lesson1"])
    overrides: list[str] = field(default_factory=list)
    most: int = 1000


def linked(settings: Strangers, dataset: str) -> tuple[Path, dict[str, list[Path]]]:
    """Link the classes to train on; return their root, and the photos of each group of strangers."""
    name, *left_out = dataset.partition(":")[0].split("-")
    source = Path(settings.folder).expanduser().resolve()
    strangers = {other: list_images(source / other / "valid") for other in settings.far if other != name}
    if not left_out:
        return source / name, strangers
    root = Path(settings.cache).resolve() / "photos" / dataset.partition(":")[0]
    strangers = {f"{', '.join(left_out)} (near)": []}
    for split in ("train", "valid"):
        (root / split).mkdir(parents=True, exist_ok=True)
        for folder in sorted((source / name / split).iterdir()):
            link = root / split / folder.name
            if folder.name in left_out:
                strangers[f"{', '.join(left_out)} (near)"] += list_images(folder)
            elif not link.exists():
                link.symlink_to(folder)
    return root, strangers


def trained(settings: Strangers, dataset: str, model: str, recipe: str, root: Path) -> Path:
    """Train, unless the run is there already, and return the run directory."""
    run = Path(settings.cache).resolve() / "runs" / f"{dataset.replace(':', '-')}-{model}-{recipe}"
    if not (run / "reliability.json").is_file():
        arguments = [
            f"data.root={root}",
            f"data.size={dataset.partition(':')[2]}",
            f"recipe={recipe}",
            f"model={model}",
        ]
        if model == "resnet34":
            arguments.append(f"model.weights={Path(settings.weights).expanduser().resolve()}")
        cache = Path(settings.cache).resolve() / "activations"
        arguments += [f"activations.dir={cache}", f"hydra.run.dir={run}", *settings.overrides]
        command = [sys.executable, str(REPOSITORY / "train.py"), *arguments]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if process.returncode:
            raise UserError(f"{' '.join(command)} failed:\n{process.stderr[-2000:]}")
    return run


def passed(predictions: Predictions, classes: list[str], version: Version) -> tuple[float, float]:
    """Return the share of strangers that are classified by both thresholds, and by the largest probability alone."""
    both = sum(decision in classes for decision in predictions.decisions) / len(predictions.paths)
    probable = version.judged.probable
    alone = probable.sort(descending=True).values[int(-(-KEEP * len(probable) // 1)) - 1]
    return both, (predictions.probabilities.max(dim=1).values >= alone).double().mean().item()


def kept_of_unseen(version: Version) -> float:
    """Return the share that is kept of each half of the validation photos by thresholds of the other half."""
    kept, (_, every_probable, every_unlike, _) = [], version.judged
    for half in (0, 1):
        chosen = choose_thresholds(every_probable[1 - half :: 2], every_unlike[1 - half :: 2])
        probable, unlike = every_probable[half::2], every_unlike[half::2]
        kept.append((probable >= chosen.unsure_below) & (unlike <= chosen.none_above))
    return torch.cat(kept).double().mean().item()


def rows(settings: Strangers) -> Iterator[tuple[str, str]]:
    """Yield a line of each of the two tables at a time: `strangers` or `calibration`, and the line."""
    for dataset in settings.datasets:
        root, strangers = linked(settings, dataset)
        for model in settings.models:
            for recipe in settings.recipes:
                run = trained(settings, dataset, model, recipe, root)
                predictor = Predictor.load(run, keep=KEEP)
                assert predictor.reliability is not None
                plain, begin = predictor.reliability.plain, f"| {dataset} | {model} | {recipe} |"
                unseen = kept_of_unseen(plain)
                for name, paths in strangers.items():
                    step = -(-len(paths) // settings.most)
                    started = time.perf_counter()
                    predictions, _ = predictor.predict(paths[::step], n_aug=0)
                    seconds = time.perf_counter() - started
                    both, alone = passed(predictions, predictor.classes, plain)
                    logging.getLogger(__name__).info("%s %s: %.1f s", begin, name, seconds)
                    line = f"{name} | {len(predictions.paths)} | {100 * alone:.1f} % | {100 * both:.1f} % |"
                    yield "strangers", f"{begin} {line} {100 * unseen:.1f} % |"
                saved = read_json(run / "reliability.json")
                for name, found in predictor.reliability.summaries().items():
                    yield "calibration", f"{begin} {name} | {calibration(saved[name] | found)} |"


def calibration(saved: dict[str, Any]) -> str:
    """Format the calibration of one version of a run."""
    errors = ["-" if saved[key] is None else f"{saved[key]:.4f}" for key in ("ece_before", "ece_after")]
    losses = ["-" if saved[key] is None else f"{saved[key]:.4f}" for key in ("log_loss_before", "log_loss_after")]
    accuracy = [f"{saved[key]:.4f}" for key in ("accuracy", "accuracy_kept")]
    return " | ".join([*errors, *losses, f"{saved['temperature']:.2f}", *accuracy])


def main(settings: Strangers) -> None:
    """Print both tables."""
    tables = {
        "strangers": [
            "| trained on | backbone | recipe | strangers | photos | pass by probability | pass | kept of unseen |",
            "|---|---|---|---|---|---|---|---|",
        ],
        "calibration": [
            "| trained on | backbone | recipe | version | ECE | out of fold | log loss | out of fold | temperature "
            "| accuracy | of those kept |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
        ],
    }
    for table, line in rows(settings):
        tables[table].append(line)
    print("\n\n".join("\n".join(lines) for lines in tables.values()))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    quiet_libraries()
    with user_errors_exit():
        main(from_command_line(Strangers("???", "???", "???")))
