"""Fine-tune a pretrained image classifier the way the fast.ai lesson taught.

Reads top to bottom: data, model, then for each stage of the recipe a `fit` of its own, then test-time
augmentation and the report. `python train.py --help` lists the settings; every run writes a directory of its
own below `outputs/`.
"""

import logging
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning_fabric import Fabric
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, manual_seed
from torch.utils.data import DataLoader
from torchvision.transforms.v2.functional import to_pil_image
from tqdm.contrib.logging import logging_redirect_tqdm

from dogscats.activations import activation_loader, precompute
from dogscats.atomic import atomic_path, remove_unfinished
from dogscats.augmentation_picture import augmentation_picture
from dogscats.backbone import Backbone, PrecomputedBody
from dogscats.cache import cache_folder
from dogscats.callbacks.history import History
from dogscats.callbacks.lr_finder import STEPS_PHOTOS, STEPS_PRECOMPUTED, find_lr
from dogscats.callbacks.lr_trace import LRTrace, draw_lr_schedule
from dogscats.callbacks.progress import Progress
from dogscats.callbacks.sgdr import SGDR
from dogscats.callbacks.tta import TTA, tta_loaders
from dogscats.check import write_bad_images
from dogscats.checkpoint import VerifiedCheckpointIO, load_classifier, remove_checkpoint, save_classifier
from dogscats.classifier import Classifier
from dogscats.console import device_name, quiet_libraries
from dogscats.data import Batch, DogsCatsDataModule, PhotoDataset
from dogscats.distributed import distributed
from dogscats.errors import UserError
from dogscats.heads import Heads
from dogscats.interrupts import Interrupted, interruptible
from dogscats.memory import keep_freed_memory
from dogscats.plots import publish
from dogscats.report import RunReport, look_up
from dogscats.resume import RunProgress, read_config, read_progress, read_whole, run_directory
from dogscats.seed import stable_seed
from dogscats.stage import Stage, make_stages
from dogscats.stage_table import read_rows
from dogscats.sweep import job_errors

log = logging.getLogger(__name__)

OmegaConf.register_new_resolver("run_dir", run_directory, replace=True)


def train(cfg: DictConfig) -> float:
    """Run every stage of the recipe, then the report; return the metric named by `optimized_metric`."""
    started = time.perf_counter()
    quiet_libraries()
    keep_freed_memory()
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    resumed = cfg.resume is not None
    if resumed:
        run_dir, cfg = Path(cfg.resume), resumed_config(cfg)
    settings: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    stages = make_stages(settings["recipe"])
    progress = read_progress(run_dir, stages) if resumed else RunProgress()
    if progress.finished:
        log.info("The run in %s is finished; its figures are in metrics.json.", run_dir)
        return look_up(progress.metrics, cfg.optimized_metric)
    with distributed(cfg.trainer) as fabric, tempfile.TemporaryDirectory() as scratch:
        if fabric.is_global_zero and not resumed:
            save_config(cfg, run_dir)
        out = run_dir if fabric.is_global_zero else Path(scratch)
        run = Run(cfg, settings, fabric, out, progress, started)
        for stage in stages:
            if stage.name not in progress.stages:
                run.fit(stage, first=stage is stages[0])
        run.predict(stages[-1])
        run.finish(stages)
        return look_up(run.report.metrics, cfg.optimized_metric)


