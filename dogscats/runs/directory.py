"""Run directories: choice, write check, and the saved config."""

import tempfile
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from dogscats.runs.errors import UserError
from dogscats.runs.files import atomic_path


class OutputFolder(Callback):
    """Fails early if the output directory of a run or sweep is not writable; Hydra would show a traceback."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the directory of a single run."""
        check_writable("hydra.run.dir", Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the directory of a sweep."""
        check_writable("hydra.sweep.dir", Path(config.hydra.sweep.dir))


def check_writable(key: str, folder: Path) -> None:
    """Create `folder`, and a temporary file in it.

    Raises:
        SystemExit: with a message for the user, if the folder is not writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise SystemExit(
            f"error: {key}={folder}: it cannot be written ({error.strerror}). Choose another folder."
        ) from error


def run_directory(resume: str | None, new: str) -> str:
    """Choose Hydra's run directory: that of the run to resume, or a new one.

    The resolver `run_dir` in `conf/train.yaml`. A folder that is not a run directory is left untouched.
    """
    return str(resume) if resume and (Path(resume) / "config.yaml").is_file() else new


def save_config(cfg: DictConfig, run_dir: Path) -> None:
    """Save the config of a new run; Hydra's own copy is overwritten when the run is resumed.

    Raises:
        UserError: if the directory already contains a run.
    """
    file = run_dir / "config.yaml"
    if file.exists():
        raise UserError(f"{run_dir}: it holds a run already. Choose another hydra.run.dir, or set resume={run_dir}.")
    with atomic_path(file) as temporary:
        OmegaConf.save(cfg, temporary, resolve=True)


OmegaConf.register_new_resolver("run_dir", run_directory, replace=True)
