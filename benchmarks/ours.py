"""The rows of the comparison, done by dogscats: the same code that `python train.py` runs.

Each function does one row's work once and returns the seconds of what its docstring calls timed. All run in a
process of their own, in which everything was imported before.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from lightning_fabric import Fabric
from omegaconf import OmegaConf, open_dict

from benchmarks.settings import Settings
from dogscats.data import DogsCatsDataModule
from dogscats.resume import RunProgress
from dogscats.stage import make_stages
from train import Run

REPOSITORY = Path(__file__).parent.parent
LRS = [1e-3 * 10 ** (step / 4) for step in range(8)]
"""The learning rates of the row `sweep`."""


def overrides(settings: Settings, folder: Path) -> list[str]:
    """List what all rows set: a head alone, in the loop, without the LR finder and without pictures."""
    return [
        f"data.root={settings.photos}",
        f"model.weights={settings.weights or 'none'}",
        f"data.size={settings.size}",
        f"data.batch_size={settings.batch_size}",
        f"activations.dir={folder / 'activations'}",
        "recipe=head_only",
        "callbacks.lr_finder.before=none",
        "~callbacks.reports.confusion_matrix",
        "~callbacks.reports.pictures",
    ]


IN_THE_LOOP = [f"recipe.precompute.{key}" for key in ("precompute=false", "augment=true", "epochs=1")]


def make_run(settings: Settings, folder: Path, *more: str) -> Run:
    """Set up a run as `train.py` does: list and check the photos, build the network."""
    folder.mkdir(parents=True, exist_ok=True)
    arguments = [*overrides(settings, folder), f"hydra.runtime.output_dir={folder}", *more]
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        cfg = compose("train", arguments, return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    values: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    fabric = Fabric(accelerator=cfg.trainer.accelerator, devices=1)
    return Run(cfg, values, fabric, folder, RunProgress(), time.perf_counter())


def fit(run: Run) -> float:
    """Time the fit of the run's only stage."""
    (stage,) = make_stages(run.settings["recipe"])
    started = time.perf_counter()
    run.fit(stage, first=True)
    return time.perf_counter() - started


def head_first(settings: Settings, folder: Path) -> float:
    """Timed: check the photos, compute the activations, train the head for 2 epochs with validation."""
    started = time.perf_counter()
    data = DogsCatsDataModule(settings.photos, settings.size, cache_dir=str(folder / "activations"))
    data.setup()
    checking = time.perf_counter() - started
    return checking + fit(make_run(settings, folder))


def head_cached(settings: Settings, folder: Path) -> float:
    """Timed: find the activations in the cache and verify them, train the head as before."""
    fit(make_run(settings, folder))
    return fit(make_run(settings, folder))


def frozen(settings: Settings, folder: Path) -> float:
    """Timed: train the head for an epoch on augmented photos with the body frozen, with validation."""
    return fit(make_run(settings, folder, *IN_THE_LOOP))


def unfrozen(settings: Settings, folder: Path) -> float:
    """Timed: train all layers for an epoch on augmented photos, with validation."""
    return fit(make_run(settings, folder, *IN_THE_LOOP, "recipe.precompute.freeze_to=0"))


def tta(settings: Settings, folder: Path) -> float:
    """Timed: predict the validation photos, the centre crop and 4 augmented versions of each."""
    run = make_run(settings, folder, "callbacks.tta.n_aug=4")
    started = time.perf_counter()
    run.predict(*make_stages(run.settings["recipe"]))
    return time.perf_counter() - started


def sweep(settings: Settings, folder: Path) -> float:
    """Timed: train a new head for 2 epochs at each of 8 rates, on one cache, which the first builds."""
    return sum(fit(make_run(settings, folder, f"lr={lr}")) for lr in LRS)


def load(settings: Settings, folder: Path, augment: bool) -> float:
    """Time one pass over the training photos, to normalised batches."""
    torch.set_num_threads(1)
    run = make_run(settings, folder, "data.num_workers=0")
    loader = run.data.loader(run.data.train_dataset("benchmark", augment), shuffle=True)
    started = time.perf_counter()
    for batch in loader:
        (batch.inputs - run.body.mean) / run.body.std
    return time.perf_counter() - started


def load_plain(settings: Settings, folder: Path) -> float:
    """Timed: decode, resize, crop and normalise the training photos, on one core."""
    return load(settings, folder, augment=False)


def load_augmented(settings: Settings, folder: Path) -> float:
    """Timed: the same with the augmentation `side_on`."""
    return load(settings, folder, augment=True)


ROWS: dict[str, Callable[[Settings, Path], float]] = {
    row.__name__: row
    for row in (head_first, head_cached, frozen, unfrozen, tta, sweep, load_plain, load_augmented)
}
