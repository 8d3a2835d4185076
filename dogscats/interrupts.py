"""What Ctrl-C and SIGTERM do to a run."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(SystemExit):
    """Ctrl-C or SIGTERM: ends the process with the exit code that shells expect, 130 or 143."""

    def __init__(self, signum: int):
        super().__init__(128 + signum)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    # A second signal must not cut short what the first one lets be put in order.
    signal.signal(signum, signal.SIG_IGN)
    raise Interrupted(signum)


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise `Interrupted` wherever the block is when the signal comes.

    Lightning turns KeyboardInterrupt into exit code 1 and SIGTERM into a normal end; of this exception it
    only takes note. Nothing is half-written at any moment, so that nothing has to be waited for.
    """
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
