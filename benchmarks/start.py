"""Time from process start to the first training step, on augmented photos with a frozen body.

`python -m benchmarks.start ours|with_fastai <folder> photos=...` prints the Unix time at which the first training step
begins, and exits. The photos must have been read and checked before.
"""

import runpy
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.settings import Settings, from_command_line


def ours(settings: Settings, folder: Path) -> None:
    """Run `train.py` as from the command line."""
    from benchmarks.ours import IN_THE_LOOP, REPOSITORY, overrides
    from dogscats.lesson.classifier import Classifier

    Classifier.training_step = stop  # type: ignore[method-assign, assignment]
    sys.argv = ["train.py", *overrides(settings, folder), *IN_THE_LOOP]
    sys.argv.append(f"hydra.run.dir={folder / str(time.time_ns())}")
    runpy.run_path(str(REPOSITORY / "train.py"), run_name="__main__")


def with_fastai(settings: Settings, folder: Path) -> None:
    """Make a fastai learner and fit it."""
    from benchmarks.with_fastai import fit, make_learner

    learner = make_learner(settings, augment=True)
    learner._do_one_batch = stop
    fit(learner, 1)


def stop(*_: Any) -> None:
    """Replace the training step: print the time and exit."""
    print(f"\n{time.time()}", flush=True)
    raise SystemExit(0)


def main() -> None:
    """Run the chosen side."""
    start = {"ours": ours, "with_fastai": with_fastai}[sys.argv.pop(1)]
    folder = Path(sys.argv.pop(1))
    start(from_command_line(Settings("???")), folder)


if __name__ == "__main__":
    main()
