"""The end of a run: the choice of its weights, the final predictions, the figures, and the files to publish."""

import logging
import shutil
from dataclasses import replace

from pytorch_lightning import Callback
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from torch.utils.data import DataLoader

from dogscats.base.errors import UserError, optional
from dogscats.base.files import WEIGHTS
from dogscats.base.text import counted
from dogscats.data.loading.datamodule import DogsCatsDataModule
from dogscats.data.loading.dataset import Batch
from dogscats.lesson.activations import Activations
from dogscats.lesson.classifier import Classifier
from dogscats.lesson.predictions import Predictions
from dogscats.lesson.stage import final_stage
from dogscats.lesson.tta import TTA, tta_loaders
from dogscats.reliability.detector_fit import fit_detector
from dogscats.reliability.kept import log_reliability, weights_digest, write_reliability
from dogscats.reliability.left_out import LeftOut, LeftOutClassifier, left_out_loader, needs_training_photos
from dogscats.reliability.measured import measured
from dogscats.reliability.passing import passing, passing_text
from dogscats.reliability.strangers import log_not_measured
from dogscats.report import card, page
from dogscats.report.facts import Facts, final_weights
from dogscats.report.figure_table import Pictures, publish_figures
from dogscats.report.figures.drawing import publish
from dogscats.report.verdict import augmented_accuracy, log_verdict, verdict
from dogscats.runs.checkpoint import load_classifier, save_classifier, save_weights
from dogscats.runs.compose import build_callbacks
from dogscats.runs.loggers import close, hyperparameters
from dogscats.runs.run import UNNAMED, Run, stage_checkpoint
from dogscats.suspects.photo_groups import groups_of

log = logging.getLogger(__name__)


def choose_weights(run: Run, model: Classifier) -> None:
    """Choose the stage whose weights the run ends with, and load them; all ranks together.

    Only `metrics.json` decides, and nothing is removed before `last.ckpt` has these weights: a run that is killed here
    resumes to the same end.
    """
    stage = run.fabric.broadcast(final_stage(run.stages, run.report.metrics["stages"], run.cfg.final))
    earlier, checkpoints = stage != run.stages[-1], run.dir / "checkpoints"
    if earlier and run.stages_left:  # otherwise the model has them
        load_classifier(stage_checkpoint(run.dir, stage), model, run.description, run.cfg.trust)
    run.fabric.barrier()
    if run.fabric.is_global_zero:
        if earlier or run.resumed:  # last.ckpt may be damaged
            save_classifier(checkpoints / "last.ckpt", model, run.description, stage.name)
        shutil.rmtree(checkpoints / UNNAMED, ignore_errors=True)
    run.final_stage = stage


CURVES_FIRST = {
    "Curves": {
        "Loss": ["Multiline", ["train_loss", "valid_loss"]],
        "Accuracy": ["Multiline", ["valid_acc", "valid_balanced_acc", "valid_macro_f1"]],
        "Learning rate": ["Multiline", ["lr-SGD/.*"]],
    },
    "Final": {"Metrics": ["Multiline", ["final/.*"]]},
}
"""TensorBoard's tab of custom scalars, whose order is ours: the other tabs sort by name."""


def fit_signs(run: Run, model: Classifier, activations: Activations) -> None:
    """Fit the detector of strangers: predictions then say how unlike the training photos a photo is.

    What leave-one-out says of the training photos is read, too.
    """
    data, scores = activations.data, None
    valid = "loo_loss" in run.report.metrics["stages"][run.final_stage.name]
    left_out = LeftOut.read(run.dir) if valid else None
    if not run.is_trial:
        trained = run.stages[: run.stages.index(run.final_stage) + 1]
        needed = (left_out.groups, left_out.logits) if left_out and needs_training_photos(data) else None
        groups = None
        if data.strangers:
            groups = groups_of(activations, data.strangers.photos, run.settings["data"].get("group"))
        found = fit_detector(activations, model.heads, trained, run.fabric, run.dir, needed, groups)
        model.scorer, scores, run.strangers = found or (None, None, None)
        if model.scorer and scores is None and not data.valid.paths:
            log_not_measured(UserError("there are too few photos"))
            model.scorer = None
        run.weights = weights_digest(model.state_dict())  # before a Trainer may convert them to its precision
    run.left_out = left_out.predictions(data, scores) if left_out else None


