"""Where the time goes: `python -m benchmarks.profiler photos=... weights=...` prints tables for `PROFILE.md`.

PyTorch's profiler over the rows `head_first`, `frozen` and `unfrozen` of `ours.py`, one after the other, and
Python's over `load_augmented`, in which nothing but loading happens. The loaders' workers are processes of
their own, which the main process waits for in `_next_data`.
"""

import cProfile
import io
import pstats
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from benchmarks.ours import ROWS
from benchmarks.settings import Settings, from_command_line
from dogscats.console import quiet_libraries
from dogscats.memory import keep_freed_memory

TORCH_ROWS = ("head_first", "frozen", "unfrozen")
PYTHON_ROW = "load_augmented"
SHOWN = 10
"""Lines of each table."""


def operators(row: str, settings: Settings) -> list[str]:
    """Tabulate the operators in which PyTorch spends the row's time."""
    with tempfile.TemporaryDirectory() as folder, profile(activities=[ProfilerActivity.CPU]) as profiler:
        ROWS[row](settings, Path(folder))
    events = [event for event in profiler.key_averages() if not event.key.startswith("ProfilerStep")]
    total = sum(event.self_cpu_time_total for event in events)
    events.sort(key=lambda event: event.self_cpu_time_total, reverse=True)
    rows = [(event.key, event.self_cpu_time_total / 1e6, event.count) for event in events[:SHOWN]]
    return table("operator", rows, total / 1e6)


def functions(row: str, settings: Settings) -> list[str]:
    """Tabulate the functions in which Python spends the row's time."""
    profiler = cProfile.Profile()
    with tempfile.TemporaryDirectory() as folder:
        profiler.runcall(ROWS[row], settings, Path(folder))
    stats = pstats.Stats(profiler, stream=io.StringIO()).get_stats_profile()
    found = sorted(stats.func_profiles.items(), key=lambda item: item[1].tottime, reverse=True)
    rows = [
        (re.sub(r"<built-in method (.*)>", r"\1", name), figures.tottime, figures.ncalls)
        for name, figures in found[:SHOWN]
    ]
    return table("function", rows, stats.total_tt)


def table(kind: str, rows: Iterable[tuple[str, float, object]], total: float) -> list[str]:
    """Write a table of seconds spent in each, what it calls not counted."""
    return [
        f"| {kind} | seconds | share | calls |",
        "|---|---|---|---|",
        *(f"| `{name}` | {seconds:.2f} | {seconds / total:.0%} | {calls} |" for name, seconds, calls in rows),
        f"| all | {total:.2f} | 100% | |",
        "",
    ]


def main() -> None:
    """Profile all rows and write the tables."""
    settings = from_command_line(Settings("???"))
    quiet_libraries()
    keep_freed_memory()
    for row in TORCH_ROWS:
        print("\n".join([f"## {row}", "", ROWS[row].__doc__ or "", "", *operators(row, settings)]))
    lines = functions(PYTHON_ROW, settings)
    print("\n".join([f"## {PYTHON_ROW}", "", ROWS[PYTHON_ROW].__doc__ or "", "", *lines]))


if __name__ == "__main__":
    main()
