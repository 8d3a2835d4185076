"""The rows of the comparison for dogscats, with the same code as `python train.py`.

Each function runs one row once, and returns the seconds of the part that its docstring calls timed. Each runs in a
separate process, with all imports done beforehand.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from lightning_fabric import Fabric
from omegaconf import DictConfig, OmegaConf, open_dict

import train
from benchmarks.settings import Settings
from dogscats.data.loading.datamodule import DogsCatsDataModule
from dogscats.lesson.activations import Activations
from dogscats.lesson.stage import make_stages
from dogscats.lesson.tta import predict, tta_loaders
from dogscats.runs.finish import final_callbacks
from dogscats.runs.launch import launch
from dogscats.runs.run import Run, RunProgress
from train import build_model, load_data

REPOSITORY = Path(__file__).parent.parent
LRS = [1e-3 * 10 ** (step / 4) for step in range(8)]
"""Learning rates of the row `sweep`."""


def overrides(settings: Settings, folder: Path) -> list[str]:
    """List the overrides of all rows: the head alone, without the LR finder and without pictures."""
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


class Prepared:
    """A run set up as in `train.py`: photos listed and checked, network built.

    Args:
        cfg: composed config.
        folder: run directory.
    """

    def __init__(self, cfg: DictConfig, folder: Path):
        values: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
        fabric = Fabric(accelerator=cfg.trainer.accelerator, devices=1)
        stages = make_stages(values["recipe"])
        self.run = Run(cfg, values, stages, fabric, folder, RunProgress(), time.perf_counter())
        self.data = load_data(self.run)
        self.model = build_model(self.run, self.data)
        launch(self.run, self.data, self.model)
        self.activations = Activations(self.model, self.data, fabric, cfg.activations.dir)


def make_run(settings: Settings, folder: Path, *more: str) -> Prepared:
    """Set up a run."""
    folder.mkdir(parents=True, exist_ok=True)
    arguments = [*overrides(settings, folder), f"hydra.runtime.output_dir={folder}", *more]
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        cfg = compose("train", arguments, return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    return Prepared(cfg, folder)


def fit(prepared: Prepared) -> float:
    """Time the fit of the only stage."""
    (stage,) = prepared.run.stages
    started = time.perf_counter()
    train.fit(prepared.run, stage, prepared.model, prepared.data, prepared.activations)
    return time.perf_counter() - started


def head_first(settings: Settings, folder: Path) -> float:
    """Timed: check the photos, compute the activations, train the head for 2 epochs with validation."""
    started = time.perf_counter()
    data = DogsCatsDataModule(settings.photos, settings.size, cache_dir=str(folder / "activations"))
    data.setup()
    checking = time.perf_counter() - started
    return checking + fit(make_run(settings, folder))


def head_cached(settings: Settings, folder: Path) -> float:
    """Timed: read the activations from the cache and verify them, train the head as before."""
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
    predict(
        run.model,
        tta_loaders(run.data, run.data.valid, 4),
        run.run.make_trainer,
        final_callbacks(run.run, run.model, run.data),
    )
    return time.perf_counter() - started


def sweep(settings: Settings, folder: Path) -> float:
    """Timed: train a new head for 2 epochs at each of 8 rates, sharing one cache, which the first fit builds."""
    return sum(fit(make_run(settings, folder, f"lr={lr}")) for lr in LRS)


def load(settings: Settings, folder: Path, augment: bool) -> float:
    """Time one pass over the training photos, to normalised batches."""
    torch.set_num_threads(1)
    run = make_run(settings, folder, "data.num_workers=0")
    loader = run.data.loader(run.data.train_dataset("benchmark", augment), shuffle=True)
    started = time.perf_counter()
    for batch in loader:
        (batch.inputs - run.model.body.mean) / run.model.body.std
    return time.perf_counter() - started


def load_plain(settings: Settings, folder: Path) -> float:
    """Timed: decode, resize, crop and normalise the training photos, on one core."""
    return load(settings, folder, augment=False)


def load_augmented(settings: Settings, folder: Path) -> float:
    """Timed: the same with the augmentation `side_on`."""
    return load(settings, folder, augment=True)


ROWS: dict[str, Callable[[Settings, Path], float]] = {
    row.__name__: row for row in (head_first, head_cached, frozen, unfrozen, tta, sweep, load_plain, load_augmented)
}
