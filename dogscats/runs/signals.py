"""Handling of Ctrl-C and SIGTERM."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(SystemExit):
    """Ctrl-C or SIGTERM: exits with the conventional code 130 or 143."""

    def __init__(self, signum: int):
        super().__init__(128 + signum)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    # A second signal must not interrupt the clean-up after the first.
    signal.signal(signum, signal.SIG_IGN)
    raise Interrupted(signum)


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise `Interrupted` in the block as soon as a signal arrives.

    Lightning would turn KeyboardInterrupt into exit code 1 and SIGTERM into a normal exit; it passes this exception on.
    All files are written atomically, so there is no need to wait for a safe point.
    """
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
