"""The start of a run: its directory and lock, the list of photos, the checkpoint and the ranks."""

import ctypes
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from dogscats.base import environment
from dogscats.base.console import device_name, quiet_libraries, set_progress
from dogscats.base.errors import UserError, is_mistake, optional
from dogscats.base.files import remove_unfinished
from dogscats.base.locks import locked
from dogscats.base.signals import stop_if_interrupted
from dogscats.base.text import counted, listed
from dogscats.data.loading.cached_array import all_ranks
from dogscats.data.loading.datamodule import DogsCatsDataModule
from dogscats.data.loading.photo_check import write_bad_images
from dogscats.data.photos import run_photos
from dogscats.data.photos.run_photos import keep_decisions, with_own_decisions
from dogscats.lesson.activations import Activations
from dogscats.lesson.classifier import Classifier
from dogscats.report.facts import model_name
from dogscats.report.figures.drawing import publish
from dogscats.report.figures.photo_figures import augmentation
from dogscats.runs.checkpoint import body_trained_by, load_classifier
from dogscats.runs.compose import OPTIONAL_DATA, accepted, accepted_model, use_own_modules
from dogscats.runs.directory import plain_config, save_config, save_hydra_config
from dogscats.runs.ranks import distributed
from dogscats.runs.run import Run, read_progress
from dogscats.runs.settings import Settings
from dogscats.runs.trainer import cpu_computes_bf16, nondeterminism_named
from dogscats.runs.trainer_settings import check_trainer

log = logging.getLogger(__name__)

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Constants from glibc's malloc.h."""

FEW_PHOTOS = 5000
"""With fewer training photos, the default recipe points to others."""

WRITTEN_BEFORE_STAGES = (
    *("config.yaml", ".hydra", ".lock", "photos.csv", "decisions.csv", "environment.json", "bad_images.csv"),
    *("auto.csv", "augmentation.png"),
)
"""What a run writes into its directory before its first stage."""

NOT_SAVED = ("url", "sha256", "changed", "resident")
"""Settings of the data that a checkpoint does not need."""


@contextmanager
def open_run(checked: Settings) -> Iterator[Run]:
    """Start a new run, or resume the one named by `resume`.

    Only rank 0 writes to the run directory; the other ranks write to a temporary folder.

    Args:
        checked: settings of the run.

    Raises:
        UserError: for a bad config, before any computation; or if another process works on the run.
    """
    started = time.perf_counter()
    stop_if_interrupted()  # during the imports
    quiet_libraries()
    use_own_modules()
    keep_freed_memory()
    cfg, run_dir, stages, resumed = checked.cfg, checked.run_dir, checked.stages, checked.resumed
    data = checked.values["data"]
    unset = [key for key, value in OPTIONAL_DATA.items() if data.get(key) == value]
    if resumed:
        data = with_own_decisions(data, run_dir)
    settings = checked.values | {
        "model": accepted_model(checked.values["model"]),
        "data": accepted(data, "data", ("changed", *unset)),
    }
    accepted(checked.values["augment"], "augment", ())
    check_trainer(settings.get("trainer") or {})
    set_progress(settings["trainer"].get("enable_progress_bar") is not False)
    before = {path.name for path in run_dir.iterdir()} if run_dir.is_dir() else set()
    with distributed(cfg.trainer) as fabric, tempfile.TemporaryDirectory() as scratch, ExitStack() as lock:
        if fabric.is_global_zero:
            # Workers of a process that was killed may hold the lock for a few seconds more.
            lock.enter_context(locked(run_dir / ".lock", str(run_dir), timeout=10))
        progress = read_progress(run_dir, stages, cfg.final) if resumed else None
        out = run_dir if fabric.is_global_zero else Path(scratch)
        run = Run(cfg, settings, stages, fabric, out, progress, started)
        if resumed:
            log.info("Resuming  %s", run_dir)
        if fabric.is_global_zero and not resumed:
            save_config(cfg, run_dir)
        try:
            with nondeterminism_named():
                yield run
        except Exception as error:
            if fabric.is_global_zero and is_mistake(error) and not resumed and not (out / "metrics.json").exists():
                leave_free(out, before)
            raise


def leave_free(run_dir: Path, before: Collection[str]) -> None:
    """Remove what a refused run has written into its directory, which the corrected command may use.

    Args:
        run_dir: run directory.
        before: names of what was there before.
    """
    for path in (run_dir / name for name in WRITTEN_BEFORE_STAGES if name not in before):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    log_file = f"{HydraConfig.get().job.name}.log"  # of a sweep's job, or of a stage that has begun, it stays
    if HydraConfig.get().mode is RunMode.RUN and {path.name for path in run_dir.iterdir()} - {*before} == {log_file}:
        (run_dir / log_file).unlink()


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next feature maps.

    By default it returns every block above 32 MB to the system, which then zeroes new blocks page by page: about a
    seventh of a frozen epoch's time on a CPU. Peak memory grows by up to an eighth. No effect with other C libraries.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def keep_photos(run: Run, data: DogsCatsDataModule) -> None:
    """Write the list of photos of a new run, and decisions about them, and log what was found.

    Raises:
        UserError: if a run is resumed with other photos, or needs leave-one-out where it is not valid.
    """
    check_left_out(run, data)
    accept = data.changed == "accept"
    labelled = {split: (photos, data.classes) for split, photos in data.splits.items()}
    strangers = {"strangers": (data.strangers.photos, data.strangers.kinds)} if data.strangers else {}
    run_photos.keep_photos(run.out, data.root, labelled | strangers, run.resumed, accept)
    given = run.cfg.data.get("decisions")
    keep_decisions(data.decisions, run.out, given, run.resumed)
    log.info("Data      %s: %s; layout: %s", data.root, data.summary, data.layout)
    if data.decided:
        log.info("Decisions %s", data.decided)
    if data.strangers:
        photos, kinds = counted(len(data.strangers.photos.paths), "photo"), listed(data.strangers.kinds, 5)
        log.info("Strangers %s of no class: %s", photos, kinds)
    if data.test:
        log.info("Test      %s, predicted once after the last stage", counted(len(data.test.paths), "labelled photo"))
    if data.left_out:
        log.warning("Warning   %s", data.left_out)
    if run.has_default_recipe and len(data.train.paths) < FEW_PHOTOS:
        log.info("For so few photos recipe=small and recipe=adapt are often better: docs/explanation/which-recipe.md")


