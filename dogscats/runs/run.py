"""A run of `train.py`: its directory, ranks, progress, Trainers, loggers and report."""

import logging
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from lightning_fabric import Fabric
from omegaconf import DictConfig
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import Logger, TensorBoardLogger

from dogscats.base import environment
from dogscats.base.console import device_name, quiet_libraries, set_progress
from dogscats.base.errors import Failure, UserError, optional
from dogscats.base.files import WEIGHTS, read_csv, remove_unfinished
from dogscats.base.signals import stop_if_interrupted
from dogscats.data.loading.check import write_bad_images
from dogscats.data.loading.datamodule import DogsCatsDataModule
from dogscats.data.photos.photo_list import keep_photos
from dogscats.data.photos.run_decisions import FILE as DECISIONS
from dogscats.data.photos.run_decisions import keep_decisions, with_own_decisions
from dogscats.lesson.activations import Activations
from dogscats.lesson.classifier import Classifier
from dogscats.lesson.keep_best import KeepBest, LossScale, StopAtDivergence
from dogscats.lesson.lr_finder import FALLBACK_LR, SKIP, LRCurve
from dogscats.lesson.predictions import Predictions
from dogscats.lesson.stage import Stage
from dogscats.lesson.tta import TTA
from dogscats.reliability.kept import log_reliability, weights_digest, write_reliability
from dogscats.reliability.measured import Reliability, measured
from dogscats.reliability.training_photos import fit_detector
from dogscats.report import card, page
from dogscats.report.explained_pictures import Pictures
from dogscats.report.figures.accuracy_kept import accuracy_kept
from dogscats.report.figures.augmentation import augmentation
from dogscats.report.figures.learning_rates import lr_curve, lr_schedule
from dogscats.report.figures.publish import publish
from dogscats.report.history import History
from dogscats.report.summary import RunReport, check_metric
from dogscats.runs.checkpoint import (
    VerifiedCheckpointIO,
    load_classifier,
    remove_checkpoint,
    save_classifier,
    save_weights,
)
from dogscats.runs.compose import accepted, build_callbacks, build_loggers, build_lr_finder, close, use_own_modules
from dogscats.runs.determinism import nondeterminism_named
from dogscats.runs.directory import plain_config, save_config
from dogscats.runs.hyperparameters import hyperparameters
from dogscats.runs.memory import keep_freed_memory
from dogscats.runs.progress import ResumeCheckpoint, RunProgress, read_progress, read_whole, run_lock
from dogscats.runs.ranks import distributed
from dogscats.runs.settings import Settings
from dogscats.runs.sweep import look_up
from dogscats.runs.trainer import check_trainer, cpu_computes_bf16, trainer_factory

log = logging.getLogger(__name__)


NOT_NEEDED = ("url", "sha256", "changed")
"""Settings of the data that a checkpoint does without."""


@contextmanager
def open_run(checked: Settings) -> Iterator["Run"]:
    """Start a new run, or resume the one named by `resume`.

    Only rank 0 writes to the run directory; the other ranks write to a temporary folder.

    Args:
        checked: settings of the run.

    Raises:
        UserError: for a bad config, before any computation.
    """
    started = time.perf_counter()
    stop_if_interrupted()  # while the imports took their time
    quiet_libraries()
    use_own_modules()
    keep_freed_memory()
    cfg, run_dir, stages, resumed = checked.cfg, checked.run_dir, checked.stages, checked.resumed
    model, data = checked.values["model"], checked.values["data"]
    # A target without these does without them.
    defaults = {"labels": None, "group": None, "shrink": "auto", "decisions": None}
    unset = [key for key, default in defaults.items() if data.get(key) == default]
    if resumed:
        data = with_own_decisions(data, run_dir)
    settings = checked.values | {
        "model": accepted(model, "model", ("features", "size")),
        "data": accepted(data, "data", ("changed", *unset)),
    }
    check_trainer(settings.get("trainer") or {})
    set_progress(settings["trainer"].get("enable_progress_bar") is not False)
    with distributed(cfg.trainer) as fabric, tempfile.TemporaryDirectory() as scratch, run_lock(run_dir, fabric):
        progress = read_progress(run_dir, stages) if resumed else None
        out = run_dir if fabric.is_global_zero else Path(scratch)
        run = Run(cfg, settings, stages, fabric, out, progress, started)
        if fabric.is_global_zero and not resumed:
            save_config(cfg, run_dir)
        try:
            with nondeterminism_named():
                yield run
        except UserError as error:
            if not resumed and not isinstance(error, Failure) and not (out / "metrics.json").exists():
                (out / "config.yaml").unlink(missing_ok=True)  # a refused run leaves its directory free
                if run.wrote_decisions:
                    (out / DECISIONS).unlink(missing_ok=True)
            raise


