"""Recipes on several sets of photos, and fastai's `fine_tune`: `python -m benchmarks.domains folder=... weights=...`.

Runs every combination of dataset, recipe, backbone and seed by `python train.py`, one after the other, then fastai's
`fine_tune` with the same photos, sizes and ResNet34 weights. Each result is added to a JSON file as soon as it is
there, and is not computed again: an interrupted benchmark goes on where it was. Prints a Markdown table: accuracy on
`valid/` without and with test-time augmentation (median over the seeds, with the 95 % Wilson interval of the latter),
log loss, and seconds of the whole run. fastai needs `pip install '.[bench]'`.
"""

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.ours import REPOSITORY
from benchmarks.settings import from_command_line
from dogscats.base.errors import UserError, user_errors_exit
from dogscats.base.files import read_json, write_json
from dogscats.lesson.metrics import wilson_interval

log = logging.getLogger(__name__)


@dataclass
class Domains:
    """Settings of the benchmark.

    Attributes:
        folder: folder with the datasets.
        weights: file with a state dict of torchvision's ResNet34.
        datasets: datasets, each as `<folder>:<side of the images in pixels>`.
        recipes: recipes of `train.py`.
        budgets: times of `recipe=auto`, which chooses among the backbones at hand; the size is that of fastai.
        models: backbones of `train.py`.
        seeds: seeds of each combination.
        fastai_epochs: numbers of unfrozen epochs of fastai's `fine_tune`.
        overrides: further arguments of `train.py`.
        results: JSON file with the results so far.
    """

    folder: str
    weights: str
    datasets: list[str] = field(default_factory=lambda: ["digits:128", "trash:224", "dogscats:288"])
    recipes: list[str] = field(default_factory=lambda: ["small", "heads", "adapt"])
    budgets: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=lambda: ["resnet34", "efficientnet_lite0"])
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    fastai_epochs: list[int] = field(default_factory=lambda: [3, 8])
    overrides: list[str] = field(default_factory=list)
    results: str = "domains.json"


@dataclass
class Cell:
    """One line of the table.

    Attributes:
        dataset: name of the dataset.
        size: side of the images in pixels.
        method: recipe, or fastai's call.
        model: backbone.
        measure: function that computes the results of one seed in a folder.
    """

    dataset: str
    size: int
    method: str
    model: str
    measure: Callable[[int, Path], dict[str, float]]

    def key(self, seed: int) -> str:
        """Key of a result in the JSON file."""
        return f"{self.dataset} {self.size} {self.method} {self.model} {seed}"


def cells(settings: Domains) -> Iterator[Cell]:
    """Yield the lines of the table."""
    for entry in settings.datasets:
        dataset, _, pixels = entry.partition(":")
        if not pixels.isdecimal():
            raise UserError(f"datasets={entry}: expected <folder>:<size in pixels>, for example digits:128.")
        size = int(pixels)
        root = Path(settings.folder).expanduser().resolve() / dataset
        if not (root / "valid").is_dir():
            raise UserError(f"folder={settings.folder}: there is no {dataset}/valid/. Choose others: datasets=[...].")
        for recipe in settings.recipes:
            for model in settings.models:
                yield Cell(dataset, size, recipe, model, _ours(settings, root, recipe, model, f"data.size={size}"))
        for budget in settings.budgets:
            yield Cell(
                dataset,
                size,
                f"auto, {budget}",
                "chosen",
                _ours(settings, root, "auto", "resnet34", f"budget={budget}"),
            )
        for epochs in settings.fastai_epochs:
            yield Cell(dataset, size, f"fastai fine_tune({epochs})", "resnet34", _fastai(settings, root, size, epochs))


def _ours(
    settings: Domains, root: Path, recipe: str, model: str, setting: str
) -> Callable[[int, Path], dict[str, float]]:
    def measure(seed: int, folder: Path) -> dict[str, float]:
        arguments = [f"data.root={root}", setting, f"recipe={recipe}", f"model={model}", f"seed={seed}"]
        if model == "resnet34":
            arguments.append(f"model.weights={Path(settings.weights).expanduser().resolve()}")
        arguments += [f"hydra.run.dir={folder / 'run'}", f"activations.dir={folder}", *settings.overrides]
        _python(["train.py", *arguments])
        metrics: Any = read_json(folder / "run" / "metrics.json")
        final = metrics["final"]
        plain = {"n": final["n"], "accuracy": final["valid_acc"], "log_loss": final["valid_loss"]}
        best = {
            "accuracy_tta": final.get("valid_acc_tta", final["valid_acc"]),
            "log_loss_tta": final.get("valid_loss_tta", final["valid_loss"]),
        }
        return plain | best | {"seconds": metrics["seconds"]}

    return measure


def _fastai(settings: Domains, root: Path, size: int, epochs: int) -> Callable[[int, Path], dict[str, float]]:
    def measure(seed: int, folder: Path) -> dict[str, float]:
        weights = Path(settings.weights).expanduser().resolve()
        arguments = [f"photos={root}", f"weights={weights}", f"size={size}", f"epochs={epochs}", f"seed={seed}"]
        printed = json.loads(_python(["-m", "benchmarks.fine_tune", *arguments]).splitlines()[-1])
        keys = ("n", "accuracy", "log_loss", "accuracy_tta", "log_loss_tta")
        seconds = sum(value for key, value in printed.items() if key.startswith("seconds"))
        return {key: printed[key] for key in keys} | {"seconds": seconds}

    return measure


def _python(arguments: list[str]) -> str:
    """Run Python in the repository and return what it prints.

    Raises:
        UserError: if it fails; with the end of its output.
    """
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    process = subprocess.run(
        [sys.executable, *arguments], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    if process.returncode:
        raise UserError(f"{' '.join(arguments)} failed:\n{process.stdout[-2000:]}{process.stderr[-2000:]}")
    return process.stdout


def measure(settings: Domains) -> dict[str, Any]:
    """Compute what is missing in the results file, and return all results."""
    file = Path(settings.results)
    results: dict[str, Any] = read_json(file) or {}
    for cell in list(cells(settings)):
        for seed in settings.seeds:
            if cell.key(seed) not in results:
                log.info("%s", cell.key(seed))
                with tempfile.TemporaryDirectory() as folder:
                    results[cell.key(seed)] = cell.measure(seed, Path(folder))
                write_json(file, results)
    return results


def table(settings: Domains, results: dict[str, Any]) -> str:
    """Format the results as a Markdown table."""
    lines = [
        "| photos | recipe | backbone | accuracy | with TTA | 95 % interval | log loss with TTA | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for cell in cells(settings):
        rows = [results[cell.key(seed)] for seed in settings.seeds]
        plain, tta, loss, seconds = (
            median(row[key] for row in rows) for key in ("accuracy", "accuracy_tta", "log_loss_tta", "seconds")
        )
        low, high = wilson_interval(round(tta * rows[0]["n"]), rows[0]["n"])
        lines.append(
            f"| {cell.dataset}, {cell.size} px | {cell.method} | {cell.model} | {plain:.3f} | {tta:.3f} | "
            f"{low:.3f} - {high:.3f} | {loss:.3f} | {seconds:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with user_errors_exit():
        chosen = from_command_line(Domains("???", "???"))
        print(table(chosen, measure(chosen)))
