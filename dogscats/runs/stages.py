"""A stage of a run: its loggers, learning rates, Trainer and checkpoints."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import Logger, TensorBoardLogger

from dogscats.base.errors import optional
from dogscats.base.text import counted
from dogscats.lesson.classifier import Classifier
from dogscats.lesson.keep_best import KeepBest, LossScale, StopAtDivergence
from dogscats.lesson.lr_finder import FALLBACK_LR, LRCurve
from dogscats.lesson.stage import Stage
from dogscats.report.figures.curves import lr_curve
from dogscats.report.figures.drawing import publish
from dogscats.report.summary import History
from dogscats.runs.checkpoint import remove_checkpoint, save_classifier
from dogscats.runs.compose import build_callbacks
from dogscats.runs.loggers import build_loggers, close, hyperparameters, start_loggers
from dogscats.runs.run import Run, read_intact, stage_checkpoint

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


def peak_lrs(run: Run, stage: Stage) -> tuple[float, ...]:
    """Return the peak learning rate of each layer group in a stage."""
    found = run.report.metrics["lr_finder"]
    suggested = [lr for lr in found.values() if lr is not None]
    return stage.group_lrs(found.get(stage.name) or [None, *suggested][-1])


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
    state = state_file(run, stage)
    if run.fabric.is_global_zero:
        if stage.save or stage is not run.stages[-1]:
            save_classifier(stage_checkpoint(run.dir, stage), model, run.description, stage.name)
        save_classifier(state.with_name("last.ckpt"), model, run.description, stage.name)
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
    run.report.add_stage(stage.name, {"epochs": trainer.current_epoch, **metrics, "seconds": round(seconds, 3)})
    if run.fabric.is_global_zero:
        remove_checkpoint(state)
    close(loggers)