class Run:
    """State shared by the stages of a run.

    Args:
        cfg: config of the run.
        settings: the same config, resolved to plain containers.
        stages: stages of the recipe.
        fabric: Fabric of all ranks.
        out: run directory; a temporary folder on ranks other than 0.
        progress: progress so far; `None` for a new run.
        started: start time of the run, by `time.perf_counter`.
    """

    def __init__(
        self,
        cfg: DictConfig,
        settings: dict[str, Any],
        stages: list[Stage],
        fabric: Fabric,
        out: Path,
        progress: RunProgress | None,
        started: float,
    ):
        self.cfg, self.settings, self.stages, self.fabric = cfg, settings, stages, fabric
        self.out, self.progress, self.resumed = out, progress or RunProgress(), progress is not None
        self.report, self.wrote_decisions = RunReport(out, started), False
        self.reliability: Reliability | None = None
        self.lr_finder = build_lr_finder(cfg.callbacks)
        # Built here only to report config errors before any computation.
        built = [callback for stage in (*stages, None) for callback in build_callbacks(cfg.callbacks, stage).values()]
        n_aug = max((callback.n_aug for callback in built if isinstance(callback, TTA)), default=0)
        own = any(not type(callback).__module__.startswith("dogscats.") for callback in built)
        check_metric(settings["optimized_metric"], stages, n_aug, own)
        build_loggers(cfg.get("logger"), out, "final")
        make_trainer = trainer_factory(settings["trainer"], out, fabric.device)
        self.make_trainer = partial(make_trainer, plugins=[VerifiedCheckpointIO()])
        self.precision = str(self.make_trainer().precision)

    @property
    def finished(self) -> bool:
        """Whether the resumed run is already finished."""
        return self.progress.finished and not self.unreported.exists()

    @property
    def unreported(self) -> Path:
        """File that exists from the final predictions until everything is drawn: `resume=` draws it then."""
        return self.out / ".unreported"

    @property
    def has_default_recipe(self) -> bool:
        """Whether this new run has the default recipe because no other was chosen."""
        hydra = HydraConfig.get()
        named = any(setting.startswith("recipe=") for setting in hydra.overrides.task)
        return not self.resumed and hydra.runtime.choices.get("recipe") == "lesson1" and not named

    def keep_photos(self, data: DogsCatsDataModule) -> None:
        """Write the list of photos of a new run, and decisions about them; refuse to resume a run with others."""
        keep_photos(data, self.out, self.resumed)
        given = self.cfg.data.get("decisions")
        self.wrote_decisions = keep_decisions(data.decisions, self.out, given, self.resumed)

    @property
    def stages_left(self) -> list[Stage]:
        """Stages that are not finished."""
        return [stage for stage in self.stages if stage.name not in self.progress.stages]

    @property
    def checkpoint(self) -> Path | None:
        """Checkpoint to start from; `None` for the pretrained body with a new head."""
        loaded = Path(self.cfg.load).expanduser() if self.cfg.load else None
        return self.progress.checkpoint or loaded

    def launch(self, data: DogsCatsDataModule, model: Classifier) -> None:
        """Load the checkpoint, start the other ranks, and draw the augmentation figure.

        Called late, so that config errors are reported before any rank waits for another.
        """
        for folder in (self.out, self.out / "checkpoints"):
            remove_unfinished(folder)
        saved = {
            key: value
            for key, value in plain_config(self.cfg)["data"].items()
            if key in self.settings["data"] and key not in NOT_NEEDED
        }
        if data.bad:
            write_bad_images(self.out / "bad_images.csv", data.bad)
        self.description = {
            "model": self.settings["model"],
            "classes": model.classes,
            "heads": len(model.heads),
            "size": data.size,
            "augment": self.settings["augment"],
            "data": with_own_decisions(saved, self.out.absolute()),
            "seed": self.cfg.seed,
        }
        if self.checkpoint:
            load_classifier(self.checkpoint, model, self.description, self.cfg.get("trust", False))
        self.model = model
        self.fabric.launch()
        self.dir = self.fabric.broadcast(self.out)  # rank 0's directory
        device = device_name(self.fabric.device, self.fabric.world_size)
        log.info("Device    %s, %s", device, self.precision)
        if self.fabric.is_global_zero:
            with optional(environment.FILE, "written"):
                environment.record_start(self.out, device, self.precision)
        chosen = self.settings["trainer"].get("precision") is None and self.precision == "32-true"
        if chosen and self.fabric.device.type == "cpu" and cpu_computes_bf16():
            log.info(
                "This CPU computes bf16 in hardware: trainer.precision=bf16-mixed may be faster (ResNet34 twice as "
                "fast, but EfficientNet-Lite slower)"
            )
        if self.settings["trainer"].get("fast_dev_run"):
            log.info("Trial run (fast_dev_run): a few batches of each part; its metrics mean nothing")
        self.report.metrics["classes"] = model.classes
        if self.progress.metrics:
            self.report.resume(self.progress.metrics, self.progress.stages)
        # Saved now, to be looked at while the run trains; loggers get it at the end.
        self.augmentation = augmentation(data.train_dataset("augmentation", augment=True))
        with optional("augmentation"):
            publish(self.augmentation, self.out / "augmentation.png")

    def saved_state(self, stage: Stage) -> Mapping[str, Any] | None:
        """Read the state of an interrupted stage after its last complete epoch; `None` if there is none."""
        state = read_whole(self.state_file(stage))
        return state if state and {"epoch", "global_step", "loops", "optimizer_states"} <= state.keys() else None

    def state_file(self, stage: Stage) -> Path:
        """Return the path of the checkpoint from which an interrupted stage is resumed."""
        return self.dir / "checkpoints" / f"resume_{stage.name}.ckpt"

    def loggers(self, name: str, saved: Mapping[str, Any] | None = None) -> list[Logger]:
        """Make the loggers of a stage, or of the final report."""
        loggers = build_loggers(self.cfg.get("logger"), self.out, name, saved["global_step"] if saved else None)
        curve = self.out / self.lr_file(name)
        if saved and curve.exists():  # TensorBoard drops all later steps, among them the LR finder's
            LRCurve.read(curve).log([logger for logger in loggers if isinstance(logger, TensorBoardLogger)])
        if self.logs_hyperparameters:
            for logger in loggers:
                logger.log_hyperparams(hyperparameters(self.settings))
        return loggers

    @property
    def logs_hyperparameters(self) -> bool:
        """Whether loggers get the hyperparameters; `trainer.enable_autolog_hparams=false` turns it off."""
        return self.settings["trainer"].get("enable_autolog_hparams") is not False

    def lr_file(self, stage: str) -> str:
        """Name of the CSV file with the LR finder's points before a stage."""
        return "lr_finder.csv" if stage == self.stages[0].name else f"lr_finder_{stage}.csv"

    def trainer(self, stage: Stage, loggers: list[Logger]) -> Trainer:
        """Make the Trainer of a stage."""
        callbacks: list[Callback] = [
            StopAtDivergence(),
            LossScale(),
            *build_callbacks(self.cfg.callbacks, stage).values(),
        ]
        keep_best: dict[str, Any] = {}
        if stage.keep == "best":
            callbacks.insert(0, KeepBest())
            keep_best = {"num_sanity_val_steps": -1}  # validates the start
        return self.make_trainer(
            max_epochs=stage.total_epochs,
            logger=loggers,
            callbacks=[*callbacks, ResumeCheckpoint(self.state_file(stage))],
            **keep_best,
        )

    def wants_lr(self, stage: Stage) -> bool:
        """Return whether the LR finder runs before a stage."""
        found, first = self.report.metrics["lr_finder"], stage is self.stages[0]
        return stage.name not in found and (
            self.lr_finder.before == "all"
            or (self.lr_finder.before == "first" and first)
            or (stage.lr == "find" and not found)
        )

    def add_lr(self, stage: Stage, curve: LRCurve, loggers: list[Logger]) -> None:
        """Save the LR finder's result for a stage."""
        file = self.out / self.lr_file(stage.name)
        curve.write(file)
        with optional(file.stem):
            publish(lr_curve(curve, SKIP), file.with_suffix(".png"), loggers, "lr_finder/plots")
            curve.log(loggers)
        if curve.has_minimum:
            log.info("LR finder: suggests lr=%.2g, a tenth of the rate at the lowest loss", curve.suggestion)
            self.report.add_suggestion(stage.name, curve.suggestion)
            return
        kept = f"lr={FALLBACK_LR:g}, the lesson's, is used" if stage.lr == "find" else "the learning rate is kept"
        log.warning("LR finder: suggests nothing, as the loss has no clear minimum (few photos?); %s", kept)
        self.report.add_suggestion(stage.name, FALLBACK_LR if stage.lr == "find" else None)

    def lrs(self, stage: Stage) -> tuple[float, ...]:
        """Return the peak learning rate of each layer group in a stage."""
        found = self.report.metrics["lr_finder"]
        suggested = [lr for lr in found.values() if lr is not None]
        return stage.group_lrs(found.get(stage.name) or [None, *suggested][-1])

    def finish_stage(
        self, stage: Stage, model: Classifier, trainer: Trainer, loggers: list[Logger], started: float
    ) -> None:
        """Save the weights and metrics of a stage.

        Args:
            stage: finished stage.
            model: classifier to save.
            trainer: Trainer of the stage.
            loggers: loggers of the stage.
            started: start time of the stage, by `time.perf_counter`.
        """
        state = self.state_file(stage)
        if self.fabric.is_global_zero:
            for name in [*([stage.save] if stage.save else []), "last"]:
                save_classifier(state.parent / f"{name}.ckpt", model, self.description, stage.name)
        histories = [callback for callback in trainer.callbacks if isinstance(callback, History)]  # type: ignore[attr-defined]
        history = histories[0] if histories else History()
        metrics: dict[str, Any] = history.metrics()
        keep_best = next((callback for callback in trainer.callbacks if isinstance(callback, KeepBest)), None)  # type: ignore[attr-defined]
        if keep_best:
            kept = "start" if keep_best.epoch is None else keep_best.epoch
            metrics = {"kept": kept, **history.metrics(kept), **keep_best.metrics}
        if trainer.current_epoch < stage.total_epochs:
            log.info("Stopped after %d of %d epochs", trainer.current_epoch, stage.total_epochs)
        seconds = history.seconds_before + time.perf_counter() - started
        self.report.add_stage(stage.name, {"epochs": trainer.current_epoch, **metrics, "seconds": round(seconds, 3)})
        if self.fabric.is_global_zero:
            remove_checkpoint(state)
        close(loggers)

    def learn_likeness(self, model: Classifier, activations: Activations) -> None:
        """Keep the training photos, so that predictions say how unlike them a photo is."""
        if not self.settings["trainer"].get("fast_dev_run"):
            model.scorer = fit_detector(activations, self.stages, self.fabric, self.dir)
            self.weights = weights_digest(model.state_dict())

    def final_callbacks(self, model: Classifier, data: DogsCatsDataModule) -> list[Callback]:
        """Build the callbacks of the final prediction, which may be that of cached activations."""
        callbacks = list(build_callbacks(self.cfg.callbacks).values())
        for callback in callbacks:
            if isinstance(callback, Pictures):
                callback.source = model, data.valid_dataset()
        return callbacks

    def add_predictions(self, tta: TTA) -> None:
        """Write the predictions and metrics, before anything is drawn."""
        self.unreported.touch()
        self.reliability = measured(tta)
        if self.reliability:
            write_reliability(self.out, self.reliability, self.weights)
        self.report.finish(self._decided(tta.plain), tta.averaged and self._decided(tta.averaged, averaged=True))

    def add_test(self, tta: TTA) -> None:
        """Write the predictions and metrics of the labelled test photos."""
        self.report.add_test(self._decided(tta.plain), tta.averaged and self._decided(tta.averaged, averaged=True))

    def _decided(self, predictions: Predictions, averaged: bool = False) -> Predictions:
        """Add decisions where they could be measured."""
        if self.reliability is None:
            return replace(predictions, unlike=None)
        return self.reliability.decided(predictions, averaged)

    def finish(self, loggers: list[Logger]) -> float:
        """Draw the figures of the run, print its metrics, and return `optimized_metric`."""
        figures = {"augmentation": self.augmentation}
        if (self.out / "lr_trace.csv").exists():
            figures["lr_schedule"] = lr_schedule(read_csv(self.out / "lr_trace.csv"), self.stages)
        if self.reliability:
            figures["accuracy_kept"] = accuracy_kept(self.reliability.summaries())
        for name, figure in figures.items():
            with optional(name):
                publish(figure, self.out / f"{name}.png", loggers, name)
        self.report.write()
        if self.fabric.is_global_zero:
            self._write_documents()
        self.unreported.unlink(missing_ok=True)
        for logger in loggers:
            if self.logs_hyperparameters and isinstance(logger, TensorBoardLogger):
                # Its HParams tab shows the metrics that come with hyperparameters.
                logger.log_hyperparams(hyperparameters(self.settings), self.report.final_numbers)
            else:
                logger.log_metrics(self.report.final_numbers)
        close(loggers)
        if self.reliability:
            log_reliability(self.reliability)
        self.report.summarise()
        self.report.point_to_better_stage(self.stages)
        return self.metric

    def _write_documents(self) -> None:
        """Write the page, and what is published: weights and model card."""
        with optional(WEIGHTS, "written"):
            save_weights(self.out / WEIGHTS, self.model, self.description, self.stages[-1].name)
        for file, write in ((card.FILE, card.write_card), (page.FILE, page.write_page)):
            with optional(file, "written"):
                write(self.out)

    @property
    def metric(self) -> float:
        """The value named by `optimized_metric` in `metrics.json`."""
        return look_up(self.report.metrics if not self.finished else self.progress.metrics, self.cfg.optimized_metric)
