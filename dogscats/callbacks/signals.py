"""Signals while a Trainer runs."""

import signal
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from dogscats.runs.signals import SIGNALS, stop_if_interrupted


class OwnSignalHandlers(Callback):
    """Puts back the signal handlers that the Trainer replaces, and is interrupted between its steps.

    Lightning's handler of SIGTERM waits for all ranks in a collective operation, forever if they do something else.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remember the handlers; the Trainer has not replaced them yet."""
        self.handlers = {number: signal.getsignal(number) for number in SIGNALS}

    def _restore(self) -> None:
        for number, handler in self.handlers.items():
            if not isinstance(signal.getsignal(number), signal.Handlers):  # not while a first signal is handled
                signal.signal(number, handler)

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the handlers back."""
        self._restore()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the handlers back."""
        self._restore()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the handlers back."""
        self._restore()

    def on_train_epoch_start(self, *args: Any) -> None:
        """Stop here, if a signal has come."""
        stop_if_interrupted()

    def on_train_batch_start(self, *args: Any) -> None:
        """Stop here, if a signal has come."""
        stop_if_interrupted()

    def on_train_batch_end(self, *args: Any) -> None:
        """Stop here, if a signal has come."""
        stop_if_interrupted()

    def on_train_epoch_end(self, *args: Any) -> None:
        """Stop here, if a signal has come."""
        stop_if_interrupted()

    def on_validation_batch_start(self, *args: Any) -> None:
        """Stop here, if a signal has come."""
        stop_if_interrupted()

    def on_validation_end(self, *args: Any) -> None:
        """Stop here, if a signal has come."""
        stop_if_interrupted()

    def on_predict_batch_start(self, *args: Any) -> None:
        """Stop here, if a signal has come."""
        stop_if_interrupted()

    def on_predict_batch_end(self, *args: Any) -> None:
        """Stop here, if a signal has come."""
        stop_if_interrupted()
