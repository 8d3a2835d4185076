"""Evaluate a trained run, predict photos with it, export it, or search its photos for suspects.

Reads top to bottom: load the run, then evaluate labelled photos (the default), predict any photos
(`predict=<file, folder or glob>`, and `explain=true` to see why), write files that predict elsewhere (`export=onnx`),
or list photos to look at, such as those with wrong labels (`suspects=true`). `python evaluate.py --help` lists the
settings. Each run writes to its own directory under `outputs/evaluate/`.
"""

from __future__ import annotations

import os
import signal

if __name__ == "__main__":  # no traceback while the imports below take their seconds
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda signum, frame: os._exit(128 + signum))

import logging
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from tqdm.contrib.logging import logging_redirect_tqdm

from dogscats.export import FORMATS
from dogscats.runs.directory import checkpoint_of
from dogscats.runs.errors import UserError, hydra_errors_exit, user_errors_exit
from dogscats.runs.files import write_json
from dogscats.runs.rules import SHARE, or_none
from dogscats.runs.signals import interruptible
from dogscats.runs.text import listed, names_as_text, shown

# torch takes seconds to import. The functions below do so, after --help and wrong settings have been dealt with.
if TYPE_CHECKING:
    import torch
    from lightning_fabric import Fabric
    from pytorch_lightning import Callback, Trainer

    from dogscats.callbacks.tta import TTA
    from dogscats.metrics import Predictions
    from dogscats.predictor import Predictor

log = logging.getLogger(__name__)

STANDARD = {"tta", "reports.confusion_matrix", "reports.pictures", "reports.reliability"}
"""Callbacks of `conf/callbacks/evaluate.yaml`. Reports need labels, so that `predict=` has none."""

MOST_EXPLAINED = 100
"""Largest number of photos that `explain=true` draws."""


def evaluate(cfg: DictConfig) -> None:
    """Evaluate, predict or export as configured, and list the files written."""
    check_settings(cfg)
    from dogscats.callbacks.report import Report
    from dogscats.predictor import Predictor
    from dogscats.runs.compose import build_callbacks, use_own_modules
    from dogscats.runs.console import device_name, log_written, peak_rss_mb, set_progress
    from dogscats.runs.determinism import nondeterminism_named
    from dogscats.runs.ranks import distributed
    from dogscats.runs.trainer import check_trainer, trainer_factory

    started = time.perf_counter()
    use_own_modules()
    settings: dict[str, Any] = OmegaConf.to_container(cfg.trainer, resolve=True)  # type: ignore[assignment]
    check_trainer(settings, training=False)
    set_progress(settings.get("enable_progress_bar") is not False)
    callbacks = build_callbacks(cfg.callbacks, trains=False)
    for key, callback in callbacks.items():
        unused = cfg.export is not None or cfg.suspects or (cfg.predict is not None and isinstance(callback, Report))
        if unused and key.removeprefix("callbacks.") not in STANDARD:
            raise UserError(f"{key}: this has no effect with predict=, export= or suspects=. Remove it.")
    predictor = Predictor.load(cfg.run or cfg.ckpt, cfg.trust, cfg.keep)
    log.info("Model     %s, classes %s", cfg.run or cfg.ckpt, listed(predictor.classes))
    if cfg.keep is not None and predictor.reliability:
        thresholds = predictor.reliability.version(n_aug(list(callbacks.values())) > 0).thresholds
        log.info(
            "Keep      %g of the validation photos: a class needs a probability of %.4f, and `unlike` up to %.4f",
            *(cfg.keep, thresholds.unsure_below, thresholds.none_above),
        )
    with nondeterminism_named(), distributed(cfg.trainer) as fabric, tempfile.TemporaryDirectory() as scratch:
        fabric.launch()
        # Only rank 0 writes to the run directory.
        run_dir = Path(HydraConfig.get().runtime.output_dir if fabric.is_global_zero else scratch)
        OmegaConf.save(cfg, run_dir / "config.yaml", resolve=True)
        make_trainer = trainer_factory(settings, run_dir, fabric.device)
        if cfg.export is None:
            log.info("Device    %s, %s", device_name(fabric.device, fabric.world_size), make_trainer().precision)
        if cfg.predict is not None:
            predictions = predict_photos(cfg, predictor, run_dir, make_trainer, list(callbacks.values()))
            if cfg.explain and fabric.is_global_zero:
                explain_photos(predictor, predictions, run_dir, fabric.device)
        if cfg.export is not None:
            export(cfg, predictor, run_dir)
        if cfg.suspects:
            search(cfg, predictor, run_dir, fabric)
        if cfg.predict is None and cfg.export is None and not cfg.suspects:
            report(cfg, predictor, run_dir, make_trainer, list(callbacks.values()), started)
        log.info("\n%.1f s, %.0f MB of memory at the peak", time.perf_counter() - started, peak_rss_mb())
        log_written(run_dir)


