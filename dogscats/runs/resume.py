"""Resuming interrupted runs."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from dogscats.runs.checkpoint import read_checkpoint
from dogscats.runs.errors import UserError
from dogscats.runs.files import read_json
from dogscats.runs.trust import load_config, needs_trust
from dogscats.stage import Stage

log = logging.getLogger(__name__)


def resumed_config(cfg: DictConfig) -> DictConfig:
    """Read the config of the run to resume.

    Args:
        cfg: composed config, for `resume`, `trust`, and config groups missing from older runs.

    Raises:
        UserError: if `resume` is not a run directory, other settings were given, or the config names code that needs
            trust.
    """
    run_dir = Path(cfg.resume)
    others = [setting for setting in HydraConfig.get().overrides.task if not setting.startswith(("resume=", "trust="))]
    if others:
        raise UserError(f"resume={run_dir}: a run resumes with its own settings; drop {' '.join(others)}.")
    file = run_dir / "config.yaml"
    if not file.is_file():
        raise UserError(f"resume={run_dir}: it has no config.yaml. Give the directory of a run of train.py.")
    saved = load_config(file, cfg.trust)
    nested = ("activations", "augment", "callbacks", "data", "model", "recipe", "trainer")
    values = ("heads", "load", "lr", "optimized_metric", "resume", "seed")
    broken = [key for key in nested if not isinstance(saved.get(key), DictConfig)]
    if broken := broken + [key for key in values if key not in saved]:
        raise UserError(f"{file}: it is not the config of a run: {', '.join(broken)} missing or of another type.")
    if "_target_" not in (saved.callbacks.get("lr_finder") or {"_target_": ""}):  # older config
        groups = OmegaConf.create({"callbacks": cfg.callbacks, "logger": cfg.logger})
        merged = OmegaConf.merge(groups, saved)
        assert isinstance(merged, DictConfig)
        saved = merged
    saved["trust"] = cfg.trust  # for the checkpoint that the run may load
    return saved


def resume_command(run_dir: str | Path) -> str:
    """Return the command that resumes a run."""
    config = OmegaConf.to_container(OmegaConf.load(Path(run_dir) / "config.yaml"), resolve=False)
    trusted = isinstance(config, dict) and config.get("trust") is True
    trust = " trust=true" if trusted or needs_trust(config) else ""
    return f"python train.py resume={run_dir}{trust}"


class ResumeCheckpoint(ModelCheckpoint):
    """Saves the training state after every epoch except the last, to resume an interrupted stage.

    After the last epoch the stage's own checkpoint is written at once. If the run is killed before that, the last epoch
    is repeated, including what callbacks do at the end of training.

    Args:
        file: checkpoint file.
    """

    def __init__(self, file: Path):
        super().__init__(file.parent, file.stem, save_on_train_epoch_end=True, enable_version_counter=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, unless this is the last epoch."""
        if not trainer.fit_loop.done:
            super().on_train_epoch_end(trainer, pl_module)


@dataclass
class RunProgress:
    """Progress of a run.

    Attributes:
        metrics: content of its `metrics.json`; empty if no stage is finished.
        stages: names of the stages to skip.
        checkpoint: checkpoint after the last skipped stage; `None` to start from the beginning.
    """

    metrics: dict[str, Any] = field(default_factory=dict)
    stages: Sequence[str] = ()
    checkpoint: Path | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return bool(self.metrics.get("final"))


def read_progress(run_dir: Path, stages: Sequence[Stage]) -> RunProgress:
    """Find the newest intact state of a run.

    A stage is finished once its metrics are in `metrics.json`. If its checkpoint is damaged, the newest intact one
    before it is used, and later stages are repeated.
    """
    metrics = read_json(run_dir / "metrics.json")
    if not isinstance(metrics, dict) or "stages" not in metrics:  # a failed job of a sweep has an error alone
        return RunProgress()
    finished = [stage for stage in stages if stage.name in metrics["stages"]]
    for number in range(len(finished), 0, -1):
        stage = finished[number - 1]
        for name in ("last", *([stage.save] if stage.save else [])):
            file = run_dir / "checkpoints" / f"{name}.ckpt"
            checkpoint = read_whole(file)
            if checkpoint is not None and checkpoint["stage"] == stage.name:
                return RunProgress(metrics, [stage.name for stage in finished[:number]], file)
    return RunProgress(metrics)


def read_whole(file: Path) -> dict[str, Any] | None:
    """Read a checkpoint; `None` if it does not exist, and `None` with a warning if it is damaged."""
    if not file.exists():
        return None
    try:
        return read_checkpoint(file)
    except UserError as error:
        log.warning("%s Resuming from an earlier one.", error)
        return None
