"""A stage of a run: its loggers, learning rates, Trainer and checkpoints."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import Logger, TensorBoardLogger

from dogscats.base.errors import UserError, optional
from dogscats.base.rules import values_by_key
from dogscats.base.text import counted, listed, percent
from dogscats.data.loading.datamodule import DogsCatsDataModule
from dogscats.kernel.kernel_head import KernelFit
from dogscats.kernel.kernel_ridge import ROWS
from dogscats.lesson.activations import Activations
from dogscats.lesson.classifier import Classifier
from dogscats.lesson.keep_best import KeepBest, StopAtDivergence
from dogscats.lesson.lr_finder import FALLBACK_LR, LRCurve
from dogscats.lesson.metrics import METRICS
from dogscats.lesson.predictions import Predictions
from dogscats.lesson.stage import Stage
from dogscats.lesson.tta import TTA
from dogscats.networks.members import fit_kernel_heads
from dogscats.reliability.left_out import judged_alone, keep_left_out
from dogscats.report.figures.curves import lr_curve
from dogscats.report.figures.drawing import publish
from dogscats.report.history import History
from dogscats.runs.checkpoint import body_trained_by, remove_checkpoint, save_classifier
from dogscats.runs.compose import build_callbacks
from dogscats.runs.loggers import build_loggers, close, hyperparameters, start_loggers
from dogscats.runs.run import Run, read_intact, stage_checkpoint
from dogscats.runs.trainer import LossScale
from dogscats.suspects.photo_groups import features_and_groups

log = logging.getLogger(__name__)


def state_file(run: Run, stage: Stage) -> Path:
    """Return the path of the checkpoint from which an interrupted stage is resumed."""
    return run.dir / "checkpoints" / f"resume_{stage.name}.ckpt"


def saved_state(run: Run, stage: Stage) -> Mapping[str, Any] | None:
    """Read the state of an interrupted stage after its last complete epoch; `None` if there is none."""
    state = read_intact(state_file(run, stage))
    return state if state and {"epoch", "global_step", "loops", "optimizer_states"} <= state.keys() else None


def make_loggers(run: Run, name: str, saved: Mapping[str, Any] | None = None) -> list[Logger]:
    """Make and start the loggers of a stage, or of the final report.

    Args:
        run: the run.
        name: name of the stage, or `final`.
        saved: state from which the stage is resumed, if it is.

    Raises:
        UserError: for a logger that cannot be started before this process has trained anything.
    """
    by_key = build_loggers(run.settings.get("logger"), run.out, name, saved["global_step"] if saved else None)
    loggers, run.has_logged = start_loggers(by_key, run.out, name, required=not run.has_logged), True
    curve = _lr_file(run, name)
    if saved and curve.exists():  # TensorBoard drops all later steps, among them the LR finder's
        LRCurve.read(curve).log([logger for logger in loggers if isinstance(logger, TensorBoardLogger)])
    if run.logs_hyperparameters:
        for logger in loggers:
            logger.log_hyperparams(hyperparameters(run.settings))
    return loggers


def _lr_file(run: Run, stage: str) -> Path:
    """Return the path of the CSV file with the LR finder's points before a stage."""
    return run.out / ("lr_finder.csv" if stage == run.stages[0].name else f"lr_finder_{stage}.csv")


def needs_lr_finder(run: Run, stage: Stage) -> bool:
    """Return whether the LR finder runs before a stage."""
    found, first = run.report.metrics["lr_finder"], stage is run.stages[0]
    return stage.name not in found and (
        run.lr_finder.before == "all"
        or (run.lr_finder.before == "first" and first)
        or (stage.lr == "find" and not found)
    )


def keep_lr(run: Run, stage: Stage, curve: LRCurve, loggers: list[Logger]) -> None:
    """Save the LR finder's curve and suggestion for a stage."""
    file = _lr_file(run, stage.name)
    curve.write(file)
    with optional(file.stem):
        publish(lr_curve(curve), file.with_suffix(".png"), loggers, "lr_finder/plots")
        curve.log(loggers)
    if curve.has_minimum:
        log.info("LR finder: suggests lr=%.2g, a tenth of the rate at the lowest loss", curve.suggestion)
        run.report.add_suggestion(stage.name, curve.suggestion)
        return
    kept = f"lr={FALLBACK_LR:g}, the lesson's, is used" if stage.lr == "find" else "the learning rate is kept"
    log.warning("LR finder: suggests nothing, as the loss has no clear minimum (few photos?); %s", kept)
    run.report.add_suggestion(stage.name, FALLBACK_LR if stage.lr == "find" else None)