def check_settings(cfg: DictConfig) -> None:
    """Refuse settings that can only be wrong.

    Raises:
        UserError: with the key, the value and what is expected.
    """
    names_as_text(cfg)
    if (cfg.run is None) == (cfg.ckpt is None):
        raise UserError(
            "Give either run=<run directory>, for example run=outputs/<date>/<time>, or ckpt=<checkpoint>, "
            f"not {'neither' if cfg.run is None else 'both'}."
        )
    if not isinstance(cfg.suspects, bool):
        raise UserError(f"suspects={cfg.suspects}: expected true or false.")
    if (cfg.predict is not None) + (cfg.export is not None) + cfg.suspects > 1:
        raise UserError("predict=, export= and suspects= are separate runs: give one of them.")
    good, expected = or_none(SHARE)
    if not good(cfg.keep):
        raise UserError(f"keep={cfg.keep}: expected {expected}.")
    if cfg.keep is not None and cfg.suspects:
        raise UserError("keep=: this has no effect with suspects=true. Remove it.")
    if not isinstance(cfg.explain, bool):
        raise UserError(f"explain={cfg.explain}: expected true or false.")
    if cfg.explain and cfg.predict is None:
        raise UserError(
            "explain=true: this needs predict=<file, folder or glob>. An evaluation explains its worst photos already, "
            "in most_wrong.png and most_uncertain.png."
        )
    if cfg.predict == "":
        raise UserError("predict=: expected a file, a folder or a glob.")
    if cfg.split == "":
        raise UserError("split=: expected the name of a folder in data.root, such as valid.")
    if cfg.split is None and not cfg.suspects:
        cfg.split = "valid"
    if cfg.export not in (None, *FORMATS):
        raise UserError(f"export={cfg.export}: expected {' or '.join(FORMATS)}.")
    checkpoint_of(cfg.run or cfg.ckpt)