class Run:
    """One run of `train.py`: what its stages share, and its directory.

    Of several processes the first writes the run directory; what the others write is thrown away.

    Args:
        cfg: the configuration.
        settings: the same, resolved to plain containers.
        fabric: the processes that train together.
        out: the run's directory; in all processes but the first, a scratch folder.
        progress: how far it has come; a new one has come nowhere.
        started: when the run began, by `time.perf_counter`.
    """

    def __init__(
        self,
        cfg: DictConfig,
        settings: dict[str, Any],
        fabric: Fabric,
        out: Path,
        progress: RunProgress,
        started: float,
    ):
        self.cfg, self.settings, self.fabric, self.out = cfg, settings, fabric, out
        for folder in (self.out, self.out / "checkpoints"):
            remove_unfinished(folder)

        self.data: DogsCatsDataModule = instantiate(cfg.data)
        self.data.prepare_data()
        self.data.setup()
        log.info("Data      %s: %s", self.data.root, self.data.summary)
        if self.data.bad:
            write_bad_images(self.out / "bad_images.csv", self.data.bad)

        pl.seed_everything(cfg.seed, workers=True, verbose=False)
        start = progress.checkpoint or (Path(cfg.load) if cfg.load else None)
        self.body: Backbone = instantiate(cfg.model, **({"weights": "none"} if start else {}))
        manual_seed(cfg.seed)  # the heads start the same whatever the body drew
        classes = self.data.classes
        heads = Heads(self.body.num_features, len(classes), cfg.heads)
        self.model = Classifier(self.body, heads, len(classes))
        self.description = {
            "model": settings["model"],
            "classes": classes,
            "heads": cfg.heads,
            "size": self.data.size,
            "augment": settings["augment"],
        }
        if start:
            load_classifier(start, self.model, self.description)
        name = settings["model"].get("name", cfg.model._target_.rpartition(".")[2])
        what = "head" if len(heads) == 1 else "heads"
        log.info("Model     %s, %d pooled features, %d %s", name, self.body.num_features, len(heads), what)
        # Only now: a mistake in the settings is found before any process waits for another.
        fabric.launch()
        self.dir = fabric.broadcast(out)  # of the first process
        log.info("Device    %s", device_name(fabric.device, fabric.world_size))

        precision = cfg.trainer.precision or ("bf16-mixed" if fabric.device.type == "cuda" else "32-true")
        self.make_trainer = partial(instantiate, cfg.trainer, default_root_dir=self.out, precision=precision)
        self.report = RunReport(self.out, classes, started)
        if progress.metrics:
            self.report.resume(progress.metrics, progress.stages)
        self.tensorboard = self.make_logger("final")
        picture = augmentation_picture(self.data.train_dataset("augmentation", augment=True))
        with atomic_path(self.out / "augmentation.png") as temporary:
            to_pil_image(picture).save(temporary)
        self.tensorboard.experiment.add_image("augmentation", picture)

    def make_logger(self, version: str, purge_step: int | None = None) -> TensorBoardLogger:
        """Make a TensorBoard run of its own for a stage, or for what follows them."""
        return TensorBoardLogger(
            self.out / "tensorboard", "", version, default_hp_metric=False, purge_step=purge_step
        )

    def fit(self, stage: Stage, first: bool) -> None:
        """Train a stage: a Trainer, optimizer and schedule of its own; save what it has learned."""
        log.info("\nStage %s: %s", stage.name, stage.summary)
        started = time.perf_counter()
        # Lightning's state after the last epoch, from which an interrupted stage is resumed.
        state = self.dir / "checkpoints" / f"resume_{stage.name}.ckpt"
        saved = read_whole(state)
        logger = self.make_logger(stage.name, saved["global_step"] if saved else None)
        classifier = self.classifier(stage)
        train_loader, valid_loader = self.train_loader(stage), self.valid_loader(stage)
        finder, suggestions = self.cfg.callbacks.lr_finder, self.report.metrics["lr_finder"]
        if stage.name not in suggestions and (
            finder.before == "all"
            or (finder.before == "first" and first)
            or (stage.lr == "find" and not suggestions)
        ):
            name = "lr_finder" if first else f"lr_finder_{stage.name}"
            self.find_lr(stage, classifier, train_loader, logger, name)
        if stage.lr == "find":
            stage = replace(stage, lr=suggestions.get(stage.name, [*suggestions.values()][-1]))
        classifier.lrs = stage.group_lrs

        history = History(self.out / "history.csv", stage.name)
        fastai_start = self.cfg.callbacks.sgdr.fastai_start
        trainer = self.make_trainer(
            max_epochs=stage.total_epochs,
            logger=logger,
            plugins=[VerifiedCheckpointIO()],
            callbacks=[
                Progress(),
                *([SGDR(stage.cycle_len, stage.cycle_mult, fastai_start)] if stage.cycles else []),
                LRTrace(self.out / "lr_trace.csv", stage.name),
                history,
                ModelCheckpoint(
                    state.parent, state.stem, save_on_train_epoch_end=True, enable_version_counter=False
                ),
            ],
        )
        if saved:
            log.info("Resuming after epoch %d", saved["epoch"])
        trainer.fit(
            classifier, train_loader, valid_loader, ckpt_path=state if saved else None, weights_only=True
        )

        if self.fabric.is_global_zero:
            for name in [*([stage.save] if stage.save else []), "last"]:
                save_classifier(state.parent / f"{name}.ckpt", self.model, self.description, stage.name)
        seconds = history.seconds_before + time.perf_counter() - started
        self.report.add_stage(
            stage.name, {"epochs": stage.total_epochs, **history.figures, "seconds": round(seconds, 3)}
        )
        if self.fabric.is_global_zero:
            remove_checkpoint(state)

    def classifier(self, stage: Stage) -> Classifier:
        """Make the stage's classifier around the body, or its activations, and the heads."""
        classifier = Classifier(
            PrecomputedBody() if stage.precompute else self.body,
            self.model.heads,
            len(self.data.classes),
            stage.lr_ratios,
            seed=stable_seed(self.cfg.seed, stage.name),
        )
        classifier.freeze_to(stage.freeze_to, stage.train_batchnorm)
        return classifier

    def train_loader(self, stage: Stage) -> DataLoader[Batch]:
        """Make a stage's loader of training photos, or of their precomputed activations."""
        data, views = self.data, self.cfg.activations.views
        dataset = data.train_dataset(stage.name, stage.augment)
        if not stage.precompute:
            return data.loader(dataset, shuffle=True)
        if views == 0:
            features = [self.activations(dataset, "activations of train")]
        else:
            augmented = data.train_dataset("activations", augment=True)
            features = [
                self.activations(augmented, f"activations of train, version {view + 1}", view)
                for view in range(views)
            ]
        batches = data.batch_sampler(dataset, shuffle=True)
        return activation_loader(features, data.train.labels, batches, dataset.seed)

    def valid_loader(self, stage: Stage) -> DataLoader[Batch]:
        """Make a stage's loader of validation photos, or of their precomputed activations."""
        dataset = self.data.valid_dataset()
        if not stage.precompute:
            return self.data.loader(dataset)
        features = self.activations(dataset, "activations of valid")
        batches = self.data.batch_sampler(dataset)
        return activation_loader([features], self.data.valid.labels, batches, dataset.seed)

    def activations(self, dataset: PhotoDataset, name: str, view: int | None = None) -> Tensor:
        """Compute the features of all photos once, in the first process, or take them from the cache."""
        folder = cache_folder(self.data.root, self.cfg.activations.dir)
        loader = self.data.loader(dataset, persistent=False, shared=False)
        with self.fabric.rank_zero_first():
            return precompute(self.body, loader, folder, self.fabric.device, view, name)

    def find_lr(
        self,
        stage: Stage,
        classifier: Classifier,
        loader: DataLoader[Batch],
        logger: TensorBoardLogger,
        name: str,
    ) -> None:
        """Run the LR finder as the stage would begin; keep its suggestion, plots and points."""
        steps = STEPS_PRECOMPUTED if stage.precompute else STEPS_PHOTOS
        curve = find_lr(classifier, loader, self.make_trainer, steps)
        curve.write(self.out / f"{name}.csv")
        curve.publish(self.out / f"{name}.png", logger)
        log.info("LR finder: suggests lr=%.2g, a tenth of the rate at the lowest loss", curve.suggestion)
        self.report.add_suggestion(stage.name, curve.suggestion)

    def predict(self, last: Stage) -> None:
        """Predict the validation photos, with test-time augmentation if wanted, and draw the reports.

        Args:
            last: the last stage; without test-time augmentation its activations serve, if it has any.
        """
        data, n_aug = self.data, self.cfg.callbacks.tta.n_aug
        self.tta = TTA(data.valid, data.classes)
        reports = [
            instantiate(report, self.tta, self.out, self.tensorboard)
            for report in (self.cfg.callbacks.reports or {}).values()
        ]
        trainer = self.make_trainer(
            logger=False, enable_checkpointing=False, callbacks=[Progress(), self.tta, *reports]
        )
        if n_aug == 0 and last.precompute:
            trainer.predict(self.classifier(last), self.valid_loader(last), return_predictions=False)
        else:
            log.info("\nPredicting %d photos, %d versions of each", len(data.valid.paths), 1 + n_aug)
            loaders = tta_loaders(data, data.valid, n_aug)
            trainer.predict(self.model, loaders, return_predictions=False)

    def finish(self, stages: Sequence[Stage]) -> None:
        """Write and print the figures of the run."""
        figure = draw_lr_schedule(read_rows(self.out / "lr_trace.csv"), stages)
        publish(figure, self.out / "lr_schedule.png", self.tensorboard, "lr_schedule")
        self.report.finish(self.tta.plain, self.tta.averaged)
        self.tensorboard.log_hyperparams(hyperparameters(self.settings), self.report.final_numbers)
        self.tensorboard.finalize("success")
        self.report.summarise()


