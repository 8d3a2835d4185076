"""Fine-tune a pretrained image classifier the way the fast.ai lesson taught.

Reads top to bottom: data, model, one `fit` per stage (`dogscats/lesson/stage.py`), test-time augmentation, report.
`python train.py --help` lists the settings. Run directories, checkpoints, resuming and errors: `dogscats/runs/`.
"""

from __future__ import annotations

import os
import signal

if __name__ == "__main__":  # no traceback while the imports below take their seconds
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda signum, frame: os._exit(128 + signum))

import logging
import time
from functools import partial
from typing import TYPE_CHECKING

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig
from tqdm.contrib.logging import logging_redirect_tqdm

from dogscats.base.content import stable_seed
from dogscats.base.environment import use_utf8
from dogscats.base.errors import hydra_errors_exit, user_errors_exit
from dogscats.base.signals import interruptible
from dogscats.base.text import counted
from dogscats.data.loading.class_weights import check_class_weights, class_weights
from dogscats.lesson.stage import Stage
from dogscats.runs.command_line import helpful_command_line
from dogscats.runs.directory import resume_hint
from dogscats.runs.settings import check_settings
from dogscats.runs.sweep import sweep_job, sweep_table

# torch takes seconds to import. The functions below do so, after --help and wrong settings have been dealt with.
if TYPE_CHECKING:
    from dogscats.data.loading.datamodule import DogsCatsDataModule
    from dogscats.lesson.activations import Activations
    from dogscats.lesson.classifier import Classifier
    from dogscats.runs.run import Run

log = logging.getLogger(__name__)


def train(cfg: DictConfig) -> float:
    """Run all stages of the recipe, then the report. Return the metric named by `optimized_metric`."""
    settings = check_settings(cfg)
    from dogscats.auto.auto_search import search
    from dogscats.runs.finish import choose_weights
    from dogscats.runs.launch import open_run

    with open_run(settings) as run:
        if run.finished:
            log.info("The run in %s is finished; its metrics are in metrics.json.", run.out)
            return run.metric
        run = search(run, train_stages)  # with recipe=auto: network, image size, perhaps another recipe
        model, data, activations = train_stages(run)
        choose_weights(run, model)  # those of the best stage, or of the last as in the lesson
        return report(run, model, data, activations)


def train_stages(run: Run) -> tuple[Classifier, DogsCatsDataModule, Activations]:
    """Load the photos, build the model, and train the stages that are not finished."""
    from dogscats.runs.launch import launch

    data = load_data(run)
    model = build_model(run, data)
    activations = launch(run, data, model)
    for stage in run.stages_left:
        fit(run, stage, model, data, activations)
    return model, data, activations


def load_data(run: Run) -> DogsCatsDataModule:
    """Find the photos and check that they can be decoded."""
    from dogscats.runs.launch import keep_photos

    data: DogsCatsDataModule = instantiate(run.settings["data"])
    data.prepare_data()
    data.keep_resident(run.fabric.device, run.passes)
    check_class_weights(run.settings["class_weights"], data.classes)
    data.setup()
    keep_photos(run, data)
    return data


def build_model(run: Run, data: DogsCatsDataModule) -> Classifier:
    """Build the pretrained body and new heads. A checkpoint loaded later replaces their weights."""
    from pytorch_lightning import seed_everything
    from torch import manual_seed

    from dogscats.lesson.classifier import Classifier
    from dogscats.runs.compose import build_body

    seed_everything(run.cfg.seed, workers=True, verbose=False)
    body = build_body(run.settings["model"], data.size, random=run.checkpoint is not None)
    manual_seed(run.cfg.seed)  # the initial heads must not depend on the body's random numbers
    weights = class_weights(run.settings["class_weights"], data.classes, data.train.labels)
    return Classifier(body, data.classes, run.cfg.heads, class_weights=weights)


def fit(run: Run, stage: Stage, model: Classifier, data: DogsCatsDataModule, activations: Activations) -> None:
    """Train one stage with its own Trainer, optimizer and schedule, and save the weights; or fit it in closed form.

    `stages.make_stage_trainer` attaches the callbacks: the LR schedule (`SGDR` or another), `LRTrace`, `History`,
    `KeepBest` with keep=best, `StopAtDivergence`, `LossScale`, the checkpoint to resume from, and the user's own.
    """
    from dogscats.lesson.lr_finder import STEPS_PHOTOS, STEPS_PRECOMPUTED, find_lr
    from dogscats.runs import stages

    log.info("\nStage %s: %s", stage.name, stage.summary)
    if stage.is_closed_form:
        stages.fit_closed_form(run, stage, model, activations)
        return
    started = time.perf_counter()
    saved = stages.saved_state(run, stage)  # of an interrupted stage, after its last complete epoch
    loggers = stages.make_loggers(run, stage.name, saved)
    classifier = model.for_stage(stage, seed=stable_seed(run.cfg.seed, stage.name))
    if stage.precompute:
        train_loader, valid_loader = activations.train_loader(stage.name), activations.valid_loader()
    else:
        train_loader = data.loader(data.train_dataset(stage.name, stage.augment), shuffle=True)
        valid_loader = data.loader(data.valid_dataset())

    if stages.needs_lr_finder(run, stage):
        steps = STEPS_PRECOMPUTED if stage.precompute else STEPS_PHOTOS
        stages.keep_lr(run, stage, find_lr(classifier, train_loader, run.make_trainer, steps), loggers)
    classifier.lrs = list(stage.group_lrs(run.report.metrics["lr_finder"]))

    trainer = stages.make_stage_trainer(run, stage, loggers)
    if saved:
        log.info("Resuming after epoch %d", saved["epoch"])
    resumed_from = stages.state_file(run, stage) if saved else None
    trainer.fit(classifier, train_loader, valid_loader, ckpt_path=resumed_from, weights_only=True)
    stages.finish_stage(run, stage, model, trainer, loggers, started)


def report(run: Run, model: Classifier, data: DogsCatsDataModule, activations: Activations) -> float:
    """Predict the validation photos, then those of a labelled test/, with test-time augmentation if enabled."""
    from dogscats.lesson.tta import TTA, predict, tta_loaders
    from dogscats.runs import finish
    from dogscats.runs.stages import make_loggers

    finish.fit_signs(run, model, activations)  # scores how unlike the training photos a photo is; not in the lesson
    callbacks, loggers = finish.final_callbacks(run, model, data), make_loggers(run, "final")
    n_aug = next((callback.n_aug for callback in callbacks if isinstance(callback, TTA)), 0)
    classifier, loaders = finish.final_prediction(run, model, activations, n_aug)
    predict(classifier, loaders, run.make_trainer, callbacks, loggers, partial(finish.keep_predictions, run, data))
    if data.test:
        log.info("Predicting %s", counted(len(data.test.paths), "test photo"))
        loaders, write = tta_loaders(data, data.test, n_aug), partial(finish.keep_test_predictions, run)
        predict(model, loaders, run.make_trainer, [TTA(n_aug)], write=write)
    return finish.finish_run(run, model, loggers)


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> float:
    """Train as configured."""
    with user_errors_exit(), sweep_job(cfg), interruptible(), logging_redirect_tqdm(), resume_hint():
        return train(cfg)
    return float("nan")  # a failed job of a sweep


if __name__ == "__main__":
    use_utf8()
    with hydra_errors_exit(), helpful_command_line(), interruptible(), sweep_table():
        main()
