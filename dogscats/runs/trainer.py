"""Trainers of Lightning, with this project's precision, progress bar and handling of signals."""

import logging
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class, instantiate
from lightning_fabric import Fabric
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import LambdaCallback, ProgressBar, TQDMProgressBar
from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm
from pytorch_lightning.plugins import CheckpointIO, Precision

from dogscats.base.errors import UserError, as_user_error
from dogscats.base.signals import SIGNALS, stop_if_interrupted
from dogscats.lesson.keep_best import loss_scale
from dogscats.runs.trainer_settings import REFUSED_ARGUMENTS, own_environment

log = logging.getLogger(__name__)

START_HOOKS = ("on_sanity_check_start", "on_train_start", "on_predict_start")
"""Hooks after which the Trainer runs with its own signal handlers."""

STEP_HOOKS = (
    *("on_train_epoch_start", "on_train_batch_start", "on_train_batch_end", "on_train_epoch_end"),
    *("on_validation_batch_start", "on_validation_end", "on_predict_batch_start", "on_predict_batch_end"),
)
"""Hooks at which a run can stop."""

NONDETERMINISTIC = re.compile(r"(\S+) does not have a deterministic implementation")
"""Start of PyTorch's warning and error."""

MAX_SKIPPED_SHARE = 0.1
"""Largest share of skipped optimizer steps without a warning. Skipping the first few of a long stage costs nothing."""


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
    fixed = {key: value for key, value in settings.items() if key != "_target_" and key not in REFUSED_ARGUMENTS}
    fixed |= {"default_root_dir": run_dir, "use_distributed_sampler": False}
    if device is None:
        chosen = {key: settings.get(key) or "auto" for key in ("accelerator", "devices")}
        with as_user_error("trainer"):
            device = Fabric(accelerator=chosen["accelerator"], devices=chosen["devices"]).device
    if fixed.get("sync_batchnorm") and device.type == "cpu":
        raise UserError("trainer.sync_batchnorm=true: PyTorch's SyncBatchNorm needs GPUs. Remove it.")
    target = settings.get("_target_") or "pytorch_lightning.Trainer"
    with as_user_error(f"trainer._target_={target}"):  # importing a module can raise anything
        trainer_class = get_class(target)
    if not issubclass(trainer_class, Trainer):
        raise UserError(f"trainer._target_={target}: it is not a Trainer of Lightning.")

    def make_trainer(callbacks: Sequence[Callback] = (), plugins: Sequence[Any] = (), **own: Any) -> Trainer:
        # Built anew for each Trainer: the state of a plugin, such as a loss scale, must not reach the next stage.
        arguments = {key: _built(value) for key, value in fixed.items()} | own
        given = arguments.pop("plugins", None) or []
        own_plugins = given if isinstance(given, list) else [given]
        if any(isinstance(plugin, CheckpointIO) for plugin in own_plugins):
            raise UserError(
                "trainer.plugins: a CheckpointIO has no effect here; checkpoints are written and verified already."
            )
        if arguments.get("precision") is None and not any(isinstance(plugin, Precision) for plugin in own_plugins):
            arguments["precision"] = default_precision(device)
        own_bar = any(isinstance(callback, ProgressBar) for callback in callbacks)
        bars = [] if own_bar or arguments.get("enable_progress_bar") is False else [Progress()]
        every = [*bars, *callbacks, own_signal_handlers()]
        with as_user_error("trainer"):
            every_plugin = [*own_plugins, *plugins, *own_environment(settings)]
            trainer: Trainer = trainer_class(**arguments, callbacks=every, plugins=every_plugin)
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


def _built(value: Any) -> Any:
    """Build nested nodes with a `_target_`, such as a profiler."""
    if isinstance(value, Mapping):
        return instantiate(value) if "_target_" in value else dict(value)
    return [_built(inner) for inner in value] if isinstance(value, list) else value


