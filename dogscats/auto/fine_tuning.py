"""Fine-tuning in the search of `recipe=auto`: is it better than the kernel head on photos that neither has seen?

The best network is trained as by `recipe=adapt` on four fifths of the training photos. The kernel head of the search
has predicted the last fifth, too, each photo left out.
"""

import copy
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from pytorch_lightning import Callback, LightningModule, Trainer

from dogscats.auto.candidates import BATCH, Candidate, Plan, build_candidate, load_photos, process_seconds
from dogscats.auto.choice import Kernel, LeftOutTable
from dogscats.base.environment import CONF
from dogscats.base.errors import Failure, UserError, user_message
from dogscats.base.files import write_csv
from dogscats.base.rules import values_by_key
from dogscats.base.text import counted, percent, shown
from dogscats.data.loading.datamodule import DogsCatsDataModule
from dogscats.data.photos.decisions import COLUMNS, STRANGER
from dogscats.data.photos.run_photos import DECISIONS_FILE
from dogscats.data.photos.split import held_out_groups
from dogscats.lesson.activations import Activations
from dogscats.lesson.classifier import Classifier
from dogscats.lesson.metrics import loss_text, wilson_interval
from dogscats.lesson.stage import make_stages
from dogscats.lesson.tta import predict, tta_loaders
from dogscats.runs.compose import accepted_model
from dogscats.runs.directory import plain_config, replace_config
from dogscats.runs.run import Run, RunProgress, read_progress
from dogscats.runs.settings import set_models

log = logging.getLogger(__name__)

Train = Callable[[Run], tuple[Classifier, DogsCatsDataModule, Activations]]
"""Trains the stages of a run that are not finished: `train.train_stages`."""

FIFTH = 0.2

MIN_ERROR = 0.01
"""With a lower share of wrong answers, fine-tuning is not tried: a fifth of the photos could not show a difference."""

MIN_GROUPS = 50
"""Independent photos, or groups of near-duplicates, that the fifth must have."""

MARGIN = 1.15
"""Ratio of the seconds of a fit to those of its steps, photos and features; its heads and checkpoints take the rest."""

LONGER = 2
"""Ratio of the epochs to those of the recipe, if there is time: 10 instead of 5 lower the log loss of hands."""

FOLDER, TAKEN = ".auto", "taken"
"""Folder of a run directory in which the network is fine-tuned, and the file in it that says that it is to be taken."""


def fine_tuned(
    run: Run,
    plan: Plan,
    best: Candidate,
    data: DogsCatsDataModule,
    kernel: Kernel,
    deadline: float,
    train: Train,
) -> tuple[bool, dict[str, Any]]:
    """Fine-tune the best network if that may help and there is time; all ranks together.

    Args:
        run: the run.
        plan: times of the search.
        best: the best network.
        data: photos for images of its size.
        kernel: what the kernel heads say.
        deadline: seconds of the process at which it stops.
        train: trains a run.

    Returns:
        Whether it is better; and its row of `auto.csv`, empty if it was not tried.
    """
    started, row = time.perf_counter(), {"candidate": f"{best.name}, fine-tuned"}
    if kernel.error <= MIN_ERROR:
        log.info("\nNo fine-tuning: the kernel head is wrong on %s", percent(kernel.error, len(kernel.labels)))
        return False, {}
    try:
        fifth, dropped = _fifth(run, data, kernel.groups.tolist())
        fixed, epoch = run.fabric.broadcast(_seconds(run, plan, best, len(fifth)))
        left, epochs = run.fabric.broadcast(deadline - process_seconds()), int(_recipe().recipe.finetune.epochs)
        if fixed + epochs * LONGER * epoch <= left:
            epochs *= LONGER
        if (seconds := fixed + epochs * epoch) > left:
            raise UserError(f"it takes about {seconds:.0f} s, and there are {max(0, left):.0f} s")
        log.info("\nFine-tuning %s on four fifths, %d epochs, about %.0f s", best.name, epochs, seconds)
        tuned = _open(run, _config(run, best, data, epochs, bool(dropped)), data, dropped)
        make_trainer, watch = tuned.make_trainer, Deadline(deadline)
        tuned.make_trainer = lambda callbacks=(), **others: make_trainer(callbacks=[*callbacks, watch], **others)
        model, own, _ = train(tuned)
        loaders = tta_loaders(own, data.train.select(fifth), n_aug=0)
        predicted = predict(model, loaders, tuned.make_trainer).plain.probabilities
    except Exception as error:
        note = user_message(error)
        if note is None or isinstance(error, Failure):
            raise
        log.info("\nNo fine-tuning: %s", note)
        return False, {**row, "note": note}
    compared = _compared(kernel, predicted, torch.tensor(fifth)) if run.fabric.is_global_zero else None
    better, values = run.fabric.broadcast(compared)  # type: ignore[misc]
    return better, row | values | {"seconds": round(time.perf_counter() - started, 1)}