def report(
    cfg: DictConfig,
    predictor: Predictor,
    run_dir: Path,
    make_trainer: Callable[..., Trainer],
    callbacks: Sequence[Callback],
    started: float,
) -> None:
    """Predict labelled photos and write metrics, plots and pictures."""
    from dogscats.callbacks.tta import predict, tta_loaders
    from dogscats.data.check import write_bad_images
    from dogscats.data.split import split_of
    from dogscats.metrics import evaluation_metrics
    from dogscats.runs.console import log_confusion_matrix, peak_rss_mb
    from dogscats.runs.evaluation import log_evaluation
    from dogscats.runs.report import write_confused_pairs

    data = predictor.data(cfg.data.root, cfg.data.batch_size, cfg.data.num_workers, **files_given(cfg))
    photos = data.labelled(cfg.split, predictor.classes)
    log.info("Data      %s: %d photos of %s", shown(data.root), len(photos.paths), cfg.split)
    if cfg.data.root is None and (cfg.split == "." or split_of(cfg.split) == "train"):
        log.warning("The network was trained on photos of %s, so that their metrics are too good", cfg.split)
    if data.decided:
        log.info("Decisions %s", data.decided)
    if data.held_out:
        share, rest = (
            (data.valid_fraction, "train") if split_of(cfg.split) == "valid" else (1 - data.valid_fraction, "valid")
        )
        log.info("These are %g %% of the photos in %s; split=%s has the others", 100 * share, data.held_out, rest)
        if data.held_out.endswith("<class>/"):
            log.info("To evaluate all of them: split=.")
    if data.bad:
        log.warning("%d unreadable photos skipped; see bad_images.csv", len(data.bad))
        write_bad_images(run_dir / "bad_images.csv", data.bad)

    loaders = tta_loaders(data, photos, n_aug(callbacks))
    metrics: dict[str, Any] = {"classes": predictor.classes}

    def write(tta: TTA) -> None:
        reliability = predictor.reliability
        best = reliability.decided(tta.best, bool(tta.averaged)) if reliability else tta.best
        best.write(run_dir / "predictions.csv")
        metrics.update(evaluation_metrics(tta.plain))
        if tta.averaged:
            metrics["tta"] = evaluation_metrics(tta.averaged)
        if reliability:
            metrics["reliability"] = reliability.metrics(tta.best, bool(tta.averaged))
        metrics["seconds"] = round(time.perf_counter() - started, 3)
        metrics["peak_rss_mb"] = round(peak_rss_mb(), 1)
        write_json(run_dir / "metrics.json", metrics)
        write_confused_pairs(run_dir, tta.best)

    tta = predict(predictor.model, loaders, make_trainer, callbacks, write=write)
    log_evaluation(metrics, cfg.split)
    log_confusion_matrix(tta.best)


def search(cfg: DictConfig, predictor: Predictor, run_dir: Path, fabric: Fabric) -> None:
    """Search labelled photos for suspects; write `suspects.csv` and `suspects.html`, a page to decide about them."""
    import torch

    from dogscats.activations import Activations
    from dogscats.data.check import write_bad_images
    from dogscats.predictor import Predictor
    from dogscats.runs.environment import command_of
    from dogscats.suspects.checkpoint import frozen_checkpoint
    from dogscats.suspects.report import report_suspects, show_in_run
    from dogscats.suspects.search import find_suspects, joined

    if cfg.run is not None:
        frozen = frozen_checkpoint(Path(cfg.run).expanduser(), cfg.trust)
        if frozen is None:
            log.warning("The network was trained on these labels from the start, and may repeat wrong ones.")
        else:
            predictor = Predictor.load(frozen, cfg.trust)
    own = {"cache_dir": predictor.trained_on.get("cache_dir")} if cfg.data.root is None else {}
    data = predictor.data(cfg.data.root, cfg.data.batch_size, cfg.data.num_workers, **files_given(cfg), **own)
    photos, bad = {}, dict[str, str]()
    for split in ("train", "valid") if cfg.split is None else (cfg.split,):
        photos[split] = data.labelled(split, predictor.classes)
        bad |= data.bad
        log.info("Data      %s: %d photos of %s", shown(data.root), len(photos[split].paths), split)
        if data.decided:
            log.info("Decisions %s", data.decided)
    if bad:
        log.warning("%d unreadable photos skipped; see bad_images.csv", len(bad))
        write_bad_images(run_dir / "bad_images.csv", bad)
    activations = Activations(predictor.model, data, fabric, data.cache_dir)
    features = [activations.features(part, f"activations of {split}") for split, part in photos.items()]
    if fabric.is_global_zero:
        labelled = joined(photos, predictor.classes)
        suspects = find_suspects(labelled, torch.cat(features), predictor.size)
        decisions = data.decisions.rows if data.decisions else ()
        report_suspects(suspects, labelled, run_dir, decisions, cfg.run and command_of(Path(cfg.run).expanduser()))
        if cfg.run is not None and cfg.data.root is None:
            show_in_run(Path(cfg.run).expanduser(), run_dir)


def files_given(cfg: DictConfig) -> dict[str, Any]:
    """Return the table of labels and the file of decisions that were given, as arguments of the data module."""
    given = {key: cfg.data[key] for key in ("labels", "decisions") if cfg.data[key] is not None}
    return given | ({"decisions": None} if given.get("decisions") == "none" else {})