class Progress(TQDMProgressBar):
    """Lightning's progress bar, removed when done: `History` prints the results.

    Disabled if the output is not a terminal.
    """

    def __init__(self) -> None:
        super().__init__(refresh_rate=1 if sys.stdout.isatty() else 0)

    def init_train_tqdm(self) -> Tqdm:
        """Make the training bar, removed at the end."""
        bar = super().init_train_tqdm()
        bar.leave = False
        return bar

    def init_validation_tqdm(self) -> Tqdm:
        """Disable the validation bar."""
        return Tqdm(disable=True)

    def init_predict_tqdm(self) -> Tqdm:
        """Make the prediction bar, removed at the end."""
        bar = super().init_predict_tqdm()
        bar.leave = False
        return bar

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Omit the stage name, which Lightning would show as a version."""
        return {k: v for k, v in super().get_metrics(trainer, pl_module).items() if k != "v_num"}


class LossScale(Callback):
    """Warns if gradient scaling skipped many of a stage's optimizer steps.

    With `16-mixed` the loss is multiplied by a scale that starts high. A step whose gradients overflow is skipped, and
    the scale is halved. Skipped steps count as steps everywhere: in the schedules, `lr_trace.csv` and `global_step`.
    """

    def __init__(self) -> None:
        self.skipped = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the scale, which a checkpoint may have restored."""
        self.scale = loss_scale(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Count the step if it lowered the scale. The scaler has waited for the GPU already."""
        scale = loss_scale(trainer)
        self.skipped += scale < self.scale
        self.scale = scale

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn if more than `MAX_SKIPPED_SHARE` of the steps were skipped."""
        if self.skipped > MAX_SKIPPED_SHARE * trainer.global_step:
            log.warning(
                "Warning   %d of %d optimizer steps were skipped, since gradients overflowed in fp16. For so few steps "
                "set trainer.precision=32-true.",
                self.skipped,
                trainer.global_step,
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the number of skipped steps, for a checkpoint."""
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the number of skipped steps."""
        self.skipped = state_dict["skipped"]


def own_signal_handlers() -> LambdaCallback:
    """Make a callback that puts back the signal handlers that the Trainer replaces, and stops between its steps.

    Lightning's handler of SIGTERM waits for all ranks in a collective operation, forever if they do something else.
    """
    handlers: dict[int, Any] = {}

    def remember(*args: Any, **options: Any) -> None:
        handlers.update({number: signal.getsignal(number) for number in SIGNALS})

    def restore(*args: Any) -> None:
        if threading.current_thread() is not threading.main_thread():  # elsewhere nothing was replaced
            return
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def stop(*args: Any) -> None:
        stop_if_interrupted()

    hooks: dict[str, Any] = {
        "setup": remember,
        **dict.fromkeys(START_HOOKS, restore),
        **dict.fromkeys(STEP_HOOKS, stop),
    }
    return LambdaCallback(**hooks)


@contextmanager
def nondeterminism_named() -> Iterator[None]:
    """Log each such operation once with `trainer.deterministic=warn`; refuse it with `true`.

    Python's own filters cannot do this: any change of them, as by `warnings.catch_warnings`, shows a warning again.

    Raises:
        UserError: instead of PyTorch's RuntimeError.
    """
    show, named = warnings.showwarning, set()

    def show_once(message: Warning | str, *arguments: Any, **options: Any) -> None:
        found = NONDETERMINISTIC.match(str(message))
        if found is None:
            show(message, *arguments, **options)
        elif found[1] not in named:
            named.add(found[1])
            log.warning(
                "Warning   %s has no deterministic implementation on this device: equal runs may differ slightly",
                found[1],
            )

    warnings.showwarning = show_once
    try:
        yield
    except RuntimeError as error:
        found = NONDETERMINISTIC.match(str(error))
        if found is None:
            raise
        raise UserError(
            f"trainer.deterministic=true: {found[1]} has no deterministic implementation on this device. Set "
            "trainer.deterministic=warn; equal runs may then differ slightly."
        ) from error
    finally:
        warnings.showwarning = show
