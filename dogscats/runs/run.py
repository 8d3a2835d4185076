"""A run of `train.py`: its directory, settings and progress.

`launch.py` starts a run, `stages.py` surrounds the training of each stage, and `finish.py` writes the final report.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from lightning_fabric import Fabric
from matplotlib.figure import Figure
from omegaconf import DictConfig
from pytorch_lightning import Trainer

from dogscats.base.errors import UserError
from dogscats.base.files import read_json
from dogscats.lesson.stage import Stage, final_stage
from dogscats.lesson.tta import TTA
from dogscats.reliability.detector_fit import HeldOutStrangers
from dogscats.reliability.left_out import LeftOut
from dogscats.reliability.measured import LeftOutPredictions, Reliability
from dogscats.report.optimized_metric import check_metric
from dogscats.report.summary import RunReport
from dogscats.runs.checkpoint import VerifiedCheckpointIO, read_checkpoint
from dogscats.runs.compose import build_callbacks, build_lr_finder
from dogscats.runs.loggers import build_loggers
from dogscats.runs.sweep import look_up
from dogscats.runs.trainer import trainer_factory

log = logging.getLogger(__name__)

UNNAMED = "stages"
"""Folder of `checkpoints/` with those of stages without a name for them; removed once the run has its final weights."""


@dataclass
class RunProgress:
    """Progress of a run.

    Attributes:
        metrics: content of its `metrics.json`; empty if no stage is finished.
        stages: names of the stages to skip.
        checkpoint: checkpoint to go on from; `None` to start from the beginning.
    """

    metrics: dict[str, Any] = field(default_factory=dict)
    stages: Sequence[str] = ()
    checkpoint: Path | None = None


class Run:
    """State shared by the stages of a run.

    Args:
        cfg: config of the run.
        settings: the same config, resolved to plain containers.
        stages: stages of the recipe.
        fabric: Fabric of all ranks.
        out: run directory; a temporary folder on ranks other than 0.
        progress: progress so far; `None` for a new run.
        started: start time of the run, by `time.perf_counter`.

    Attributes:
        make_trainer: function that makes a Trainer from callbacks and further arguments.
        precision: precision of the Trainers.
        passes: how many times augmented photos are read.
        report: metrics, written to `metrics.json` whenever they change.
        has_logged: whether this process has started loggers.
        dir: run directory of rank 0, in all ranks; set by `launch`.
        description: settings that rebuild the classifier, as for `save_classifier`; set by `launch`.
        final_stage: stage whose weights the run ends with; set after the last stage.
        weights: digest of the final weights; set before the final prediction.
        figures: figures that the loggers get at the end, by name.
        reliability: calibration and thresholds; `None` before the final prediction, or if they cannot be measured.
        left_out: predictions of the training photos by leave-one-out; `None` before the end, or where it is not valid.
        strangers: what is computed for known strangers; `None` before the end, or without any.

    Raises:
        UserError: for callbacks, loggers or Trainer arguments that cannot be used.
    """

    dir: Path
    description: Mapping[str, Any]
    final_stage: Stage
    weights: str

    def __init__(
        self,
        cfg: DictConfig,
        settings: dict[str, Any],
        stages: list[Stage],
        fabric: Fabric,
        out: Path,
        progress: RunProgress | None,
        started: float,
    ):
        self.cfg, self.settings, self.stages, self.fabric = cfg, settings, stages, fabric
        self.out, self.progress, self.resumed = out, progress or RunProgress(), progress is not None
        self.report = RunReport(out, started)
        self.has_logged = False
        self.figures: dict[str, Figure] = {}
        self.reliability: Reliability | None = None
        self.left_out: LeftOutPredictions | None = None
        self.strangers: HeldOutStrangers | None = None
        self.lr_finder = build_lr_finder(cfg.callbacks)
        # Built here only to report config errors before any computation.
        built = [callback for stage in (*stages, None) for callback in build_callbacks(cfg.callbacks, stage).values()]
        n_aug = max((callback.n_aug for callback in built if isinstance(callback, TTA)), default=0)
        self.passes = sum(0 if stage.precompute else stage.total_epochs for stage in stages)
        self.passes += n_aug + settings["activations"]["views"]
        own = any(not type(callback).__module__.startswith("dogscats.") for callback in built)
        check_metric(settings["optimized_metric"], stages, n_aug, own)
        build_loggers(settings.get("logger"), out, "final")
        make_trainer = trainer_factory(settings["trainer"], out, fabric.device)
        self.make_trainer: Callable[..., Trainer] = partial(make_trainer, plugins=[VerifiedCheckpointIO()])
        self.precision = str(self.make_trainer().precision)

    @property
    def finished(self) -> bool:
        """Whether the resumed run is already finished."""
        return bool(self.progress.metrics.get("final")) and not self.unreported.exists()

    @property
    def unreported(self) -> Path:
        """File that exists while final predictions are not yet drawn; `resume=` then draws them."""
        return self.out / ".unreported"

    @property
    def has_default_recipe(self) -> bool:
        """Whether this new run has the default recipe because no other was chosen."""
        hydra = HydraConfig.get()
        chosen = any(setting.startswith("recipe=") for setting in hydra.overrides.task)
        return not (self.resumed or chosen) and hydra.runtime.choices.get("recipe") == "lesson1"

    @property
    def is_trial(self) -> bool:
        """Whether `trainer.fast_dev_run` limits the run to a few batches of each part."""
        return bool(self.settings["trainer"].get("fast_dev_run"))

    @property
    def logs_hyperparameters(self) -> bool:
        """Whether loggers get the hyperparameters; `trainer.enable_autolog_hparams=false` turns it off."""
        return self.settings["trainer"].get("enable_autolog_hparams") is not False

    @property
    def stages_left(self) -> list[Stage]:
        """Stages that are not finished."""
        return [stage for stage in self.stages if stage.name not in self.progress.stages]

    @property
    def checkpoint(self) -> Path | None:
        """Checkpoint to start from; `None` for the pretrained body with a new head."""
        loaded = Path(self.cfg.load).expanduser() if self.cfg.load else None
        return self.progress.checkpoint or loaded

    @property
    def metric(self) -> float:
        """The value named by `optimized_metric` in `metrics.json`."""
        return look_up(self.progress.metrics if self.finished else self.report.metrics, self.cfg.optimized_metric)


def stage_checkpoint(run_dir: Path, stage: Stage) -> Path:
    """Return the path of a stage's checkpoint: a temporary one if it has no name (`save: null`)."""
    checkpoints = run_dir / "checkpoints"
    return checkpoints / f"{stage.save}.ckpt" if stage.save else checkpoints / UNNAMED / f"{stage.name}.ckpt"


