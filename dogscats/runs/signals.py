"""Handling of Ctrl-C and SIGTERM, in the main process and its workers."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pytorch_lightning import Callback, LightningModule, Trainer

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(SystemExit):
    """Ctrl-C or SIGTERM: exits with the conventional code 130 or 143."""

    def __init__(self, signum: int):
        super().__init__(128 + signum)
        self.signum = signum

    def __reduce__(self) -> tuple[type["Interrupted"], tuple[int]]:
        return Interrupted, (self.signum,)  # picklable, to cross process boundaries


class Interrupt:
    """Signal handler that raises `Interrupted` in the process that installed it.

    Forked processes inherit the handler, but ignore the signal: a terminal sends Ctrl-C to all of them, and the main
    process ends them.
    """

    def __init__(self) -> None:
        self.process = os.getpid()

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """Raise `Interrupted`, unless this is a forked process."""
        if os.getpid() == self.process:
            # A second signal must not interrupt the clean-up after the first.
            signal.signal(signum, signal.SIG_IGN)
            raise Interrupted(signum)


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise `Interrupted` in the block as soon as a signal arrives.

    Lightning would turn KeyboardInterrupt into exit code 1 and SIGTERM into a normal exit; it passes this exception on.
    All files are written atomically, so there is no need to wait for a safe point.
    """
    before = {number: signal.signal(number, Interrupt()) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_signals_to_main_process(worker: int = 0) -> None:
    """Ignore signals in a loader worker: the main process ends its workers."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class OwnSignalHandlers(Callback):
    """Puts back the signal handlers that the Trainer replaces.

    Lightning's handler of SIGTERM waits for all ranks in a collective operation, for ever if they do something else.
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