def check_left_out(run: Run, data: DogsCatsDataModule) -> None:
    """Refuse to train without validation photos, or to choose by leave-one-out, where that is not valid.

    Raises:
        UserError: with what to do.
    """
    metric, first = str(run.cfg.optimized_metric), run.stages[0]
    if run.resumed or (data.valid.paths and not metric.startswith("final.loo_")):
        return
    key = f"optimized_metric={metric}" if data.valid.paths else "data.valid_fraction=0"
    if not data.valid.paths and not first.is_closed_form:
        raise UserError(
            f"{key}: stage {first.name} needs validation photos. Hold some out, data.valid_fraction=0.2, or choose "
            "recipe=small, whose kernel head is judged by leave-one-out."
        )
    if metric.startswith("stages.") and ".valid_" in metric:
        raise UserError(f"optimized_metric={metric}: there are no validation photos. Choose by final.loo_acc.")
    if trained_by := body_trained_by(run.stages, run.cfg.load):
        raise UserError(
            f"{key}: leave-one-out is not valid, as the body was trained by {trained_by}, perhaps on these photos. "
            "Hold some out, data.valid_fraction=0.2, and choose by final.valid_acc."
        )


def launch(run: Run, data: DogsCatsDataModule, model: Classifier) -> Activations:
    """Load the checkpoint, start the other ranks, and draw the augmentation figure.

    Called late, so that config errors are reported before any rank waits for another.

    Returns:
        The activations of the run, which are computed when they are needed.
    """
    for folder in (run.out, run.out / "checkpoints"):
        remove_unfinished(folder)
    if data.bad:
        write_bad_images(run.out / "bad_images.csv", data.bad)
    saved = {
        key: value
        for key, value in plain_config(run.cfg)["data"].items()
        if key in run.settings["data"] and key not in NOT_SAVED
    }
    run.description = {
        "model": run.settings["model"],
        "classes": model.classes,
        "size": data.size,
        "augment": run.settings["augment"],
        "data": with_own_decisions(saved, run.out.absolute()),
        "seed": run.cfg.seed,
    }
    name, features = model_name(run.settings["model"]), counted(model.body.num_features, "pooled feature")
    heads = "a kernel head" if run.stages[-1].is_closed_form else counted(len(model.heads), "head")
    log.info("Model     %s, %s, %s", name, features, heads)
    if run.checkpoint:
        log.info("Weights   %s", run.checkpoint)
        following = (run.stages_left or run.stages[-1:])[0]
        loaded: Literal["given", "saved", "none"] = "given"
        if following.is_closed_form:
            loaded = "none" if run.stages_left else "saved"  # fitted by a stage to come, or by the last one
        load_classifier(run.checkpoint, model, run.description, run.cfg.trust, loaded)
    run.fabric.launch()
    with all_ranks() as ranks:  # disks and memory may differ
        if not all(ranks.each(lambda: data.resident is not None)):
            data.resident = None
    if run.fabric.is_global_zero and not run.resumed:
        save_hydra_config(run.cfg, run.out)
    run.dir = run.fabric.broadcast(run.out)
    _log_device(run)
    run.report.metrics |= {"classes": model.classes, "cut_off": _cut_off(run, data)}
    if run.progress.metrics:
        run.report.resume(run.progress.metrics, run.progress.stages)
    # Saved now, to be looked at while the run trains; loggers get it at the end.
    run.figures["augmentation"] = augmentation(data.train_dataset("augmentation", augment=True))
    with optional("augmentation"):
        publish(run.figures["augmentation"], run.out / "augmentation.png")
    return Activations(model, data, run.fabric, run.cfg.activations.dir, run.cfg.activations.views)


def _cut_off(run: Run, data: DogsCatsDataModule) -> float:
    """Return the share of the photos that lose much of their long side to the square crop, if `data.fit` crops."""
    lost = set(data.elongated) if run.settings["data"].get("fit", "crop") == "crop" else set()
    paths = [path for photos in data.splits.values() for path in photos.paths]
    return sum(path in lost for path in paths) / len(paths)


def _log_device(run: Run) -> None:
    """Log and record the device and precision."""
    device = device_name(run.fabric.device, run.fabric.world_size)
    log.info("Device    %s, %s", device, run.precision)
    if run.fabric.is_global_zero:
        with optional(environment.FILE, "written"):
            environment.record_start(run.out, device, run.precision)
    default = run.settings["trainer"].get("precision") is None and run.precision == "32-true"
    if default and run.fabric.device.type == "cpu" and cpu_computes_bf16():
        log.info(
            "This CPU computes bf16 in hardware: trainer.precision=bf16-mixed may be faster (ResNet34 twice as "
            "fast, but EfficientNet-Lite slower)"
        )
    if run.is_trial:
        log.info("Trial run (fast_dev_run): a few batches of each part; its metrics mean nothing")