def make_stage_trainer(run: Run, stage: Stage, loggers: list[Logger]) -> Trainer:
    """Make the Trainer of a stage."""
    callbacks: list[Callback] = [StopAtDivergence(), LossScale(), *build_callbacks(run.cfg.callbacks, stage).values()]
    keep_best: dict[str, Any] = {}
    if stage.keep == "best":
        callbacks.insert(0, KeepBest())
        keep_best = {"num_sanity_val_steps": -1}  # validates the start
    callbacks.append(ResumeCheckpoint(state_file(run, stage)))
    return run.make_trainer(max_epochs=stage.total_epochs, logger=loggers, callbacks=callbacks, **keep_best)


class ResumeCheckpoint(ModelCheckpoint):
    """Saves the training state after every epoch except the last, to resume an interrupted stage.

    After the last epoch the stage's own checkpoint is written at once. If the run is killed before that, the last epoch
    is repeated, including what callbacks do at the end of training.

    Args:
        file: checkpoint file.
    """

    def __init__(self, file: Path):
        super().__init__(file.parent, file.stem, save_on_train_epoch_end=True, enable_version_counter=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, unless this is the last epoch."""
        if not trainer.fit_loop.done:
            super().on_train_epoch_end(trainer, pl_module)


def fit_closed_form(run: Run, stage: Stage, model: Classifier, activations: Activations) -> None:
    """Fit a kernel head to the activations: a stage without a Trainer.

    Rank 0 fits it, and the others receive it. The loss of the training photos is that of leave-one-out.

    Args:
        run: the run.
        stage: the stage.
        model: classifier; it gets the head.
        activations: activations of the run.
    """
    started, data, fabric = time.perf_counter(), activations.data, run.fabric
    if unused := _unused(run, stage):
        log.info("Not used by a fit in closed form: %s", ", ".join(unused))
    loggers = make_loggers(run, stage.name)
    features, groups = features_and_groups(activations, run.settings["data"].get("group"))
    fit: KernelFit | None = None
    fitted: Any = None
    if trained_by := body_trained_by(run.stages, run.cfg.load):
        log.info("No leave-one-out: the body was trained by %s, perhaps on these photos", trained_by)
    if fabric.is_global_zero:
        widths, began = [body.widths(data.size) for body in activations.body.members()], time.perf_counter()
        judged, classes = judged_alone(data.train), len(data.classes)
        fit = fit_kernel_heads(features, data.train.labels, classes, widths, groups, model.class_weights, judged)
        log.info("Fitted to %s in %.1f s", counted(len(groups), "photo"), time.perf_counter() - began)
        valid = not trained_by and fit.scored.any()
        if valid:
            log.info("Each left out: right on %s, log loss %.3g", percent(fit.accuracy, len(groups)), fit.log_loss)
        if not trained_by:
            _log_not_scored(fit, data, judged)
        fitted = fit.head, {"loo_loss": fit.log_loss} if valid else {}
    model.heads, metrics = fabric.broadcast(fitted)
    if "loo_loss" in metrics:
        tta = (callback for callback in build_callbacks(run.cfg.callbacks).values() if isinstance(callback, TTA))
        keep_left_out(run.dir, fit, activations, max((callback.n_aug for callback in tta), default=0))
    elif not data.valid.paths:
        raise UserError(
            "data.valid_fraction=0: leave-one-out can judge no photo, as all photos of each class belong together. "
            "Hold some out for validation."
        )
    metrics |= _validated(model, activations)
    seconds = round(time.perf_counter() - started, 3)
    for callback in build_callbacks(run.cfg.callbacks, stage).values():
        if isinstance(callback, History):
            callback.photos = len(data.valid.paths)
            callback.log_header(metrics)
            callback.add(run.out, stage.name, 0, metrics, seconds)
    for logger in loggers:
        logger.log_metrics(metrics, step=0)
    _keep(run, stage, model, {"epochs": 0, **metrics, "seconds": seconds}, loggers)


def _unused(run: Run, stage: Stage) -> list[str]:
    """List the settings that were made, but have no effect on a fit in closed form."""
    typed = values_by_key(HydraConfig.get().overrides.task)
    alone = len(run.stages) == 1
    others = [key for key in ("lr", "heads", "callbacks.lr_finder.before") if alone and key in typed]
    views = ["activations.views"] if run.cfg.activations.views else []
    callbacks = [
        key
        for key, callback in build_callbacks(run.cfg.callbacks, stage).items()
        if not type(callback).__module__.startswith("dogscats.")
    ]
    return [*others, *(f"recipe.{stage.name}.{key}" for key in stage.unused), *views, *callbacks]


def _log_not_scored(fit: KernelFit, data: DogsCatsDataModule, judged: torch.Tensor | None) -> None:
    """Name the training photos that leave-one-out cannot judge."""
    left = (~fit.scored if judged is None else ~fit.scored & judged).nonzero().flatten().tolist()
    if left:
        classes = sorted({data.classes[data.train.labels[number]] for number in left})
        photos = f"{counted(len(left), 'training photo')} {'is' if len(left) == 1 else 'are'}"
        log.warning(
            "%s not scored by leave-one-out, as all photos of the class belong together (%s): %s",
            *(photos, listed(classes, 3), listed([data.train.paths[number] for number in left], 3)),
        )


def _validated(model: Classifier, activations: Activations) -> dict[str, float]:
    """Compute the metrics of an epoch for the validation photos; none without any."""
    valid = activations.data.valid
    if not valid.paths:
        return {}
    with torch.inference_mode():
        features = activations.features(valid, "activations of valid")
        logs = torch.cat([model.heads(part) for part in torch.split(features, ROWS)])
    predictions = Predictions(valid.paths, model.classes, torch.tensor(valid.labels), logs.exp())
    computed = {metric.key: metric.compute(predictions) for metric in METRICS if metric.computed == "epoch"}
    return {"valid_loss": predictions.log_loss} | {f"valid_{key}": v for key, v in computed.items() if v is not None}


def finish_stage(
    run: Run, stage: Stage, model: Classifier, trainer: Trainer, loggers: list[Logger], started: float
) -> None:
    """Save the weights and metrics of a stage.

    Args:
        run: the run.
        stage: finished stage.
        model: classifier to save.
        trainer: Trainer of the stage.
        loggers: loggers of the stage.
        started: start time of the stage, by `time.perf_counter`.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    history = next((callback for callback in callbacks if isinstance(callback, History)), History())
    metrics: dict[str, Any] = history.metrics()
    keep_best = next((callback for callback in callbacks if isinstance(callback, KeepBest)), None)
    if keep_best:
        kept = "start" if keep_best.epoch is None else keep_best.epoch
        metrics = {"kept": kept, **history.metrics(kept), **keep_best.metrics}
    if trainer.current_epoch < stage.total_epochs:
        log.info("Stopped after %d of %s", trainer.current_epoch, counted(stage.total_epochs, "epoch"))
    seconds = history.seconds_before + time.perf_counter() - started
    _keep(run, stage, model, {"epochs": trainer.current_epoch, **metrics, "seconds": round(seconds, 3)}, loggers)


def _keep(run: Run, stage: Stage, model: Classifier, metrics: Mapping[str, Any], loggers: list[Logger]) -> None:
    """Save the weights and metrics of a stage, which is then finished."""
    state = state_file(run, stage)
    if run.fabric.is_global_zero:
        if stage.save or stage is not run.stages[-1]:
            save_classifier(stage_checkpoint(run.dir, stage), model, run.description, stage.name)
        save_classifier(state.with_name("last.ckpt"), model, run.description, stage.name)
    run.report.add_stage(stage.name, metrics)
    if run.fabric.is_global_zero:
        remove_checkpoint(state)
    close(loggers)
