"""Resuming interrupted runs: their configs, and the commands that resume them."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dogscats.base.errors import Failure, UserError
from dogscats.base.install import command
from dogscats.base.signals import Interrupt, Interrupted
from dogscats.base.text import home_expanded, setting
from dogscats.base.trust import load_config, needs_trust
from dogscats.runs.directory import plain_config

log = logging.getLogger(__name__)


def resumed_config(cfg: DictConfig) -> DictConfig:
    """Read the config of the run to resume.

    Args:
        cfg: composed config, for `resume`, `trust`, and config groups missing from older runs.

    Raises:
        UserError: if `resume` is not a run directory, other settings were given, or the config names code that needs
            trust.
    """
    run_dir, allowed = home_expanded(cfg.resume), ("resume=", "trust=", "data.root=", "data.changed=")
    typed = list(HydraConfig.get().overrides.task)
    others = [argument for argument in typed if not argument.lstrip("+").startswith(allowed)]
    if others:
        raise UserError(f"resume={cfg.resume}: a run resumes with its own settings; drop {' '.join(others)}.")
    file = run_dir / "config.yaml"
    if not file.is_file():
        raise UserError(f"resume={cfg.resume}: it has no config.yaml. Give the directory of a run of train.py.")
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
    for key in ("root", "changed"):
        if any(argument.lstrip("+").startswith(f"data.{key}=") for argument in typed):
            saved.data[key] = cfg.data[key]
    return saved


def resume_command(run_dir: str | Path) -> str:
    """Return the command that resumes a run, to be pasted into a shell."""
    config = OmegaConf.to_container(OmegaConf.load(Path(run_dir) / "config.yaml"), resolve=False)
    trusted = isinstance(config, dict) and config.get("trust") is True
    trust = " trust=true" if trusted or needs_trust(config) else ""
    return f"{command('train')} {setting('resume', run_dir)}{trust}"


@contextmanager
def resume_hint() -> Iterator[None]:
    """Print the command that resumes the run, if it is interrupted or fails for a reason outside its settings."""
    run_dir = Path(HydraConfig.get().runtime.output_dir)

    def say(what: str = "Interrupted. ") -> None:
        if (run_dir / "config.yaml").exists():
            log.info("\n%sTo resume: %s", what, resume_command(run_dir))

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


def continues(cfg: DictConfig, run_dir: Path) -> bool:
    """Return whether a job of a sweep finds its own run directory, of an earlier start of the same sweep."""
    file = run_dir / "config.yaml"
    if HydraConfig.get().mode is not RunMode.MULTIRUN or not file.is_file():
        return False
    return OmegaConf.to_container(load_config(file, trust=True), resolve=False) == plain_config(cfg)
