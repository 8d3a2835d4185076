"""Evaluate a trained run, predict photos with it, or export it.

Reads top to bottom: load what the run saved, then look at labelled photos (the default), or at any photos
with `predict=<file, folder or glob>`, or write `model.onnx` with `export=onnx`. `python evaluate.py --help`
lists the settings; every run writes a directory of its own below `outputs/evaluate/`.
"""

import glob
import json
import logging
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from tqdm.contrib.logging import logging_redirect_tqdm

from dogscats.atomic import atomic_path
from dogscats.callbacks.progress import Progress
from dogscats.callbacks.tta import TTA, tta_loaders
from dogscats.check import write_bad_images
from dogscats.data import PhotoDataset
from dogscats.distributed import distributed
from dogscats.errors import UserError, user_errors_exit
from dogscats.images import EXTENSIONS, list_images, natural_key
from dogscats.metrics import evaluation_metrics
from dogscats.predictions import Predictions, write_csv
from dogscats.predictor import Predictor
from dogscats.report import log_confusion_matrix, log_written, peak_rss_mb

log = logging.getLogger(__name__)

CHECKED_PHOTOS = 64
"""Photos on which an exported file is compared with PyTorch."""


def evaluate(cfg: DictConfig) -> None:
    """Do what the configuration asks for, and say what was written."""
    started = time.perf_counter()
    if (cfg.run is None) == (cfg.ckpt is None):
        raise UserError(
            "Give either run=<run directory>, for example run=outputs/<date>/<time>, or ckpt=<checkpoint>, "
            f"not {'neither' if cfg.run is None else 'both'}."
        )
    if cfg.export not in (None, "onnx"):
        raise UserError(f"export={cfg.export}: the only format is onnx.")
    if type(cfg.callbacks.tta.n_aug) is not int or cfg.callbacks.tta.n_aug < 0:
        raise UserError(f"callbacks.tta.n_aug={cfg.callbacks.tta.n_aug}: expected a whole number, 0 or more.")
    predictor = Predictor.load(cfg.run or cfg.ckpt)
    log.info("Model     %s, classes %s", cfg.run or cfg.ckpt, ", ".join(predictor.classes))
    with distributed(cfg.trainer) as fabric, tempfile.TemporaryDirectory() as scratch:
        fabric.launch()
        # Of several processes the first writes the run directory.
        run_dir = Path(HydraConfig.get().runtime.output_dir if fabric.is_global_zero else scratch)
        OmegaConf.save(cfg, run_dir / "config.yaml", resolve=True)
        if cfg.predict is not None:
            predict(cfg, predictor, run_dir)
        if cfg.export is not None:
            export(cfg, predictor, run_dir)
        if cfg.predict is None and cfg.export is None:
            report(cfg, predictor, run_dir, started)
        log.info("\n%.1f s, %.0f MB of memory at the peak", time.perf_counter() - started, peak_rss_mb())
        log_written(run_dir)


def report(cfg: DictConfig, predictor: Predictor, run_dir: Path, started: float) -> None:
    """Predict labelled photos, and write the figures, plots and pictures."""
    data = predictor.data(cfg.data.root, cfg.data.batch_size, cfg.data.num_workers)
    photos, n_aug = data.labelled(cfg.split, predictor.classes), cfg.callbacks.tta.n_aug
    log.info("Data      %s: %d photos of %s", data.root, len(photos.paths), cfg.split)
    if data.bad:
        log.warning("%d photos cannot be read and are left out; see bad_images.csv", len(data.bad))
        write_bad_images(run_dir / "bad_images.csv", data.bad)

    tta = TTA(photos, predictor.classes)
    reports = [instantiate(report, tta, run_dir) for report in (cfg.callbacks.reports or {}).values()]
    trainer = instantiate(
        cfg.trainer,
        default_root_dir=run_dir,
        logger=False,
        enable_checkpointing=False,
        callbacks=[Progress(), tta, *reports],
    )
    trainer.predict(predictor.model, tta_loaders(data, photos, n_aug), return_predictions=False)

    tta.best.write(run_dir / "predictions.csv")
    metrics: dict[str, Any] = {"classes": predictor.classes, **evaluation_metrics(tta.plain)}
    if tta.averaged:
        metrics["tta"] = evaluation_metrics(tta.averaged)
    metrics["seconds"] = round(time.perf_counter() - started, 3)
    metrics["peak_rss_mb"] = round(peak_rss_mb(), 1)
    with atomic_path(run_dir / "metrics.json") as temporary:
        temporary.write_text(json.dumps(metrics, indent=2) + "\n")
    summarise(metrics, cfg.split)


