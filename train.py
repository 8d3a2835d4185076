"""Fine-tune a pretrained image classifier the way the fast.ai lesson taught.

Reads top to bottom: data, model, then for each stage of the recipe a `fit` of its own, then test-time
augmentation and the report. `python train.py --help` lists the settings; every run writes a directory of its
own below `outputs/`.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.data import DataLoader
from torchvision.transforms.v2.functional import to_pil_image
from tqdm.contrib.logging import logging_redirect_tqdm

from dogscats.activations import activation_loader, precompute
from dogscats.atomic import atomic_path
from dogscats.augmentation_picture import augmentation_picture
from dogscats.backbone import Backbone, PrecomputedBody
from dogscats.cache import cache_folder
from dogscats.callbacks.history import History
from dogscats.callbacks.lr_finder import STEPS_PHOTOS, STEPS_PRECOMPUTED, find_lr
from dogscats.callbacks.lr_trace import LRTrace, draw_lr_schedule
from dogscats.callbacks.progress import Progress
from dogscats.callbacks.sgdr import SGDR
from dogscats.callbacks.tta import TTA, tta_loaders
from dogscats.checkpoint import AtomicCheckpointIO, load_classifier, save_classifier
from dogscats.classifier import Classifier, Head
from dogscats.console import device_name, quiet_libraries
from dogscats.data import Batch, DogsCatsDataModule, stable_seed
from dogscats.errors import user_errors_exit
from dogscats.memory import keep_freed_memory
from dogscats.plots import publish
from dogscats.report import RunReport
from dogscats.stage import Stage, make_stages
from dogscats.stage_table import read_rows

log = logging.getLogger(__name__)


def train(cfg: DictConfig) -> float:
    """Run every stage of the recipe, then the report; return the metric named by `optimized_metric`."""
    started = time.perf_counter()
    quiet_libraries()
    keep_freed_memory()
    settings: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    stages = make_stages(settings["recipe"])
    run = Run(cfg, settings)
    for stage in stages:
        run.fit(stage, first=stage is stages[0])
    run.predict(use_activations=stages[-1].precompute)
    run.finish(stages, time.perf_counter() - started)
    return run.report.metric(cfg.optimized_metric)


class Run:
    """One run of `train.py`: what its stages share, and its directory.

    Args:
        cfg: the configuration.
        settings: the same, resolved to plain containers.
    """

    def __init__(self, cfg: DictConfig, settings: dict[str, Any]):
        self.cfg, self.settings = cfg, settings
        self.dir = Path(HydraConfig.get().runtime.output_dir)
        OmegaConf.save(cfg, self.dir / "config.yaml", resolve=True)

        self.data: DogsCatsDataModule = instantiate(cfg.data)
        self.data.prepare_data()
        self.data.setup()
        log.info("Data      %s: %s", self.data.root, self.data.summary)

        pl.seed_everything(cfg.seed, workers=True, verbose=False)
        self.body: Backbone = instantiate(cfg.model, **({"weights": "none"} if cfg.load else {}))
        torch.manual_seed(cfg.seed)  # the head starts the same whatever the body drew
        classes = self.data.classes
        self.model = Classifier(self.body, Head(self.body.num_features, len(classes)), len(classes))
        self.description = {
            "model": settings["model"],
            "classes": classes,
            "size": self.data.size,
            "augment": settings["augment"],
        }
        if cfg.load:
            load_classifier(Path(cfg.load), self.model, self.description)
        name = settings["model"].get("name", cfg.model._target_.rpartition(".")[2])
        log.info("Model     %s, %d pooled features", name, self.body.num_features)

        make_trainer = partial(instantiate, cfg.trainer, default_root_dir=self.dir)
        self.device = make_trainer(logger=False, enable_checkpointing=False).strategy.root_device
        precision = cfg.trainer.precision or ("bf16-mixed" if self.device.type == "cuda" else "32-true")
        self.make_trainer = partial(make_trainer, precision=precision)
        log.info("Device    %s", device_name(self.device))

        self.report = RunReport(self.dir, classes)
        self.tensorboard = self.make_logger("final")
        self.suggested_lr: float | None = None
        picture = augmentation_picture(self.data.train_dataset("augmentation", augment=True))
        with atomic_path(self.dir / "augmentation.png") as temporary:
            to_pil_image(picture).save(temporary)
        self.tensorboard.experiment.add_image("augmentation", picture)

    def make_logger(self, version: str) -> TensorBoardLogger:
        """Make a TensorBoard run of its own for a stage, or for what follows them."""
        return TensorBoardLogger(self.dir / "tensorboard", name="", version=version, default_hp_metric=False)

    def fit(self, stage: Stage, first: bool) -> None:
        """Train a stage: a Trainer, optimizer and schedule of its own; save what it has learned."""
        log.info("\nStage %s: %s", stage.name, stage.summary)
        started = time.perf_counter()
        logger = self.make_logger(stage.name)
        train_loader, self.valid_loader = self.loaders(stage)
        self.classifier = Classifier(
            PrecomputedBody() if stage.precompute else self.body,
            self.model.head,
            len(self.data.classes),
            stage.lr_ratios,
            seed=stable_seed(self.cfg.seed, stage.name),
        )
        self.classifier.freeze_to(stage.freeze_to)
        wanted = stage.lr == "find" and self.suggested_lr is None
        if (
            wanted
            or self.cfg.callbacks.lr_finder.before == "all"
            or (first and self.cfg.callbacks.lr_finder.before == "first")
        ):
            self.find_lr(stage, train_loader, logger, "lr_finder" if first else f"lr_finder_{stage.name}")
        if stage.lr == "find":
            assert self.suggested_lr is not None
            stage = replace(stage, lr=self.suggested_lr)
        self.classifier.lrs = stage.group_lrs

        fastai_start = self.cfg.callbacks.sgdr.fastai_start
        trainer = self.make_trainer(
            max_epochs=stage.total_epochs,
            logger=logger,
            plugins=[AtomicCheckpointIO()],
            callbacks=[
                Progress(),
                *([SGDR(stage.cycle_len, stage.cycle_mult, fastai_start)] if stage.cycles else []),
                LRTrace(self.dir / "lr_trace.csv", stage.name),
                History(self.dir / "history.csv", stage.name),
                ModelCheckpoint(self.dir / "checkpoints", "last", enable_version_counter=False),
            ],
        )
        trainer.fit(self.classifier, train_loader, self.valid_loader)

        for name in ["last", *([stage.save] if stage.save else [])]:
            save_classifier(self.dir / "checkpoints" / f"{name}.ckpt", self.model, self.description)
        names = ("train_loss", "valid_loss", "valid_acc")
        figures = {name: trainer.callback_metrics[name].item() for name in names}
        seconds = round(time.perf_counter() - started, 3)
        self.report.add_stage(stage.name, {"epochs": stage.total_epochs, **figures, "seconds": seconds})

    def loaders(self, stage: Stage) -> tuple[DataLoader[Batch], DataLoader[Batch]]:
        """Make a stage's training and validation loaders: of photos, or of precomputed activations."""
        data, views = self.data, self.cfg.activations.views
        train_set, valid_set = data.train_dataset(stage.name, stage.augment), data.valid_dataset()
        if not stage.precompute:
            return data.loader(train_set, shuffle=True), data.loader(valid_set)

        folder = cache_folder(data.root, self.cfg.activations.dir)
        compute = partial(precompute, self.body, folder=folder, device=self.device)
        load = partial(data.loader, persistent=False)
        if views == 0:
            train = [compute(load(train_set), description="activations of train")]
        else:
            augmented = load(data.train_dataset("activations", augment=True))
            train = [
                compute(augmented, view=view, description=f"activations of train, version {view + 1}")
                for view in range(views)
            ]
        valid = compute(load(valid_set), description="activations of valid")
        return (
            activation_loader(train, data.train.labels, data.batch_size, train_set.seed, shuffle=True),
            activation_loader([valid], data.valid.labels, data.batch_size, valid_set.seed),
        )

    def find_lr(self, stage: Stage, loader: DataLoader[Batch], logger: TensorBoardLogger, name: str) -> None:
        """Run the LR finder as the stage would begin; keep its suggestion, plots and points."""
        steps = STEPS_PRECOMPUTED if stage.precompute else STEPS_PHOTOS
        curve = find_lr(self.classifier, loader, self.make_trainer, steps)
        curve.write(self.dir / f"{name}.csv")
        curve.publish(self.dir / f"{name}.png", logger)
        log.info("LR finder: suggests lr=%.2g, a tenth of the rate at the lowest loss", curve.suggestion)
        if self.suggested_lr is None or stage.lr == "find":
            self.suggested_lr = curve.suggestion

    def predict(self, use_activations: bool) -> None:
        """Predict the validation photos, with test-time augmentation if wanted, and draw the reports.

        Args:
            use_activations: without test-time augmentation, predict from the last stage's activations.
        """
        data, n_aug = self.data, self.cfg.callbacks.tta.n_aug
        self.tta = TTA(data.valid, data.classes)
        reports = [
            instantiate(report, self.tta, self.dir, self.tensorboard)
            for report in self.cfg.callbacks.reports.values()
        ]
        trainer = self.make_trainer(
            logger=False, enable_checkpointing=False, callbacks=[Progress(), self.tta, *reports]
        )
        if n_aug == 0 and use_activations:
            trainer.predict(self.classifier, self.valid_loader, return_predictions=False)
        else:
            log.info("\nPredicting %d photos, %d versions of each", len(data.valid.paths), 1 + n_aug)
            loaders = tta_loaders(data, data.valid, n_aug)
            trainer.predict(self.model, loaders, return_predictions=False)

    def finish(self, stages: Sequence[Stage], seconds: float) -> None:
        """Write and print the figures of the run, which took `seconds`."""
        figure = draw_lr_schedule(read_rows(self.dir / "lr_trace.csv"), stages)
        publish(figure, self.dir / "lr_schedule.png", self.tensorboard, "lr_schedule")
        self.report.finish(self.tta.plain, self.tta.averaged, seconds)
        self.tensorboard.log_hyperparams(hyperparameters(self.settings), self.report.final_numbers)
        self.tensorboard.finalize("success")
        self.report.summarise()


def hyperparameters(settings: dict[str, Any]) -> dict[str, Any]:
    """Choose the settings by which TensorBoard's HParams tab compares runs."""
    data, model = settings["data"], settings["model"]
    return {
        "lr": settings["lr"],
        "seed": settings["seed"],
        "recipe": " ".join(settings["recipe"]),
        "model": model.get("name", model["_target_"].rpartition(".")[2]),
        "augment": settings["augment"]["_target_"].rpartition(".")[2],
        "views": settings["activations"]["views"],
        **{key: data[key] for key in ("root", "size", "batch_size")},
    }


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> float:
    """Train as configured; a user's mistake ends it with one message and exit code 1."""
    with user_errors_exit(), logging_redirect_tqdm():
        return train(cfg)


if __name__ == "__main__":
    main()
