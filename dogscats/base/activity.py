"""Whether a process works, however slowly, or hangs, as far as Linux tells."""

import os
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

TASKS = Path("/proc/self/task")
"""Folder of the threads of this process."""

MIN_CPU_SHARE = 0.02
"""Share of a core above which a process works; one that hangs only wakes up now and then."""

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
"""Unit of CPU time in `/proc`."""


class Activity:
    """Looks at processes or threads for signs of work, each time since the last look.

    What hangs is asleep, waiting for something that does not come. What works slowly, on a busy machine or for a slow
    disk, uses CPU time, is ready to, or waits for the disk.

    Args:
        folders: folder in `/proc` of each process or thread; see `of_processes` and `of_thread`.
    """

    def __init__(self, folders: Iterable[Path]):
        self.folders = list(folders)
        self.looked, self.cpu_seconds = time.monotonic(), 0.0
        self.worked()

    @classmethod
    def of_processes(cls, pids: Iterable[int]) -> "Activity":
        """Look at processes, each with all its threads."""
        return cls(Path(f"/proc/{pid}") for pid in pids)

    @classmethod
    def of_thread(cls, thread: threading.Thread) -> "Activity":
        """Look at one thread of this process."""
        return cls([TASKS / str(thread.native_id)])

    def worked(self) -> bool:
        """Return whether any of them has worked since the last look; `False` where the system does not tell."""
        cpu_seconds, busy = 0.0, False
        for folder in self.folders:
            with suppress(OSError):  # it has ended
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                busy |= fields[0] in "RD"  # running or ready to; waiting for a disk
                cpu_seconds += (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND
        seconds, used = time.monotonic() - self.looked, cpu_seconds - self.cpu_seconds
        self.looked, self.cpu_seconds = time.monotonic(), cpu_seconds
        return busy or used > MIN_CPU_SHARE * seconds
