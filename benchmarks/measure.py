"""One measurement, in a process of its own: `python -m benchmarks.measure ours.frozen <folder> photos=...`.

The last line that it prints is JSON: `seconds`, and `peak_rss_mb` of this process (not of its workers). All
imports come before the clock starts.
"""

import importlib
import json
import sys
import warnings
from pathlib import Path

from benchmarks.settings import Settings, from_command_line
from dogscats.console import quiet_libraries
from dogscats.memory import keep_freed_memory
from dogscats.report import peak_rss_mb


def main() -> None:
    """Do one row's work once."""
    side, _, row = sys.argv.pop(1).partition(".")
    folder = Path(sys.argv.pop(1))
    settings = from_command_line(Settings("???"))
    warnings.simplefilter("ignore")
    quiet_libraries()
    if side == "ours":
        keep_freed_memory()  # as train.py does
    rows = importlib.import_module(f"benchmarks.{side}").ROWS
    seconds = rows[row](settings, folder)
    print(json.dumps({"seconds": seconds, "peak_rss_mb": peak_rss_mb()}))


if __name__ == "__main__":
    main()