def take_over(run: Run) -> Run:
    """Make the fine-tuned run the run itself, with its stages finished; all ranks together.

    A run that is killed here does the rest when it is resumed, see `is_to_take_over`.
    """
    out = run.fabric.broadcast(run.out)
    cfg = OmegaConf.load(out / FOLDER / "config.yaml")
    assert isinstance(cfg, DictConfig)
    run.fabric.barrier()
    if run.fabric.is_global_zero:
        (out / FOLDER / TAKEN).touch()
        for path in sorted((out / FOLDER).iterdir(), key=lambda path: path.name == "config.yaml"):  # it comes last
            if path.name != TAKEN:
                _move(path, out / path.name)
        shutil.rmtree(out / FOLDER)
    run.fabric.barrier()
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    return _run(run, cfg, run.out, read_progress(out, make_stages(values["recipe"]), cfg.final))


def is_to_take_over(run: Run) -> bool:
    """Return whether a run was killed while it took over the fine-tuned one."""
    return run.fabric.broadcast((run.out / FOLDER / TAKEN).exists())


def _move(path: Path, to: Path) -> None:
    """Move a file, or the files in a folder, to where others may be."""
    if path.is_dir():
        to.mkdir(exist_ok=True)
        for inner in path.iterdir():
            _move(inner, to / inner.name)
    else:
        path.replace(to)


def _fifth(run: Run, data: DogsCatsDataModule, groups: list[int]) -> tuple[list[int], list[int]]:
    """Choose a fifth of the training photos that has no near-duplicates among the others.

    Without validation photos, it is what `data.valid_fraction` holds out.

    Returns:
        Numbers of the photos in it; and of those to be dropped from the data of the fine-tuned run.

    Raises:
        UserError: if it is too small.
    """
    paths, labels = data.train.paths, data.train.labels
    number = {path: row for row, path in enumerate(paths)}
    if data.valid.paths:
        by_class = {
            name: [path for path, its in zip(paths, labels, strict=True) if its == label]
            for label, name in enumerate(data.classes)
        }
        parts = held_out_groups(by_class, lambda path: str(groups[number[path]]), FIFTH, data.seed)
        held = {number[path] for part in parts.values() for path in part}
    else:
        split = load_photos(run, valid_fraction=FIFTH)
        if {*split.train.paths, *split.valid.paths} != number.keys():
            raise UserError("data.limit leaves other photos if some are held out")
        held = {number[path] for path in split.valid.paths}
    added = {number[path] for path in data.train.added if path in number}
    others = {groups[row] for row in range(len(paths)) if row not in held or row in added}
    fifth = sorted(row for row in held if groups[row] not in others)
    if (count := len({groups[row] for row in fifth})) < MIN_GROUPS:
        raise UserError(f"a fifth of the photos has {counted(count, 'photo')} without near-duplicates in the rest")
    return fifth, fifth if data.valid.paths else sorted(held - {*fifth})


def _seconds(run: Run, plan: Plan, best: Candidate, fifth: int) -> tuple[float, float]:
    """Estimate the seconds of the features and the prediction, and of an epoch, from one training step."""
    body = build_candidate(run, best).train().to(run.fabric.device)
    images = torch.zeros(BATCH, 3, best.size, best.size, dtype=torch.uint8, device=run.fabric.device)
    began = 0.0
    for _ in range(2):  # the first one takes longer
        began = time.perf_counter()
        body(images).sum().backward()
    step = (time.perf_counter() - began) / BATCH / run.fabric.world_size
    decoded = max(0.0, best.photo_seconds - best.pass_seconds)
    epoch = (plan.photos - fifth) * (step + decoded) + fifth * best.photo_seconds
    return MARGIN * (plan.photos + fifth) * best.photo_seconds, MARGIN * epoch


def _recipe() -> DictConfig:
    adapt = OmegaConf.load(CONF / "recipe" / "adapt.yaml")
    assert isinstance(adapt, DictConfig)
    return adapt


