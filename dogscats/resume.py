"""Where an interrupted run is taken up again."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dogscats.checkpoint import read_checkpoint
from dogscats.errors import UserError
from dogscats.stage import Stage

log = logging.getLogger(__name__)


def run_directory(resume: str | None, new: str) -> str:
    """Choose Hydra's run directory: the interrupted run's own, or else a new one.

    The resolver `run_dir` of `conf/train.yaml`. A folder that is no run's is left alone; `read_config` then
    says so.
    """
    return str(resume) if resume and (Path(resume) / "config.yaml").is_file() else new


def read_config(run_dir: Path) -> DictConfig:
    """Read the configuration with which a run was started.

    Raises:
        UserError: if `run_dir` is no run's directory.
    """
    file = run_dir / "config.yaml"
    if not file.is_file():
        raise UserError(f"resume={run_dir}: it has no config.yaml; give the directory of a run of train.py.")
    config = OmegaConf.load(file)
    assert isinstance(config, DictConfig)
    return config


@dataclass
class RunProgress:
    """How far a run has come.

    Attributes:
        metrics: of its `metrics.json`; empty for a run that has finished no stage.
        stages: names of the stages that need not be repeated.
        checkpoint: the file with the weights after the last of them; `None` to start from the beginning.
    """

    metrics: dict[str, Any] = field(default_factory=dict)
    stages: Sequence[str] = ()
    checkpoint: Path | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return bool(self.metrics.get("final"))


def read_progress(run_dir: Path, stages: Sequence[Stage]) -> RunProgress:
    """Find the newest state of a run that is whole on the disk.

    A stage is finished once its figures are in `metrics.json`. If the checkpoint with its weights is damaged,
    the newest whole one before it counts, and the stages after that are repeated.
    """
    file = run_dir / "metrics.json"
    if not file.is_file():
        return RunProgress()
    metrics = json.loads(file.read_text())
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
    """Read a checkpoint; `None` if there is none, or if it is damaged, of which a warning is given."""
    if not file.exists():
        return None
    try:
        return read_checkpoint(file)
    except UserError as error:
        log.warning("%s The run goes on from an earlier one.", error)
        return None