def save_config(cfg: DictConfig, run_dir: Path) -> None:
    """Keep the configuration of a new run; Hydra's own copy is overwritten when the run is resumed.

    Raises:
        UserError: if another run has used the directory.
    """
    file = run_dir / "config.yaml"
    if file.exists():
        raise UserError(
            f"{run_dir}: it holds a run already. Choose another hydra.run.dir, or resume={run_dir}."
        )
    with atomic_path(file) as temporary:
        OmegaConf.save(cfg, temporary, resolve=True)


def resumed_config(cfg: DictConfig) -> DictConfig:
    """Read the configuration of the run to resume.

    Raises:
        UserError: if there is none, or other settings were given.
    """
    others = [setting for setting in HydraConfig.get().overrides.task if not setting.startswith("resume=")]
    if others:
        raise UserError(f"resume={cfg.resume}: a run goes on with its own settings; drop {' '.join(others)}.")
    return read_config(Path(cfg.resume))


def hyperparameters(settings: dict[str, Any]) -> dict[str, Any]:
    """Choose the settings by which TensorBoard's HParams tab compares runs."""
    data, model = settings["data"], settings["model"]
    return {
        "lr": settings["lr"],
        "seed": settings["seed"],
        "heads": settings["heads"],
        "recipe": " ".join(settings["recipe"]),
        "model": model.get("name", model["_target_"].rpartition(".")[2]),
        "augment": settings["augment"]["_target_"].rpartition(".")[2],
        "views": settings["activations"]["views"],
        **{key: data[key] for key in ("root", "size", "batch_size")},
    }


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> float:
    """Train as configured; a user's mistake ends it with one message and exit code 1."""
    try:
        with interruptible(), logging_redirect_tqdm(), job_errors():
            return train(cfg)
        return math.nan  # a failed job of a sweep
    except Interrupted:
        run_dir = cfg.resume or HydraConfig.get().runtime.output_dir
        if (Path(run_dir) / "config.yaml").exists():
            log.info("\nInterrupted. To go on: python train.py resume=%s", run_dir)
        raise


if __name__ == "__main__":
    main()
