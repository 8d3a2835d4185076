"""Signals while a Trainer runs."""

import signal
import threading
from typing import Any

from pytorch_lightning.callbacks import LambdaCallback

from dogscats.runs.signals import SIGNALS, stop_if_interrupted

STARTS = ("on_sanity_check_start", "on_train_start", "on_predict_start")
"""Hooks after which the Trainer runs with its own signal handlers."""

STEPS = (
    *("on_train_epoch_start", "on_train_batch_start", "on_train_batch_end", "on_train_epoch_end"),
    *("on_validation_batch_start", "on_validation_end", "on_predict_batch_start", "on_predict_batch_end"),
)
"""Hooks at which a run can stop."""


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

    hooks: dict[str, Any] = {"setup": remember, **dict.fromkeys(STARTS, restore), **dict.fromkeys(STEPS, stop)}
    return LambdaCallback(**hooks)