def read_progress(run_dir: Path, stages: Sequence[Stage], final: str) -> RunProgress:
    """Find the newest intact state of a run.

    A stage is finished once its metrics are in `metrics.json`. The next stage needs its weights, and the end of the run
    those of the best stage. If a checkpoint of these is damaged, the newest intact state before it is used, and later
    stages are repeated.

    Args:
        run_dir: run directory.
        stages: stages of the recipe.
        final: as for `final_stage`.

    Raises:
        UserError: if `metrics.json` is not that of a run.
    """
    file = run_dir / "metrics.json"
    metrics = read_json(file)
    if metrics is None:
        return RunProgress()
    if not _is_progress(metrics):
        raise UserError(f"{file}: it is not the metrics.json of a run. Remove it to repeat the stages, or restore it.")
    finished = [stage for stage in stages if stage.name in metrics["stages"]]

    @cache
    def saved_stage(file: Path) -> str | None:
        return (read_intact(file) or {}).get("stage")

    for number in range(len(finished), 0, -1):
        done, complete = finished[:number], number == len(stages)
        best = final_stage(done, metrics["stages"], final)
        stage = best if complete else done[-1]
        files = (run_dir / "checkpoints" / "last.ckpt", stage_checkpoint(run_dir, stage))
        checkpoint = next((file for file in files if saved_stage(file) == stage.name), None)
        # The next stage overwrites last.ckpt.
        kept = final == "last" or complete or saved_stage(stage_checkpoint(run_dir, best)) == best.name
        # Damaged or removed, it costs the fit again.
        judged = "loo_loss" not in metrics["stages"][done[-1].name] or LeftOut.read(run_dir) is not None
        if checkpoint and kept and judged:
            return RunProgress(metrics, [stage.name for stage in done], checkpoint)
    return RunProgress(metrics)


def _is_progress(metrics: Any) -> bool:
    """Check the types of the entries of a `metrics.json` that a run reads."""
    match metrics:
        case {"stages": dict(stages), "lr_finder": dict(), "seconds": int() | float()}:
            rows = all(isinstance(row, dict) and "seconds" in row for row in stages.values())
            rows = rows and all(isinstance(row.get("valid_loss"), int | float | None) for row in stages.values())
            return rows and isinstance(metrics.get("final", {}), dict)
    return False


def read_intact(file: Path) -> dict[str, Any] | None:
    """Read a checkpoint; `None` if it does not exist, and `None` with a warning if it is damaged."""
    if not file.exists():
        return None
    try:
        return read_checkpoint(file)
    except UserError as error:
        log.warning("%s Resuming from an earlier one.", error)
        return None
