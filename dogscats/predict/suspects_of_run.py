"""The task `suspects=true`: search the labelled photos of a run for suspects, by its own network."""

import logging
from dataclasses import replace
from pathlib import Path

import torch

from dogscats.base.environment import command, command_of
from dogscats.base.errors import optional
from dogscats.base.text import counted, shown, text_table
from dogscats.base.trust import load_config
from dogscats.lesson.activations import Activations
from dogscats.lesson.stage import make_stages
from dogscats.predict.predictor import Predictor
from dogscats.predict.tasks import Job
from dogscats.report import page as run_page
from dogscats.suspects.search import LIKELY_SCORE, by_kind, find_suspects, joined, write_suspects
from dogscats.suspects.suspects_page import write_page

log = logging.getLogger(__name__)


def search_run(job: Job) -> None:
    """Search labelled photos; write `suspects.csv` and `suspects.html`, and show the worst on the page of the run."""
    job.log_device()
    cfg, run = job.cfg, None if job.cfg.run is None else Path(job.cfg.run).expanduser()
    if run is not None:
        frozen = frozen_checkpoint(run, cfg.trust)
        if frozen is None:
            log.warning("The network was trained on these labels from the start, and may repeat wrong ones.")
        else:
            job = replace(job, predictor=Predictor.load(frozen, cfg.trust))
    predictor = job.predictor
    data = job.data()
    photos, bad = {}, dict[str, str]()
    for split in (cfg.split,) if cfg.split else ("train", "valid") if data.has_valid else ("train",):
        photos[split] = job.labelled(data, split)
        bad |= data.bad
    job.write_bad_images(bad)
    activations = Activations(predictor.model, data, job.fabric, data.cache_dir)
    features = [activations.features(part, f"activations of {split}") for split, part in photos.items()]
    if not job.fabric.is_global_zero:
        return
    labelled = joined(photos, predictor.classes)
    suspects = find_suspects(labelled, torch.cat(features), predictor.size)
    write_suspects(job.run_dir / "suspects.csv", suspects)
    page, decisions = job.run_dir / "suspects.html", data.decisions.rows if data.decisions else ()
    write_page(page, f"Suspects of {labelled.root}", labelled.root, suspects, labelled.classes, decisions)
    rows = [[f"suspects among {counted(len(labelled.paths), 'photo')}", "likely", "listed"]]
    for kind, found in by_kind(suspects).items():
        rows.append([kind, str(sum(suspect.score > LIKELY_SCORE for suspect in found)), str(len(found))])
    log.info("\n%s", "\n".join(text_table(rows, left=1)))
    log.info("\nOpen %s in a browser, decide, and save decisions.csv. Then:", shown(page))
    trained_by = command_of(run) if run else None
    log.info("%s data.decisions=<file>", shown(trained_by or command("train")))
    if run is not None and cfg.data.root is None and (run / run_page.FILE).is_file():
        with optional(run_page.FILE, "updated"):
            log.info("%s also lists the worst", shown(run_page.write_page(run, job.run_dir)))


def frozen_checkpoint(run: Path, trust: bool = False) -> Path | None:
    """Return a checkpoint of a run from before its body was trained: a trained one knows wrong labels by heart.

    Args:
        run: run directory.
        trust: allow code from outside dogscats that its config names.

    Returns:
        The checkpoint; `None` if the first one that was saved has a trained body.
    """
    checkpoints = run / "checkpoints"
    saved = None
    for stage in make_stages(load_config(run / "config.yaml", trust)["recipe"]):
        if stage.trains_body:
            return saved
        if stage.save and (file := checkpoints / f"{stage.save}.ckpt").is_file():
            saved = file
    return saved or checkpoints / "last.ckpt"