def summarise(metrics: dict[str, Any], split: str) -> None:
    """Print the figures without and with test-time augmentation, by class, and the confusion matrix."""
    title = f"{metrics['n']} photos of {split}"
    log.info("\n%-24s accuracy  95 %% interval    log loss  clipped   ROC AUC   ECE", title)
    rows = {"centre crop": metrics, "test-time augmentation": metrics.get("tta")}
    for name, row in rows.items():
        if row:
            low, high = row["accuracy_ci95"]
            figures = (row["log_loss"], row["log_loss_clipped"], row["roc_auc"] or float("nan"), row["ece"])
            log.info(
                f"%-24s {row['accuracy']:.4f}    {low:.4f} - {high:.4f}  " + "  %.5f" * 4, name, *figures
            )
    best = metrics.get("tta", metrics)
    width = max(map(len, [*metrics["classes"], "class"])) + 2
    log.info("\n%-*s photos  precision  recall", width, "class")
    for name, row in best["per_class"].items():
        precision, recall = ("-" if x is None else f"{x:.4f}" for x in (row["precision"], row["recall"]))
        log.info("%-*s %6d %10s %7s", width, name, row["photos"], precision, recall)
    log_confusion_matrix(metrics["classes"], best["confusion_matrix"])


def predict(cfg: DictConfig, predictor: Predictor, run_dir: Path) -> None:
    """Predict the photos of a file, folder or glob; write `predictions.csv` and perhaps `submission.csv`."""
    paths = find_photos(str(cfg.predict))
    log.info("\nPredicting %d photos, %d versions of each", len(paths), 1 + cfg.callbacks.tta.n_aug)
    predictions, unreadable = predictor.predict(
        paths,
        cfg.callbacks.tta.n_aug,
        cfg.data.batch_size,
        cfg.data.num_workers,
        partial(instantiate, cfg.trainer, default_root_dir=run_dir),
    )
    predictions.write(run_dir / "predictions.csv")
    submitted = write_submission(predictions, run_dir / "submission.csv")

    for name in predictor.classes:
        log.info("%6d %s", predictions.predicted_classes.count(name), name)
    if len(predictions.paths) == 1:
        for name, probability in zip(predictor.classes, predictions.probabilities[0].tolist(), strict=True):
            log.info("%.4f probability of %s", probability, name)
    if unreadable:
        log.warning("%6d cannot be read%s:", len(unreadable), " (not in submission.csv)" if submitted else "")
        for path, reason in unreadable.items():
            log.warning("  %s: %s", path, reason)
    if not predictions.paths:
        raise UserError(f"predict={cfg.predict}: none of the photos can be read.")


def find_photos(pattern: str) -> list[Path]:
    """List the photos that a file, a folder or a glob names, in natural order.

    Raises:
        UserError: if there are none.
    """
    path = Path(pattern).expanduser()
    if path.is_dir():
        found = list_images(path)
    elif path.is_file():
        found = [path]
    else:
        matched = (Path(match) for match in glob.glob(str(path), recursive=True))  # noqa: PTH207  # also absolute
        found = sorted(
            (p for p in matched if p.is_file() and p.suffix.lower() in EXTENSIONS), key=natural_key
        )
    if not found:
        raise UserError(
            f"predict={pattern}: there are no photos. Give a file, a folder, or a glob in quotes such as "
            "'predict=photos/*.jpg'."
        )
    return found


def write_submission(predictions: Predictions, path: Path) -> bool:
    """Write Kaggle's `id,label`, the number of each photo and the probability of the second of two classes.

    Returns:
        Whether it was written: the files must be numbered, each number once.
    """
    numbers = [Path(name).stem for name in predictions.paths]
    numbered = all(number.isdecimal() for number in numbers) and len(set(numbers)) == len(numbers) > 0
    if len(predictions.classes) != 2 or not numbered:
        return False
    labels = [f"{probability:.6g}" for probability in predictions.probabilities[:, 1].tolist()]
    write_csv(path, {"id": numbers, "label": labels})
    return True


def export(cfg: DictConfig, predictor: Predictor, run_dir: Path) -> None:
    """Write `model.onnx`, checked on photos of the split where they are at hand."""
    from dogscats.export import export_onnx

    root = cfg.data.root or predictor.trained_on.get("root")
    if root is not None and Path(root).expanduser().is_dir():
        data = predictor.data(root, cfg.data.batch_size)
        photos = data.labelled(cfg.split, predictor.classes)
        dataset = PhotoDataset(photos, data.evaluation, data.seed)
        chosen = range(0, len(dataset), -(-len(dataset) // CHECKED_PHOTOS))  # from all classes
        images, what = torch.stack([dataset[index, 0][0] for index in chosen]), f"photos of {cfg.split}"
    else:
        generator = torch.Generator().manual_seed(predictor.seed)
        shape = (CHECKED_PHOTOS, 3, predictor.size, predictor.size)
        images = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        what = f"random images, as there is no folder data.root={root}"
    difference = export_onnx(predictor.model, predictor.classes, run_dir / "model.onnx", images)
    log.info("\nmodel.onnx: its probabilities differ from PyTorch's by at most %.2g", difference)
    log.info("(checked on %d %s)", len(images), what)


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    """Evaluate as configured; a user's mistake ends it with one message and exit code 1."""
    with user_errors_exit(), logging_redirect_tqdm():
        evaluate(cfg)


if __name__ == "__main__":
    main()
