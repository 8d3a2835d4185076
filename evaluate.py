"""Evaluate a trained run, predict photos with it, export it, or search its photos for suspects.

Reads top to bottom: choose the task, load the run, and do it. The tasks are a table, `dogscats.predict.tasks`: evaluate
labelled photos (the default), predict any photos (`predict=<file, folder or glob>`, and `explain=true` to see why),
write files that predict elsewhere (`export=onnx`), or list photos to look at, such as those with wrong labels
(`suspects=true`). `python evaluate.py --help` lists the settings. Each run writes to its own directory under
`outputs/evaluate/`.
"""

from __future__ import annotations

import os
import signal

if __name__ == "__main__":  # no traceback while the imports below take their seconds
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda signum, frame: os._exit(128 + signum))

import logging
import tempfile
import time
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from tqdm.contrib.logging import logging_redirect_tqdm

from dogscats.base.environment import use_utf8
from dogscats.base.errors import hydra_errors_exit, user_errors_exit
from dogscats.base.signals import interruptible
from dogscats.base.text import listed
from dogscats.predict.export.exporters import export_help
from dogscats.predict.tasks import Job, chosen_task
from dogscats.runs.command_line import helpful_command_line

log = logging.getLogger(__name__)

OmegaConf.register_new_resolver("export_help", export_help, replace=True)


def evaluate(cfg: DictConfig) -> None:
    """Do the task that was configured, and list the files written."""
    task = chosen_task(cfg)
    # These import torch, which takes seconds: after --help and wrong settings have been dealt with.
    from dogscats.base.console import peak_rss_mb, set_progress
    from dogscats.predict.predictor import Predictor
    from dogscats.reliability.kept import thresholds_text
    from dogscats.report.run_files import log_written
    from dogscats.runs.compose import build_callbacks, use_own_modules
    from dogscats.runs.directory import plain_config, settings_saved
    from dogscats.runs.ranks import distributed
    from dogscats.runs.trainer import nondeterminism_named, trainer_factory
    from dogscats.runs.trainer_settings import check_trainer

    started = time.perf_counter()
    use_own_modules()
    settings: dict[str, Any] = OmegaConf.to_container(cfg.trainer, resolve=True)  # type: ignore[assignment]
    check_trainer(settings, training=False)
    set_progress(settings.get("enable_progress_bar") is not False)
    callbacks = build_callbacks(cfg.callbacks, trains=False)
    task.check_callbacks(callbacks)
    if source := cfg.run or cfg.ckpt:
        predictor = Predictor.load(source, cfg.trust, cfg.keep)
    else:  # label=<folder> before the first training
        predictor = Predictor.untrained(plain_config(cfg)["model"], list(map(str, cfg.classes)), cfg.data.size)
    log.info("Model     %s, classes %s", source or "without training", listed(predictor.classes))
    with nondeterminism_named(), distributed(cfg.trainer) as fabric, tempfile.TemporaryDirectory() as scratch:
        fabric.launch()
        # Only rank 0 writes to the run directory.
        run_dir = Path(HydraConfig.get().runtime.output_dir if fabric.is_global_zero else scratch)
        make_trainer = trainer_factory(settings, run_dir, fabric.device)
        job = Job(cfg, predictor, run_dir, fabric, make_trainer, list(callbacks.values()), started)
        if cfg.keep is not None and predictor.reliability:
            version = predictor.reliability.version(job.n_aug > 0)
            log.info(
                "Keep      %g of the %s photos: a class needs a probability of %.6g, and `unlike` up to %.6g",
                *(cfg.keep, version.judged.kind, version.thresholds.unsure_below, version.thresholds.none_above),
            )
            log.info("Thresholds: %s", thresholds_text(version.summary(cfg.keep)))
        with settings_saved(cfg, run_dir):
            resolve_name(task.function)(job)
        log.info("\n%.1f s, %.0f MB of memory at the peak", time.perf_counter() - started, peak_rss_mb())
        log_written(run_dir)


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    """Evaluate as configured."""
    with user_errors_exit(), interruptible(), logging_redirect_tqdm():
        evaluate(cfg)


if __name__ == "__main__":
    use_utf8()
    with hydra_errors_exit(), helpful_command_line(), interruptible():
        main()
