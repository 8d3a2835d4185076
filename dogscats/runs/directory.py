"""Run directories: choice, write check, the saved config, and the command that resumes the run."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from dogscats.base.environment import command
from dogscats.base.errors import UserError, as_user_error, is_mistake
from dogscats.base.files import WEIGHTS, atomic_path, check_exists, write_text
from dogscats.base.newest import newest_named
from dogscats.base.signals import Interrupt, Interrupted
from dogscats.base.text import home_expanded, setting, shown, without_password
from dogscats.base.trust import needs_trust

log = logging.getLogger(__name__)

PATH_SETTINGS = (
    *("data.root", "data.cache_dir", "data.decisions", "data.strangers", "data.add"),
    *("activations.dir", "load", "model.weights"),
)
"""Settings that name a file or folder."""

PREDICTIONS = "predictions.csv"

UNFINISHED = ".unfinished"
"""File beside predictions that are not finished, and that the same command continues."""

OVERWRITTEN = {".hydra", "metrics.json", WEIGHTS, "README.md"}
"""Names in a folder of something else that a new run of train.py would replace."""

CHOOSE = "Choose another folder."

_made: list[Path] = []
"""Folders that this process has made, inner ones first."""


class OutputFolder(Callback):
    """Fails early if the output directory of a run or sweep cannot be used, before anything is written to it."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the directory of a single run.

        Raises:
            SystemExit: with a message for the user, if it is not writable or holds something else.
        """
        folder = _expand(config, "run")
        if not _is_further_rank(config):
            self._check_free("hydra.run.dir", folder, config)
        check_writable("hydra.run.dir", folder)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the directory of a sweep; that of train.py may be continued, see `SweepReport`."""
        folder = _expand(config, "sweep")
        if not _trains(config):
            self._check_free("hydra.sweep.dir", folder, config)
        check_writable("hydra.sweep.dir", folder)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Go back to where the command was given, whatever `hydra.job.chdir` is: its paths are relative to that."""
        os.chdir(config.hydra.runtime.cwd)

    def _check_free(self, key: str, folder: Path, config: DictConfig) -> None:
        """Refuse a folder of something else: for evaluate.py, any with files but those of the same command.

        Predictions of the same command are continued, unless they are finished.
        """
        with as_user_error(f"error: {key}={folder}", "it cannot be read", CHOOSE, OSError, raises=SystemExit):
            names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        if _trains(config):
            if config.resume is not None:
                return
            if "config.yaml" in names:
                raise SystemExit(f"error: {already_used(folder)}")
            names &= OVERWRITTEN
        elif _is_of(folder, config.hydra.overrides.task):
            if config.get("predict") is None or PREDICTIONS not in names or UNFINISHED in names:
                return
            raise SystemExit(f"error: {key}={folder}: it holds this prediction, which is finished. {CHOOSE}")
        if names - {f"{config.hydra.job.name}.log", ".lock"}:  # of a command that was refused
            raise SystemExit(f"error: {key}={folder}: it holds files of something else. {CHOOSE}")


def _trains(config: DictConfig) -> bool:
    return "resume" in config  # evaluate.py has no such setting


def _is_of(folder: Path, overrides: ListConfig) -> bool:
    """Return whether a folder was written by a command with the same settings."""
    with suppress(OSError, YAMLError, OmegaConfBaseException):
        return bool(overrides) and OmegaConf.load(folder / ".hydra" / "overrides.yaml") == overrides
    return False


def _is_further_rank(config: DictConfig) -> bool:
    """Return whether the process is a rank above 0, as far as that can be told without torch.

    Platforms set such variables for processes that are runs of their own, too.
    """
    trainer = config.get("trainer") or {}
    several = any(trainer.get(key) != 1 for key in ("devices", "num_nodes"))
    names = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
    return several and any(os.environ.get(name, "0") != "0" for name in names)


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
    with as_user_error(f"error: {key}={folder}", "it cannot be written", CHOOSE, OSError, raises=SystemExit):
        _made[:] = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


@contextmanager
def empty_folders_removed() -> Iterator[None]:
    """Remove the output directory at the end, if it was made for a command that was refused and wrote nothing."""
    try:
        yield
    finally:
        with suppress(OSError):  # of a folder that is not empty
            for folder in _made:
                folder.rmdir()
        _made.clear()


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
    if not path.exists():
        raise UserError(f"{shown(path)}: there is no such run or checkpoint.{newest_named()}")
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
    data = config.get("data") or {}
    if (table := data.get("labels")) and not (Path(data.get("root") or ".") / Path(table).expanduser()).is_file():
        data["labels"] = str(home_expanded(table)) if home_expanded(table).is_file() else table  # relative to here
    if url := OmegaConf.select(cfg, "data.url"):
        config["data"]["url"] = without_password(url)
    return config


def save_config(cfg: DictConfig, run_dir: Path) -> None:
    """Save the config of a new run, without a password in `data.url`.

    Raises:
        UserError: if the directory already contains a run.
    """
    if (run_dir / "config.yaml").exists():
        raise UserError(already_used(run_dir))
    replace_config(cfg, run_dir)
    if (of_sweep := run_dir.parent / "multirun.yaml").is_file():
        text = of_sweep.read_text(encoding="utf-8")
        if (masked := _masked(text, cfg)) != text:
            write_text(of_sweep, masked)


def replace_config(cfg: DictConfig, run_dir: Path) -> None:
    """Write the config of a run, also in place of an earlier one."""
    with atomic_path(run_dir / "config.yaml") as temporary:
        OmegaConf.save(OmegaConf.create(plain_config(cfg)), temporary)


def save_hydra_config(cfg: DictConfig, run_dir: Path) -> None:
    """Write `.hydra/` as Hydra does, but only now that the command is accepted, on rank 0, and not on `resume`.

    Hydra itself writes nothing (`hydra.output_subdir: null`): it would do so before any setting is checked.
    """
    hydra: Any = HydraConfig.instance().cfg
    for name, part in (("config", cfg), ("hydra", hydra), ("overrides", hydra.hydra.overrides.task)):
        write_text(run_dir / ".hydra" / f"{name}.yaml", _masked(OmegaConf.to_yaml(part), cfg))


@contextmanager
def settings_saved(cfg: DictConfig, run_dir: Path) -> Iterator[None]:
    """Save the settings of evaluate.py; a command that is refused after all leaves its folder free.

    Predictions that have begun keep them, to be continued.
    """
    new = not (run_dir / ".hydra").exists()
    save_hydra_config(cfg, run_dir)
    OmegaConf.save(cfg, run_dir / "config.yaml", resolve=True)
    try:
        yield
    except Exception as error:
        if new and is_mistake(error) and not (run_dir / UNFINISHED).exists():
            shutil.rmtree(run_dir / ".hydra")
            (run_dir / "config.yaml").unlink()
        raise


def _masked(text: str, cfg: DictConfig) -> str:
    """Remove a password in `data.url` from a saved config."""
    url = str(OmegaConf.select(cfg, "data.url", default=""))
    return text.replace(url, without_password(url)) if url else text


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
        if not is_mistake(error):
            say("Interrupted. " if isinstance(error, Interrupted) else "")
        raise
    finally:
        Interrupt.farewell = None


OmegaConf.register_new_resolver("run_dir", run_directory, replace=True)
