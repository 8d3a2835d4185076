"""Handling of Ctrl-C and SIGTERM, in the main process and its workers."""

import atexit
import logging
import os
import signal
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import ClassVar

from dogscats.base.activity import Activity

SECONDS_TO_END_WORKERS = 3
"""Seconds that the main process has to end its workers after a signal."""

SECONDS_BEFORE_RAISE = 0.2
"""Seconds after which `Interrupted` is raised wherever the process is, and again if it was lost."""

SECONDS_BEFORE_EXIT = 10
"""Seconds after which a process that is still there is ended, unless it works."""

MOST_SECONDS_OF_WORK = 120
"""Seconds after which a process is ended although it works, such as one that spins in a driver of a GPU."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)

WRITING: list[Path] = []
"""Files that are being written, perhaps to a slow disk; see `files.atomic_path`."""


class Interrupted(SystemExit):
    """Ctrl-C or SIGTERM: exits with the conventional code 130 or 143."""

    def __init__(self, signum: int):
        super().__init__(128 + signum)
        self.signum = signum

    def __reduce__(self) -> tuple[type["Interrupted"], tuple[int]]:
        return Interrupted, (self.signum,)  # picklable, to cross process boundaries


class Interrupt:
    """Signal handler that raises `Interrupted` in the process that installed it.

    An exception in the midst of a library, as it takes a lock for example, can leave it stuck. It is therefore raised
    between two steps of the Trainer, or else after a moment, wherever the process is then. Python ignores an exception
    in a destructor, or while a process forks. It is therefore raised again, as long as the last one was lost: it no
    longer exists, while one on its way out does. If the process is still stuck, it ends without clean-up, which does
    no harm: all files are written atomically. One that works slowly, or waits for a slow disk, gets more time.

    Forked processes inherit the handler; see `leave_signal_to_main_process`.
    """

    pending: ClassVar["Interrupt | None"] = None
    """Handler of a signal that has come."""

    farewell: ClassVar[Callable[[], None] | None] = None
    """Called before a process that is stuck is ended."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.last: weakref.ref[Interrupted] | None = None

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """Arrange for `Interrupted` to be raised, unless this is a forked process."""
        if os.getpid() != self.process:
            leave_signal_to_main_process(signum, frame)
            return
        if Interrupt.pending is not None:  # a second signal must not interrupt the clean-up after the first
            return
        Interrupt.pending, self.signum, self.last = self, signum, None
        # Nor must the end of a worker: PyTorch's handler raises an error then.
        signal.signal(signal.SIGCHLD, do_nothing)
        self.came, self.activity = time.monotonic(), Activity.of_thread(threading.main_thread())
        self._end_later()
        signal.setitimer(signal.ITIMER_REAL, SECONDS_BEFORE_RAISE, SECONDS_BEFORE_RAISE)
        atexit.register(_leave, 128 + signum)

    def raise_unless_raised(self) -> None:
        """Raise `Interrupted`, unless the last one is on its way out."""
        if self.last is None or self.last() is None:
            raise self._interrupted()

    def _interrupted(self) -> Interrupted:
        atexit.register(_leave, 128 + self.signum)  # again, to come before what was imported since the signal
        error = Interrupted(self.signum)
        self.last = weakref.ref(error)
        return error

    def _end_later(self) -> None:
        self.end = threading.Timer(SECONDS_BEFORE_EXIT, self._end)
        self.end.daemon = True
        self.end.start()

    def _end(self) -> None:
        if Interrupt.pending is not self:  # it has left in the meantime
            return
        works = self.activity.worked() or WRITING
        if works and time.monotonic() < self.came + MOST_SECONDS_OF_WORK:
            self._end_later()
            return
        if Interrupt.farewell is not None:
            Interrupt.farewell()
        os._exit(128 + self.signum)


def do_nothing(signum: int, frame: FrameType | None) -> None:
    """Handle a signal that no longer matters.

    With the default handler instead, Python reports signals that came just before as "ignored due to race condition".
    """


def _alarm(_: int, frame: FrameType | None) -> None:
    """Raise `Interrupted` wherever the process is, if a signal has come."""
    if not _importing(frame):
        stop_if_interrupted()


def _importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported: C++ code that registers classes then aborts on an exception."""
    return any(outer.f_code.co_filename.startswith("<frozen importlib") for outer, _ in traceback.walk_stack(frame))


def _leave(code: int) -> None:
    """End an interrupted command as Python exits, before destructors can wait for workers that are gone."""
    main = getattr(sys.modules["__main__"], "__file__", None) or ""
    if os.path.basename(main) in ("train.py", "evaluate.py"):  # noqa: PTH119  # not a program that runs them
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise `Interrupted` in the block soon after a signal arrives.

    Lightning would turn KeyboardInterrupt into exit code 1 and SIGTERM into a normal exit; it passes this exception on.
    All files are written atomically, so there is no need to wait for a safe point.
    """
    before = {number: signal.signal(number, Interrupt()) for number in SIGNALS}
    # Installed before any signal comes: a Trainer that ends puts back the handlers that it found, and the default one
    # would end the process at the next alarm.
    before[signal.SIGALRM] = signal.signal(signal.SIGALRM, _alarm)
    hook = sys.unraisablehook

    def unraisable(lost: "sys.UnraisableHookArgs") -> None:
        if not issubclass(lost.exc_type, Interrupted):  # it is raised again
            hook(lost)

    sys.unraisablehook = unraisable
    try:
        yield
    except Exception as error:
        if Interrupt.pending is not None:  # such as the death of a worker that got the same signal
            raise Interrupted(Interrupt.pending.signum) from error
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = hook
        if Interrupt.pending is not None:
            Interrupt.pending.end.cancel()
            Interrupt.pending = None
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_signal_to_main_process(signum: int, frame: FrameType | None) -> None:
    """Handle a signal in a worker, which a terminal sends to all processes: the main process ends its workers.

    A worker that died first would look like a failure. After SIGTERM, one that is stuck dies of the alarm.
    """
    if signum == signal.SIGTERM:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a forked process has inherited the main process's handler
        signal.alarm(SECONDS_TO_END_WORKERS)


def handle_signals_in_worker(worker: int = 0) -> None:
    """Install the handler in a loader worker, started with `signals_blocked`.

    PyTorch has installed its own handler, which ends the worker at once. A lock that it holds would never be released.
    """
    for number in SIGNALS:
        signal.signal(number, leave_signal_to_main_process)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Let signals wait while processes are started; these begin with the signals blocked."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def finish_undisturbed() -> None:
    """Let the clean-up after an error go on, although a signal has come; `interruptible` still ends as interrupted."""
    signal.setitimer(signal.ITIMER_REAL, 0)


def stop_if_interrupted() -> None:
    """Raise `Interrupted`, if a signal has come."""
    if Interrupt.pending is not None:
        Interrupt.pending.raise_unless_raised()
