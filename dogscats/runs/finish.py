"""The end of a run: the final predictions, their reliability, the figures, and the files to publish."""

from dataclasses import replace

from pytorch_lightning import Callback
from pytorch_lightning.loggers import Logger, TensorBoardLogger

from dogscats.base.errors import optional
from dogscats.base.files import WEIGHTS
from dogscats.data.loading.datamodule import DogsCatsDataModule
from dogscats.lesson.activations import Activations
from dogscats.lesson.classifier import Classifier
from dogscats.lesson.predictions import Predictions
from dogscats.lesson.tta import TTA
from dogscats.reliability import strangers
from dogscats.reliability.kept import log_reliability, weights_digest, write_reliability
from dogscats.reliability.measured import measured
from dogscats.report import card, page
from dogscats.report.facts import Facts
from dogscats.report.figure_table import Pictures, publish_figures
from dogscats.report.figures.drawing import publish
from dogscats.runs.checkpoint import save_weights
from dogscats.runs.compose import build_callbacks, close, hyperparameters
from dogscats.runs.run import Run


def fit_detector(run: Run, model: Classifier, activations: Activations) -> None:
    """Fit the detector of strangers: predictions then say how unlike the training photos a photo is."""
    if not run.is_trial:
        model.scorer = strangers.fit_detector(activations, run.stages, run.fabric, run.dir)
        run.weights = weights_digest(model.state_dict())  # before a Trainer may convert them to its precision


def final_callbacks(run: Run, model: Classifier, data: DogsCatsDataModule) -> list[Callback]:
    """Build the callbacks of the final prediction, which may be that of cached activations."""
    callbacks = list(build_callbacks(run.cfg.callbacks).values())
    for callback in callbacks:
        if isinstance(callback, Pictures):
            callback.source = model, data.valid_dataset()
    return callbacks


def keep_predictions(run: Run, tta: TTA) -> None:
    """Write the predictions and metrics of the validation photos, before anything is drawn."""
    run.unreported.touch()
    run.reliability = measured(tta, calibrate=not run.stages[-1].is_closed_form)
    if run.reliability:
        write_reliability(run.out, run.reliability, run.weights)
    run.report.finish(_decided(run, tta.plain), tta.averaged and _decided(run, tta.averaged, averaged=True))


def keep_test_predictions(run: Run, tta: TTA) -> None:
    """Write the predictions and metrics of the labelled test photos."""
    run.report.add_test(_decided(run, tta.plain), tta.averaged and _decided(run, tta.averaged, averaged=True))


def _decided(run: Run, predictions: Predictions, averaged: bool = False) -> Predictions:
    """Add decisions where they could be measured."""
    if run.reliability is None:
        return replace(predictions, unlike=None)
    return run.reliability.decided(predictions, averaged)


def finish_run(run: Run, model: Classifier, loggers: list[Logger]) -> float:
    """Draw the figures of the run, print its metrics, and return `optimized_metric`."""
    for name, figure in run.figures.items():
        with optional(name):
            publish(figure, run.out / f"{name}.png", loggers, name)
    if run.fabric.is_global_zero:
        with optional("figures"):  # a file of the run directory may be damaged, or the user's own
            publish_figures(Facts(run.out), loggers)
    run.report.write()
    if run.fabric.is_global_zero:
        _publish(run, model)
    run.unreported.unlink(missing_ok=True)
    for logger in loggers:
        if run.logs_hyperparameters and isinstance(logger, TensorBoardLogger):
            # Its HParams tab shows the metrics that come with hyperparameters.
            logger.log_hyperparams(hyperparameters(run.settings), run.report.final_numbers)
        else:
            logger.log_metrics(run.report.final_numbers)
    close(loggers)
    if run.reliability:
        log_reliability(run.reliability)
    run.report.summarise()
    run.report.point_to_better_stage(run.stages)
    return run.metric


def _publish(run: Run, model: Classifier) -> None:
    """Write the weights, model card and page."""
    with optional(WEIGHTS, "written"):
        save_weights(run.out / WEIGHTS, model, run.description, run.stages[-1].name)
    for file, write in ((card.FILE, card.write_card), (page.FILE, page.write_page)):
        with optional(file, "written"):
            write(run.out)
