"""Profiles: `python -m benchmarks.profiler photos=... weights=...` prints the tables of `docs/measurements/profile.md`.

PyTorch's profiler runs on the rows `head_first`, `frozen` and `unfrozen` of `ours.py`; Python's profiler runs on
`load_augmented`, which only loads photos. DataLoader workers are separate processes; the main process waits for them in
`_next_data`.
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
from dogscats.base.console import quiet_libraries
from dogscats.runs.launch import keep_freed_memory

TORCH_ROWS = ("head_first", "frozen", "unfrozen")
PYTHON_ROW = "load_augmented"
SHOWN = 10
"""Number of lines per table."""


def operators(row: str, settings: Settings) -> list[str]:
    """Tabulate the PyTorch operators in which a row spends its time."""
    with tempfile.TemporaryDirectory() as folder, profile(activities=[ProfilerActivity.CPU]) as profiler:
        ROWS[row](settings, Path(folder))
    events = [event for event in profiler.key_averages() if not event.key.startswith("ProfilerStep")]
    total = sum(event.self_cpu_time_total for event in events)
    events.sort(key=lambda event: event.self_cpu_time_total, reverse=True)
    rows = [(event.key, event.self_cpu_time_total / 1e6, event.count) for event in events[:SHOWN]]
    return table("operator", rows, total / 1e6)


def functions(row: str, settings: Settings) -> list[str]:
    """Tabulate the Python functions in which a row spends its time."""
    profiler = cProfile.Profile()
    with tempfile.TemporaryDirectory() as folder:
        profiler.runcall(ROWS[row], settings, Path(folder))
    stats = pstats.Stats(profiler, stream=io.StringIO()).get_stats_profile()
    found = sorted(stats.func_profiles.items(), key=lambda item: item[1].tottime, reverse=True)
    rows = [
        (re.sub(r"<built-in method (.*)>", r"\1", name), metrics.tottime, metrics.ncalls)
        for name, metrics in found[:SHOWN]
    ]
    return table("function", rows, stats.total_tt)


def table(kind: str, rows: Iterable[tuple[str, float, object]], total: float) -> list[str]:
    """Write a table of the seconds spent in each, excluding callees."""
    return [
        f"| {kind} | seconds | share | calls |",
        "|---|---|---|---|",
        *(f"| `{name}` | {seconds:.2f} | {seconds / total:.0%} | {calls} |" for name, seconds, calls in rows),
        f"| all | {total:.2f} | 100% | |",
        "",
    ]


def main() -> None:
    """Profile all rows and print the tables."""
    settings = from_command_line(Settings("???"))
    quiet_libraries()
    keep_freed_memory()
    for row in TORCH_ROWS:
        print("\n".join([f"## {row}", "", ROWS[row].__doc__ or "", "", *operators(row, settings)]))
    lines = functions(PYTHON_ROW, settings)
    print("\n".join([f"## {PYTHON_ROW}", "", ROWS[PYTHON_ROW].__doc__ or "", "", *lines]))


if __name__ == "__main__":
    main()