def n_aug(callbacks: Sequence[Callback]) -> int:
    """Number of augmented versions per photo, as set by the callback `TTA`."""
    from dogscats.callbacks.tta import TTA

    return next((callback.n_aug for callback in callbacks if isinstance(callback, TTA)), 0)


def predict_photos(
    cfg: DictConfig,
    predictor: Predictor,
    run_dir: Path,
    make_trainer: Callable[..., Trainer],
    callbacks: Sequence[Callback],
) -> Predictions:
    """Predict photos, write `predictions.csv` and, where it applies, `submission.csv`."""
    from dogscats.callbacks.report import Report
    from dogscats.callbacks.tta import TTA
    from dogscats.runs.predictions import find_photos, log_predictions, write_submission

    paths, versions = find_photos(str(cfg.predict)), n_aug(callbacks)
    others = [callback for callback in callbacks if not isinstance(callback, TTA | Report)]
    log.info("\nPredicting %d photos, %d versions of each", len(paths), 1 + versions)
    predictions, unreadable = predictor.predict(
        paths, versions, cfg.data.batch_size, cfg.data.num_workers, make_trainer, others
    )
    predictions.write(run_dir / "predictions.csv")
    submitted = write_submission(predictions, run_dir / "submission.csv")
    log_predictions(predictions, unreadable, submitted)
    if not predictions.paths:
        raise UserError(f"predict={cfg.predict}: none of the photos can be read.")
    return predictions


def explain_photos(predictor: Predictor, predictions: Predictions, run_dir: Path, device: torch.device) -> None:
    """Draw where in each photo its predicted class was seen, to `explained/`; of very many photos, the first ones."""
    from dogscats.plots.explanation import draw_explanation
    from dogscats.plots.publish import publish
    from dogscats.runs.console import progress_bar

    some, total = predictions.first(MOST_EXPLAINED), len(predictions.paths)
    if total > MOST_EXPLAINED:
        log.info("\nExplaining the first %d of %d photos; for others: predict=<file or glob>", MOST_EXPLAINED, total)
    probabilities = some.probabilities.max(dim=1).values.tolist()
    drawn = zip(some.paths, some.predicted_classes, probabilities, predictor.explain(some, device), strict=True)
    for number, (path, name, probability, explanation) in enumerate(
        progress_bar(drawn, "Explaining", len(some.paths), "photo"), start=1
    ):
        file = f"{number:0{len(str(MOST_EXPLAINED))}}_{file_name(path)}.jpg"
        publish(draw_explanation(explanation, path, name, probability), run_dir / "explained" / file)


def file_name(path: str) -> str:
    """Return the name of a photo without its ending, as part of the name of another file on any system."""
    return re.sub(r"[^\w.-]+", "_", Path(path).stem)[:40]  # with characters of 4 bytes, below the 255 of file systems


def export(cfg: DictConfig, predictor: Predictor, run_dir: Path) -> None:
    """Write the files of `export=` and compare them with PyTorch, on photos of the split if available."""
    from dogscats.data.dataset import PhotoDataset
    from dogscats.export.files import export_files

    root, dataset = cfg.data.root or predictor.trained_on.get("root"), None
    what = f"random photos, as there is no folder data.root={root}"
    if root is not None and Path(root).expanduser().is_dir():
        data = predictor.data(root, cfg.data.batch_size, **files_given(cfg))
        dataset = PhotoDataset(data.labelled(cfg.split, predictor.classes), data.evaluation, data.seed)
        what = f"photos of {cfg.split}"
    log.info("(checked on %d %s)", export_files(cfg.export, predictor, run_dir, dataset), what)


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    """Evaluate as configured."""
    with user_errors_exit(), interruptible(), logging_redirect_tqdm():
        evaluate(cfg)


if __name__ == "__main__":
    with hydra_errors_exit(), interruptible():
        main()