def final_callbacks(run: Run, model: Classifier, data: DogsCatsDataModule) -> list[Callback]:
    """Build the callbacks of the final prediction, which may be that of cached activations."""
    callbacks = list(build_callbacks(run.cfg.callbacks).values())
    for callback in callbacks:
        if isinstance(callback, Pictures):
            callback.source = model, data.valid_dataset() if data.valid.paths else data.train_dataset("", augment=False)
    return callbacks


def final_prediction(
    run: Run, model: Classifier, activations: Activations, n_aug: int
) -> tuple[Classifier, list[DataLoader[Batch]]]:
    """Choose what predicts the validation photos, and from what: the photos, or cached activations.

    Without validation photos, leave-one-out has predicted the training photos.

    Args:
        run: the run.
        model: its classifier.
        activations: its activations.
        n_aug: number of augmented versions per photo.
    """
    data = activations.data
    if run.left_out and not data.valid.paths:
        return LeftOutClassifier(model), [left_out_loader(data, run.left_out)]
    if n_aug == 0 and run.final_stage.precompute:
        return model.for_stage(run.final_stage, seed=0), [activations.valid_loader()]
    log.info("\nPredicting %s, %s of each", counted(len(data.valid.paths), "photo"), counted(1 + n_aug, "version"))
    return model, tta_loaders(data, data.valid, n_aug)


def keep_predictions(run: Run, data: DogsCatsDataModule, tta: TTA) -> None:
    """Write the predictions and metrics of the validation photos, and by leave-one-out, before anything is drawn."""
    run.unreported.touch()
    validated = bool(data.valid.paths)
    needed = run.left_out if needs_training_photos(data) else None
    run.reliability = measured(tta, validated, needed, calibrate=not run.stages[-1].is_closed_form)
    if run.reliability:
        write_reliability(run.out, run.reliability, run.weights)
    left_out = run.left_out and run.left_out.plain
    if left_out and not validated:
        left_out = _decided(run, replace(left_out, unlike=tta.plain.unlike))
    plain = _decided(run, tta.plain) if validated else None
    averaged = tta.averaged and _decided(run, tta.averaged, averaged=True)
    known = passing(run.strangers, run.reliability, data.classes) if run.strangers and run.reliability else None
    run.report.finish(plain, averaged, run.final_stage.name, augmented_accuracy(tta), left_out, known)


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
        numbers = run.report.final_numbers
        if isinstance(logger, TensorBoardLogger):
            numbers = {name.replace(".", "/"): value for name, value in numbers.items()}  # one section for all
            logger.experiment.add_custom_scalars(CURVES_FIRST)
        if run.logs_hyperparameters and isinstance(logger, TensorBoardLogger):
            # Its HParams tab shows the metrics that come with hyperparameters.
            logger.log_hyperparams(hyperparameters(run.settings), numbers)
        else:
            logger.log_metrics(numbers)
    close(loggers)
    if run.fabric.is_global_zero:
        with optional("verdict", "given"):
            log_verdict(verdict(Facts(run.out)))
    log.info("%s", final_weights(run.report.metrics, run.stages, run.cfg.final))
    if run.reliability:
        log_reliability(run.reliability)
    for sentence in passing_text(run.report.metrics["final"]):
        log.info("%s", sentence)
    run.report.summarise()
    return run.metric


def _publish(run: Run, model: Classifier) -> None:
    """Write the weights, model card and page."""
    with optional(WEIGHTS, "written"):
        save_weights(run.out / WEIGHTS, model, run.description, run.final_stage.name)
    for file, write in ((card.FILE, card.write_card), (page.FILE, page.write_page)):
        with optional(file, "written"):
            write(run.out)
