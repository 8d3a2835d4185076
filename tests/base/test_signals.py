"""After a signal, a process that works slowly is waited for, and one that hangs is ended."""

import subprocess
import sys
import time

import pytest
from conftest import REPOSITORY

PROGRAM = """
import ctypes, hashlib, signal
from dogscats.base import signals

signals.SECONDS_BEFORE_EXIT = 0.5

def work():  # slowly: a call that Python cannot interrupt
    hashlib.pbkdf2_hmac("sha256", b"", b"", 4_000_000)

def hang():  # in a lock that is never released
    lock, pthread = ctypes.create_string_buffer(64), ctypes.CDLL(None)
    pthread.pthread_mutex_lock(lock)
    pthread.pthread_mutex_lock(lock)

with signals.interruptible():
    try:
        signal.raise_signal(signal.SIGTERM)
        {what}()
    finally:
        print("clean-up")
"""


@pytest.mark.parametrize(("what", "printed"), [("work", "clean-up\n"), ("hang", "")])
def test_what_hangs_is_ended_and_what_works_is_not(what: str, printed: str) -> None:
    started = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(what=what)], capture_output=True, text=True, cwd=REPOSITORY, check=False
    )
    assert result.returncode == 143
    assert (result.stdout, result.stderr) == (printed, "")
    assert time.monotonic() - started < 20
