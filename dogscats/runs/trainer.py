"""Trainers: each argument of Lightning's Trainer takes effect, or is refused with one message."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class, instantiate
from lightning_fabric import Fabric
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.plugins import CheckpointIO, Precision
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from dogscats.base.errors import UserError, first_line
from dogscats.base.rules import SWITCH, Rule, is_number, whole
from dogscats.runs.progress_bar import Progress
from dogscats.runs.trainer_signals import own_signal_handlers

INSTEAD = {
    "max_epochs": "the stages have their own; set recipe.<stage>.epochs or recipe.<stage>.cycles",
    "max_steps": "set recipe.<stage>.epochs, and trainer.limit_train_batches for shorter epochs",
    "callbacks": "add a node for each callback: +callbacks.<name>='{_target_: <class>, <argument>: <value>}'",
    "logger": "set logger=csv or logger=[tensorboard,csv], or add +logger.<name>='{_target_: <class>}'",
    "default_root_dir": "set the run directory: hydra.run.dir=<folder>",
    "limit_test_batches": "nothing is tested here; set trainer.limit_val_batches or trainer.limit_predict_batches",
    "overfit_batches": "use few photos: data.limit=<photos per class>",
    "enable_checkpointing": "resume= needs checkpoints; recipe.<stage>.save=null disables the checkpoint of a stage",
    "use_distributed_sampler": "photos are already split across ranks, without repeating any",
    "reload_dataloaders_every_n_epochs": "photos are already read again in every epoch",
    "barebones": "disable features one by one: logger=[], trainer.enable_progress_bar=false",
    "model_registry": "the checkpoints are in the run directory; upload them from there",
}
"""Refused arguments, and what to use instead."""

NO_EFFECT = {
    "max_steps": -1,
    "enable_checkpointing": True,
    "use_distributed_sampler": False,
    "overfit_batches": 0,
    "reload_dataloaders_every_n_epochs": 0,
    "barebones": False,
}
"""Values of refused arguments that are accepted, because they change nothing."""


def _positive(value: Any) -> bool:
    return is_number(value) and value > 0


def _time(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_positive(part) for part in value.values())
    return bool(re.fullmatch(r"\d+:\d\d:\d\d:\d\d", str(value)) and re.search("[1-9]", str(value)))


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        (
            "accumulate_grad_batches",
            "check_val_every_n_epoch",
            "log_every_n_steps",
            "min_epochs",
            "min_steps",
            "num_nodes",
        ),
        whole(1),
    ),
    "num_sanity_val_steps": (whole(-1)[0], "a whole number, 0 or more, or -1 for all"),
    **dict.fromkeys(("limit_train_batches", "limit_predict_batches", "gradient_clip_val"), (_positive, "more than 0")),
    **dict.fromkeys(
        (
            "benchmark",
            "detect_anomaly",
            "inference_mode",
            "enable_progress_bar",
            "enable_model_summary",
            "sync_batchnorm",
            "enable_autolog_hparams",
        ),
        SWITCH,
    ),
    "deterministic": (lambda value: isinstance(value, bool) or value == "warn", "true, false or warn"),
    "fast_dev_run": (lambda value: isinstance(value, bool) or whole(1)[0](value), "true, false or a number of batches"),
    "max_time": (_time, "a time such as 00:02:30:00 (days, hours, minutes, seconds)"),
    "val_check_interval": (lambda value: _positive(value) or _time(value), "more than 0"),
    "profiler": (lambda value: isinstance(value, str) or "_target_" in value, "simple, advanced, pytorch or a node"),
}
"""Arguments whose bad values Lightning accepts at first, with what is expected."""

REFUSALS = (
    *(ArithmeticError, AttributeError, ImportError, RuntimeError, TypeError, ValueError),
    MisconfigurationException,
)
"""What the Trainer raises for arguments that it refuses."""

PREDICTING = {
    *(
        "accelerator",
        "strategy",
        "devices",
        "num_nodes",
        "precision",
        "fast_dev_run",
        "limit_predict_batches",
    ),
    *("enable_progress_bar", "deterministic", "benchmark", "inference_mode", "profiler", "plugins"),
    *("log_every_n_steps", "num_sanity_val_steps", "enable_model_summary", "use_distributed_sampler"),
}
"""Arguments accepted for prediction only: those that take effect, and those in `conf/trainer/default.yaml`."""


def check_trainer(settings: Mapping[str, Any], training: bool = True) -> None:
    """Refuse Trainer arguments that cannot take effect.

    Args:
        settings: config group `trainer`, as plain containers.
        training: whether the Trainer trains; otherwise it only predicts.

    Raises:
        UserError: for a refused argument, with its key and what to use instead.
    """
    if not settings:
        raise UserError("trainer: the config group is missing. Choose trainer=default or trainer=ddp.")
    known = set(inspect.signature(Trainer.__init__).parameters) - {"self"}
    for key, value in settings.items():
        if value is None or key == "_target_":
            continue
        if key not in known and settings.get("_target_") == "pytorch_lightning.Trainer":
            similar = get_close_matches(key, known, 1)
            hint = f" Did you mean trainer.{similar[0]}?" if similar else ""
            raise UserError(f"trainer.{key}: Lightning's Trainer has no such argument.{hint}")
        if key in INSTEAD and not (key in NO_EFFECT and value == NO_EFFECT[key]):
            raise UserError(f"trainer.{key}={value}: this has no effect here; {INSTEAD[key]}.")
        if key in RULES and not RULES[key][0](value):
            raise UserError(f"trainer.{key}={value}: expected {RULES[key][1]}.")
        if not training and key in known - PREDICTING:
            raise UserError(f"trainer.{key}={value}: this has no effect where nothing is trained. Remove it.")
    if settings.get("gradient_clip_algorithm") is not None and settings.get("gradient_clip_val") is None:
        raise UserError("trainer.gradient_clip_algorithm: this has no effect without trainer.gradient_clip_val.")


def trainer_factory(
    settings: Mapping[str, Any], run_dir: Path | None = None, device: torch.device | None = None
) -> Callable[..., Trainer]:
    """Return a function that makes Trainers from the config group `trainer` and further arguments.

    Without `precision`, it is `default_precision` of the device.

    Args:
        settings: config group `trainer`, as plain containers; empty for Lightning's defaults.
        run_dir: `default_root_dir` of the Trainers.
        device: device of the Trainers; `None` for the one that Lightning chooses.

    Raises:
        UserError: for arguments that Lightning refuses.
    """
    fixed = {key: value for key, value in settings.items() if key != "_target_" and key not in INSTEAD}
    fixed |= {"default_root_dir": run_dir, "use_distributed_sampler": False}
    device = device or _chosen_device(settings)
    if fixed.get("sync_batchnorm") and device.type == "cpu":
        raise UserError("trainer.sync_batchnorm=true: PyTorch's SyncBatchNorm needs GPUs. Remove it.")
    try:
        trainer_class = get_class(settings.get("_target_") or "pytorch_lightning.Trainer")
    except Exception as error:  # importing a module can raise anything
        raise UserError(f"trainer._target_={settings.get('_target_')}: {first_line(error)}") from error
    if not issubclass(trainer_class, Trainer):
        raise UserError(f"trainer._target_={settings['_target_']}: it is not a Trainer of Lightning.")

    def make_trainer(callbacks: Sequence[Callback] = (), plugins: Sequence[Any] = (), **own: Any) -> Trainer:
        # Built anew for each Trainer: the state of a plugin, such as a loss scale, must not reach the next stage.
        arguments = {key: _built(value) for key, value in fixed.items()} | own
        own_plugins = arguments.pop("plugins", None) or []
        own_plugins = own_plugins if isinstance(own_plugins, list) else [own_plugins]
        if any(isinstance(plugin, CheckpointIO) for plugin in own_plugins):
            raise UserError(
                "trainer.plugins: a CheckpointIO has no effect here; checkpoints are written and verified already."
            )
        if arguments.get("precision") is None and not any(isinstance(plugin, Precision) for plugin in own_plugins):
            arguments["precision"] = default_precision(device)
        if arguments.get("enable_progress_bar") is not False and not any(
            isinstance(callback, ProgressBar) for callback in callbacks
        ):
            callbacks = [Progress(), *callbacks]
        callbacks = [*callbacks, own_signal_handlers()]
        try:
            trainer: Trainer = trainer_class(**arguments, callbacks=list(callbacks), plugins=[*own_plugins, *plugins])
        except REFUSALS as error:
            raise UserError(f"trainer: {first_line(error)}") from error
        return trainer

    return make_trainer


def default_precision(device: torch.device) -> str:
    """Return the precision for `trainer.precision=null`.

    GPUs compute bf16 in hardware from compute capability 8.0 (Ampere) on. Older ones compute fp16, whose small range
    needs gradient scaling; Lightning's `16-mixed` includes it.
    """
    if device.type != "cuda":
        return "32-true"
    return "bf16-mixed" if torch.cuda.get_device_capability(device) >= (8, 0) else "16-mixed"


def cpu_computes_bf16() -> bool:
    """Return whether the CPU multiplies bf16 matrices in hardware, as far as Linux tells; `False` elsewhere."""
    try:
        flags = Path("/proc/cpuinfo").read_text(errors="replace").split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)


def _chosen_device(settings: Mapping[str, Any]) -> torch.device:
    """Return the device that a Trainer with these settings chooses."""
    try:
        return Fabric(
            accelerator=settings.get("accelerator") or "auto", devices=settings.get("devices") or "auto"
        ).device
    except REFUSALS as error:
        raise UserError(f"trainer: {first_line(error)}") from error


def _built(value: Any) -> Any:
    """Build nested nodes with a `_target_`, such as a profiler."""
    if isinstance(value, Mapping):
        return instantiate(value) if "_target_" in value else dict(value)
    return [_built(inner) for inner in value] if isinstance(value, list) else value
