"""What evaluate.py does with a run: a table of tasks, with the settings that fit each of them.

Nothing here imports torch, which takes seconds: wrong settings are refused before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, ListConfig

from dogscats.base.content import cache_folder
from dogscats.base.errors import UserError
from dogscats.base.rules import SHARE, SWITCH, Rule, check_values, normalize, one_of, or_none
from dogscats.base.text import counted, form, shown
from dogscats.data.photos.split import split_of
from dogscats.predict.export.exporters import EXPORTERS
from dogscats.runs.directory import checkpoint_of

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from pytorch_lightning import Callback, Trainer

    from dogscats.data.loading.datamodule import DogsCatsDataModule
    from dogscats.data.photos.layouts import Photos
    from dogscats.predict.predictor import Predictor

log = logging.getLogger(__name__)

STANDARD_CALLBACKS = {"tta", "reports.confusion_matrix", "reports.pictures", "reports.reliability", "reports.figures"}
"""Callbacks of `conf/callbacks/evaluate.yaml`: a task that has no use for them ignores them."""


@dataclass(frozen=True)
class Task:
    """One thing that evaluate.py can do.

    Attributes:
        function: ``module:name`` of the function that does it, given a `Job`; imported once the settings are checked.
        accepts: which of the settings in `ONLY_WITH_SOME` have an effect.
        split: default of `split`; `None` for all labelled photos.
        uses_trainer: whether it predicts with a Trainer; otherwise callbacks have no effect.
        has_labels: whether the labels of the photos are known, which reports need.
    """

    function: str
    accepts: Collection[str] = ()
    split: str | None = "valid"
    uses_trainer: bool = False
    has_labels: bool = True

    def check_callbacks(self, callbacks: Mapping[str, Callback]) -> None:
        """Refuse callbacks that cannot take effect.

        Args:
            callbacks: callbacks by their dotted keys.

        Raises:
            UserError: with the key of the first such callback.
        """
        from dogscats.report.figure_table import Report

        for key, callback in callbacks.items():
            unused = not self.uses_trainer or (not self.has_labels and isinstance(callback, Report))
            if unused and key.removeprefix("callbacks.") not in STANDARD_CALLBACKS:
                raise UserError(f"{key}: this has no effect with {_tasks('or')}. Remove it.")


EVALUATION = Task("dogscats.predict.evaluation:evaluate_photos", accepts=["keep"], uses_trainer=True)
"""The task if none of `TASKS` is chosen."""

TASKS: dict[str, Task] = {
    "predict": Task(
        "dogscats.predict.evaluation:predict_photos",
        accepts=["keep", "explain", "sort"],
        uses_trainer=True,
        has_labels=False,
    ),
    "export": Task("dogscats.predict.export.export:export_run", accepts=["keep"]),
    "suspects": Task("dogscats.predict.suspects_of_run:search_run", split=None),
    "label": Task("dogscats.predict.label_folder:label_folder", accepts=["keep", "classes"]),
}
"""Further tasks, by the setting that chooses each."""


def are_class_names(value: object) -> bool:
    """Return whether a setting is a list of names of classes, which differ in more than case and spaces."""
    names = [form(str(name)) for name in value] if isinstance(value, ListConfig) else []
    return 0 < len(names) == len({*names} - {"", "none"})


RULES: dict[str, Rule] = {
    "predict": (lambda value: value != "", "a file, a folder or a glob"),
    "suspects": SWITCH,
    "label": (lambda value: value != "", "a folder of photos"),
    "classes": or_none((are_class_names, "different names in a list, such as [ants,bees]; none means no class")),
    "keep": or_none(SHARE),
    "explain": SWITCH,
    "sort": or_none(one_of("copy", "link")),
    "split": (lambda value: value != "", "the name of a folder in data.root, such as valid"),
}
"""What is expected of each setting of the tasks."""

ONLY_WITH_SOME = {
    "keep": "keep=: this has no effect with suspects=true. Remove it.",
    "explain": "explain=true: this needs predict=<file, folder or glob>. An evaluation explains its worst photos "
    "already, in most_wrong.png and most_uncertain.png.",
    "sort": "sort=: this needs predict=<file, folder or glob>.",
    "classes": "classes=: this needs label=<folder of photos>.",
}
"""Settings that fit some tasks only, and what is said about them with any other task."""


def chosen_task(cfg: DictConfig) -> Task:
    """Check the settings, and return the task that they choose.

    Raises:
        UserError: for a setting that can only be wrong, with the key, the value and what is expected.
    """
    normalize(cfg)
    begins = cfg.label is not None and cfg.run is None and cfg.ckpt is None
    if begins and cfg.classes is None:
        raise UserError("label=: give run=<run directory>, or begin without a run: classes=[ants,bees] model=resnet34.")
    if begins and cfg.keep is not None:
        raise UserError("keep=: this needs a run. Without one, nothing is predicted.")
    if not begins and cfg.model is not None:
        raise UserError("model=: this needs label=<folder of photos> without a run, which has its own.")
    if not begins and (cfg.run is None) == (cfg.ckpt is None):
        raise UserError(
            "Give either run=<run directory>, for example run=outputs/<date>/<time>, or ckpt=<checkpoint>, "
            f"not {'neither' if cfg.run is None else 'both'}."
        )
    formats: Rule = (lambda value: value in (None, *EXPORTERS), " or ".join(EXPORTERS))
    check_values(RULES | {"export": formats}, cfg)
    tasks = [task for key, task in TASKS.items() if cfg[key] not in (None, False)]
    if len(tasks) > 1:
        raise UserError(f"{_tasks('and')} are separate runs: give one of them.")
    (task,) = tasks or [EVALUATION]
    for key, message in ONLY_WITH_SOME.items():
        if cfg[key] not in (None, False) and key not in task.accepts:
            raise UserError(message)
    if cfg.web.runtime is not None and not (cfg.export and EXPORTERS[cfg.export].is_page):
        raise UserError(f"web.runtime={cfg.web.runtime}: this needs export=web or export=space.")
    if cfg.split is None:
        cfg.split = task.split
    if not begins:
        checkpoint_of(cfg.run or cfg.ckpt)
    return task


def _tasks(word: str) -> str:
    *names, last = (f"{key}=" for key in TASKS)
    return f"{', '.join(names)} {word} {last}"


@dataclass(frozen=True)
class Job:
    """What a task works with.

    Attributes:
        cfg: settings of evaluate.py.
        predictor: the run, ready to predict.
        run_dir: directory to write to; a temporary one on all ranks but the first.
        fabric: device and ranks.
        make_trainer: function that makes Trainers.
        callbacks: callbacks of the prediction.
        started: `time.perf_counter()` at the start, in seconds.
    """

    cfg: DictConfig
    predictor: Predictor
    run_dir: Path
    fabric: Fabric
    make_trainer: Callable[..., Trainer]
    callbacks: list[Callback]
    started: float

    @cached_property
    def n_aug(self) -> int:
        """Number of augmented versions per photo, as set by the callback `TTA`."""
        from dogscats.lesson.tta import TTA

        return next((callback.n_aug for callback in self.callbacks if isinstance(callback, TTA)), 0)

    def log_device(self) -> None:
        """Print where the network runs."""
        from dogscats.base.console import device_name

        device = device_name(self.fabric.device, self.fabric.world_size)
        log.info("Device    %s, %s", device, self.make_trainer().precision)

    def data(self, root: Path | None = None) -> DogsCatsDataModule:
        """Make the data module of the photos in `root`, or of labelled ones, with the table and decisions given."""
        from dogscats.data.photos.run_photos import cache_at

        keys = ("labels", "columns", "extension", "decisions")
        given = {key: value for key in keys if (value := self.cfg.data[key]) is not None}
        if given.get("decisions") == "none":
            given["decisions"] = None
        settings = {key: self.cfg.data[key] for key in ("root", "batch_size", "num_workers")}
        settings |= {"root": root} if root else {}
        trained_on = self.predictor.trained_on
        root = Path(settings["root"] or trained_on.get("root") or "").expanduser()
        if root.is_dir():
            of_run = cache_at(root, trained_on)
            settings["cache_dir"] = str(cache_folder(root, self.cfg.activations.dir, trains=False, of_run=of_run))
        return self.predictor.data(**settings | given)

    def split(self, data: DogsCatsDataModule) -> str:
        """Return the setting `split`; but `train` for validation photos if there are none, and none are held out."""
        split: str = self.cfg.split
        return "train" if split_of(split) == "valid" and not data.has_valid else split

    def labelled(self, data: DogsCatsDataModule, split: str) -> Photos:
        """Return the photos of a split, and print what they are."""
        photos = data.labelled(split, self.predictor.classes)
        log.info("Data      %s: %s of %s", shown(data.root), counted(len(photos.paths), "photo"), split)
        if data.decided:
            log.info("Decisions %s", data.decided)
        return photos

    def write_bad_images(self, bad: Mapping[str, str]) -> None:
        """Write `bad_images.csv`, the unreadable photos that were skipped, if there are any."""
        from dogscats.data.loading.photo_check import write_bad_images

        if bad:
            log.warning("%s skipped; see bad_images.csv", counted(len(bad), "unreadable photo"))
            write_bad_images(self.run_dir / "bad_images.csv", bad)
