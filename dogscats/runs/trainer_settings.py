"""Trainer settings: each argument of Lightning's Trainer takes effect, or is refused with one message."""

import inspect
import re
from collections.abc import Mapping
from typing import Any

from lightning_fabric.plugins.environments import ClusterEnvironment, LightningEnvironment
from pytorch_lightning import Trainer

from dogscats.base.errors import UserError
from dogscats.base.rules import SWITCH, Rule, check_values, is_number, whole
from dogscats.base.text import did_you_mean

REFUSED_ARGUMENTS = {
    "max_epochs": "the stages have their own; set recipe.<stage>.epochs or recipe.<stage>.cycles",
    "max_steps": "set recipe.<stage>.epochs, and trainer.limit_train_batches for shorter epochs",
    "callbacks": "add a node for each callback: +callbacks.<name>='{_target_: <class>, <argument>: <value>}'",
    "logger": "set logger=csv or logger=[tensorboard,csv], or add +logger.<name>='{_target_: <class>}'",
    "default_root_dir": "set the run directory: hydra.run.dir=<folder>",
    "limit_test_batches": "nothing is tested here; set trainer.limit_val_batches or trainer.limit_predict_batches",
    "overfit_batches": "use few photos: data.limit=<photos per class>",
    "enable_checkpointing": "resume= needs checkpoints; recipe.<stage>.save=null disables the checkpoint of a stage",
    "reload_dataloaders_every_n_epochs": "photos are already read again in every epoch",
    "barebones": "disable features one by one: logger=[], trainer.enable_progress_bar=false",
    "model_registry": "the checkpoints are in the run directory; upload them from there",
}
"""Refused arguments, with an alternative for each."""


def _positive(value: Any) -> bool:
    return is_number(value) and value > 0


def _time(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_positive(part) for part in value.values())
    return bool(re.fullmatch(r"\d+:\d\d:\d\d:\d\d", str(value)) and re.search("[1-9]", str(value)))


COUNT_ARGUMENTS = (
    *("accumulate_grad_batches", "check_val_every_n_epoch", "log_every_n_steps"),
    *("min_epochs", "min_steps", "num_nodes"),
)
SWITCH_ARGUMENTS = (
    *("benchmark", "detect_anomaly", "enable_autolog_hparams", "enable_model_summary", "enable_progress_bar"),
    *("inference_mode", "sync_batchnorm"),
)
RULES: dict[str, Rule] = {
    **dict.fromkeys(COUNT_ARGUMENTS, whole(1)),
    **dict.fromkeys(SWITCH_ARGUMENTS, SWITCH),
    **dict.fromkeys(("limit_train_batches", "limit_predict_batches", "gradient_clip_val"), (_positive, "more than 0")),
    "use_distributed_sampler": (lambda value: value is False, "false: photos are already split across ranks"),
    "num_sanity_val_steps": (whole(-1)[0], "a whole number, 0 or more, or -1 for all"),
    "deterministic": (lambda value: isinstance(value, bool) or value == "warn", "true, false or warn"),
    "fast_dev_run": (lambda value: isinstance(value, bool) or whole(1)[0](value), "true, false or a number of batches"),
    "max_time": (_time, "a time such as 00:02:30:00 (days, hours, minutes, seconds)"),
    "val_check_interval": (lambda value: _positive(value) or _time(value), "more than 0"),
    "profiler": (lambda value: isinstance(value, str) or "_target_" in value, "simple, advanced, pytorch or a node"),
}
"""Rules for arguments whose bad values Lightning accepts at first."""

PREDICTION_ARGUMENTS = {
    *("accelerator", "strategy", "devices", "num_nodes", "precision", "fast_dev_run", "limit_predict_batches"),
    *("enable_progress_bar", "deterministic", "benchmark", "inference_mode", "profiler", "plugins"),
    *("log_every_n_steps", "num_sanity_val_steps", "enable_model_summary", "use_distributed_sampler"),
}
"""Arguments accepted for prediction only: those that take effect, and those in `conf/trainer/default.yaml`."""


def own_environment(settings: Mapping[str, Any]) -> list[ClusterEnvironment]:
    """Return the plugin that makes a process on one device a run of its own; none for several devices or nodes.

    Without it, Lightning takes variables of whatever launcher for those of a run of several ranks.

    Args:
        settings: config group `trainer`.
    """
    return [LightningEnvironment()] if settings.get("devices") == settings.get("num_nodes") == 1 else []


def check_trainer(settings: Mapping[str, Any], training: bool = True) -> None:
    """Refuse Trainer arguments that cannot take effect.

    Args:
        settings: config group `trainer`, as plain containers.
        training: whether the Trainer trains; otherwise it only predicts.

    Raises:
        UserError: for a refused argument, with its key and an alternative.
    """
    if not settings:
        raise UserError("trainer: the config group is missing. Choose trainer=default or trainer=ddp.")
    known = set(inspect.signature(Trainer.__init__).parameters) - {"self"}
    for key, value in settings.items():
        if value is None or key == "_target_":
            continue
        if key not in known and settings.get("_target_") == "pytorch_lightning.Trainer":
            similar = did_you_mean(key, known, "trainer.")
            raise UserError(f"trainer.{key}: Lightning's Trainer has no such argument.{similar}")
        if key in REFUSED_ARGUMENTS:
            raise UserError(f"trainer.{key}={value}: this has no effect here; {REFUSED_ARGUMENTS[key]}.")
        check_values(RULES, {key: value}, "trainer.")
        if not training and key in known - PREDICTION_ARGUMENTS:
            raise UserError(f"trainer.{key}={value}: this has no effect where nothing is trained. Remove it.")
    if settings.get("gradient_clip_algorithm") is not None and settings.get("gradient_clip_val") is None:
        raise UserError("trainer.gradient_clip_algorithm: this has no effect without trainer.gradient_clip_val.")
