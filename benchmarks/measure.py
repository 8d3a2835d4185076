"""One measurement in a separate process: `python -m benchmarks.measure ours.frozen <folder> photos=...`.

The last printed line is JSON: `seconds`, and `peak_rss_mb` of this process without its workers. Imports are not timed.
"""

import importlib
import json
import sys
import warnings
from pathlib import Path

from benchmarks.settings import Settings, from_command_line
from dogscats.base.console import peak_rss_mb, quiet_libraries
from dogscats.runs.launch import keep_freed_memory


def main() -> None:
    """Run one row once."""
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