def _config(run: Run, best: Candidate, data: DogsCatsDataModule, epochs: int, drops: bool) -> DictConfig:
    """Make the config of the fine-tuned run: that of the run, with `recipe=adapt`."""
    cfg, adapt = copy.deepcopy(run.cfg), _recipe()
    with open_dict(cfg):
        cfg.budget = cfg.candidates = cfg.members = None
        cfg.recipe, cfg.final = adapt.recipe, "last"
        cfg.heads = adapt.heads if cfg.heads == 1 else cfg.heads
        cfg.recipe.finetune.epochs = epochs
        cfg.recipe.finetune.keep = "last"  # the fifth must not choose the epoch, too
        cfg.data.batch_size = min(cfg.data.batch_size, adapt.data.batch_size)
        if "lr_finder" in cfg.callbacks:
            cfg.callbacks.lr_finder = OmegaConf.merge(cfg.callbacks.lr_finder, adapt.callbacks.lr_finder)
        chosen = "augment" in values_by_key(HydraConfig.get().overrides.task)  # mirror images may be other things
        if not chosen and cfg.augment == OmegaConf.load(CONF / "augment" / "crops.yaml"):  # that of recipe=auto
            cfg.augment = cfg.data.augment = OmegaConf.load(CONF / "augment" / "side_on.yaml")
        if not data.valid.paths:
            cfg.data.valid_fraction = FIFTH
        if drops or data.decisions:
            if (file := run.out / DECISIONS_FILE).exists():
                raise UserError(f"{shown(file)} is in the way of the run's own decisions")
            cfg.data.decisions = str(file.absolute())
    set_models(cfg, [(best.model, best.size)])
    return cfg


def _open(run: Run, cfg: DictConfig, data: DogsCatsDataModule, dropped: list[int]) -> Run:
    """Start the fine-tuned run in its folder, or resume it there, with its own decisions about photos."""
    folder, shared = run.out / FOLDER, run.fabric.broadcast(run.out) / FOLDER
    file, config = folder / "config.yaml", OmegaConf.create(plain_config(cfg))
    resumed = run.fabric.broadcast(file.is_file() and OmegaConf.load(file) == config)
    if not resumed:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        changes = {**data.new_labels, **dict.fromkeys(data.train.paths[row] for row in dropped)}
        kinds = {None: ("drop", ""), STRANGER: ("none", "")}
        rows = ((path, *kinds.get(new, ("relabel", data.classes[new or 0]))) for path, new in changes.items())
        if cfg.data.get("decisions"):
            write_csv(folder / DECISIONS_FILE, [*COLUMNS], rows)
        replace_config(cfg, folder)
    stages = make_stages(OmegaConf.to_container(cfg.recipe, resolve=True))  # type: ignore[arg-type]
    tuned = _run(run, cfg, folder, read_progress(shared, stages, cfg.final) if resumed else None)
    if cfg.data.get("decisions"):
        tuned.settings["data"]["decisions"] = str(folder / DECISIONS_FILE)
    return tuned


def _run(run: Run, cfg: DictConfig, out: Path, progress: RunProgress | None) -> Run:
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    data = {key: values["data"].get(key) for key in run.settings["data"]}
    started = run.report.started if progress is None else time.perf_counter()  # its metrics count what was before
    settings = values | {"model": accepted_model(values["model"]), "data": data}
    return Run(cfg, settings, make_stages(values["recipe"]), run.fabric, out, progress, started)


def _compared(kernel: Kernel, predicted: torch.Tensor, fifth: torch.Tensor) -> tuple[bool, dict[str, Any]]:
    """Compare the fine-tuned network with the kernel heads on the fifth; return whether to take it, and its row."""
    judged = kernel.scored[fifth]
    rows = fifth[judged]
    both = [kernel.probabilities[rows], predicted[judged]]
    table = LeftOutTable(both, kernel.labels[rows], kernel.groups[rows])
    n, taken = len(rows), table.is_better(1, than=0)
    right = [round(table.right[number, number].sum().item()) for number in (0, 1)]
    loss = [table.loss[number, number].sum().item() / n for number in (0, 1)]
    low, high = wilson_interval(right[1], n)
    note = (
        f"on a fifth of the photos, which chose between it and the kernel head (right on {percent(right[0] / n, n)}, "
        f"log loss {loss_text(loss[0], n)})"
    )
    log.info("%s: right on %s, log loss %s", note.capitalize(), percent(right[1] / n, n), loss_text(loss[1], n))
    values = {"accuracy": right[1] / n, "ci95_low": low, "ci95_high": high, "log_loss": loss[1], "photos": n}
    return taken, values | {"note": note}


class Deadline(Callback):
    """Gives up a fit that takes too long; all ranks together.

    Args:
        seconds: seconds of the process at which it stops.

    Raises:
        UserError: after the first step later than that.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the time."""
        if trainer.strategy.broadcast(process_seconds() > self.seconds):
            raise UserError("no time: it took longer than estimated")
