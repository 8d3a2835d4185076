"""Run directories: choice, write check, the saved config, and the command that resumes the run."""

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from dogscats.base.environment import command
from dogscats.base.errors import Failure, UserError, as_user_error
from dogscats.base.files import WEIGHTS, atomic_path, check_exists, write_text
from dogscats.base.signals import Interrupt, Interrupted
from dogscats.base.text import home_expanded, setting, without_password
from dogscats.base.trust import needs_trust

log = logging.getLogger(__name__)

PATH_SETTINGS = ("data.root", "data.cache_dir", "data.decisions", "activations.dir", "load", "model.weights")
"""Settings that name a file or folder."""


class OutputFolder(Callback):
    """Fails early if the output directory of a run or sweep cannot be used, before Hydra writes to it."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the directory of a single run."""
        folder = _expand(config, "run")
        further_rank = any(os.environ.get(name, "0") != "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
        if (folder / "config.yaml").is_file() and config.get("resume", "") is None and not further_rank:
            raise SystemExit(f"error: {already_used(folder)}")
        check_writable("hydra.run.dir", folder)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the directory of a sweep."""
        check_writable("hydra.sweep.dir", _expand(config, "sweep"))


def _expand(config: DictConfig, kind: str) -> Path:
    """Expand `~` in `hydra.<kind>.dir`; Hydra does not."""
    folder = config.hydra[kind].dir
    if folder.startswith("~"):
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra[kind].dir = folder = str(Path(folder).expanduser())
    return Path(folder)


def already_used(run_dir: Path) -> str:
    """Make the message for a directory that holds a run."""
    return f"{run_dir}: it holds a run already. Choose another hydra.run.dir, or {setting('resume', run_dir)}."


def check_writable(key: str, folder: Path) -> None:
    """Create `folder`, and a temporary file in it.

    Raises:
        SystemExit: with a message for the user, if the folder is not writable.
    """
    advice = "Choose another folder."
    with as_user_error(f"error: {key}={folder}", "it cannot be written", advice, OSError, raises=SystemExit):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


def run_directory(resume: object, new: str) -> str:
    """Choose Hydra's run directory: that of the run to resume, or a new one.

    The resolver `run_dir` in `conf/train.yaml`. A folder that is not a run directory is left untouched.
    """
    folder = None if resume is None else home_expanded(str(resume))
    return str(folder) if folder and (folder / "config.yaml").is_file() else new


def checkpoint_of(source: str | Path) -> Path:
    """Return the checkpoint to load: that of a run directory, or `source` itself.

    A folder without checkpoints that has a `model.safetensors` is a published model.

    Raises:
        UserError: if there is none.
    """
    path = Path(source).expanduser()
    if not path.is_dir():
        check_exists(path)
        return path
    for file in (path / "checkpoints" / "last.ckpt", path / WEIGHTS):
        if file.is_file():
            return file
    raise UserError(
        f"{path}: it has no checkpoints/last.ckpt. Give the directory of a run that has finished a stage, or a "
        "checkpoint with ckpt=<file>."
    )


def run_of(checkpoint: Path) -> Path:
    """Return the directory of the run that a checkpoint belongs to."""
    folder = checkpoint.resolve().parent
    return folder.parent if folder.name == "checkpoints" else folder


def plain_config(cfg: DictConfig) -> dict[str, Any]:
    """Resolve a config to plain containers, as saved.

    Paths are absolute, so that the run can be resumed and evaluated from another folder. A password in `data.url` is
    masked.
    """
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    for key in PATH_SETTINGS:
        group, _, name = key.rpartition(".")
        node = config.get(group) if group else config
        if isinstance(node, dict) and isinstance(node.get(name), str):
            path = home_expanded(node[name])
            if key != "model.weights" or (node[name] not in ("imagenet", "none") and path.is_file()):
                node[name] = str(path)
    if url := OmegaConf.select(cfg, "data.url"):
        config["data"]["url"] = without_password(url)
    return config


def save_config(cfg: DictConfig, run_dir: Path) -> None:
    """Save the config of a new run; Hydra's own copy is overwritten when the run is resumed.

    A password in `data.url` is removed from both.

    Raises:
        UserError: if the directory already contains a run.
    """
    file = run_dir / "config.yaml"
    if file.exists():
        raise UserError(already_used(run_dir))
    with atomic_path(file) as temporary:
        OmegaConf.save(OmegaConf.create(plain_config(cfg)), temporary)
    url = str(cfg.data.get("url"))
    if (masked := without_password(url)) != url:
        for saved in [*(run_dir / ".hydra").glob("*.yaml"), run_dir.parent / "multirun.yaml"]:
            if saved.is_file():
                write_text(saved, saved.read_text(encoding="utf-8").replace(url, masked))


def resume_command(run_dir: str | Path) -> str:
    """Return the command that resumes a run, to be pasted into a shell."""
    config: Any = OmegaConf.to_container(OmegaConf.load(Path(run_dir) / "config.yaml"), resolve=False)
    trust = " trust=true" if config.get("trust") or needs_trust(config) else ""
    return f"{command('train')} {setting('resume', run_dir)}{trust}"


@contextmanager
def resume_hint() -> Iterator[None]:
    """Print the command that resumes the run, if it is interrupted or fails for a reason outside its settings."""
    run_dir = Path(HydraConfig.get().runtime.output_dir)

    def say(reason: str = "Interrupted. ") -> None:
        if (run_dir / "config.yaml").exists():
            log.info("\n%sTo resume: %s", reason, resume_command(run_dir))

    Interrupt.farewell = say
    try:
        yield
    except BaseException as error:
        mistake = isinstance(error, UserError | HydraException | OmegaConfBaseException)
        if isinstance(error, Failure) or not mistake:
            say("Interrupted. " if isinstance(error, Interrupted) else "")
        raise
    finally:
        Interrupt.farewell = None


OmegaConf.register_new_resolver("run_dir", run_directory, replace=True)
