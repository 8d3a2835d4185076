"""The newest runs below `outputs/` and `multirun/`: what `run=last` and `resume=last` stand for."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from dogscats.base.errors import UserError
from dogscats.base.files import read_json
from dogscats.base.text import listed

FOLDERS = ("outputs", "multirun")
"""Folders of runs in the working directory."""

LAST = "last"


def newest_run(key: str, source: str | Path = LAST) -> Path:
    """Return the run that a setting names; `last` is the newest.

    Args:
        key: `run` or `load`, of finished runs, or `resume`, of unfinished ones.
        source: value of the setting.

    Raises:
        UserError: if there is no run.
    """
    if source != LAST:
        return Path(source)
    runs = newest_runs(finished=key != "resume")
    if not runs:
        kind, folders = "unfinished" if key == "resume" else "finished", " or ".join(f"{name}/" for name in FOLDERS)
        raise UserError(f"{key}={LAST}: there is no {kind} run of train.py below {folders}. Give its directory.")
    return runs[0]


def newest_runs(finished: bool) -> list[Path]:
    """List the runs of train.py that are finished, or those that are not; newest first, by their last progress."""
    runs = [run_dir for name in FOLDERS for run_dir in run_directories(Path(name)) if _is_finished(run_dir) is finished]
    return sorted(runs, key=lambda run_dir: (_last_progress(run_dir), run_dir), reverse=True)


def newest_named(finished: bool = True) -> str:
    """Return a sentence with the newest three runs, for an error message; empty without runs."""
    runs = [str(run_dir) for run_dir in newest_runs(finished)[:3]]
    return f" The newest: {listed(runs)}." if runs else ""


def run_directories(folder: Path) -> Iterator[Path]:
    """Yield the directories of runs of train.py at any depth, also those of the jobs of a sweep."""
    for name, children, files in os.walk(folder, followlinks=True):
        children[:] = [child for child in children if not child.startswith(".")]
        if "config.yaml" in files:
            children.clear()
            config = (Path(name) / "config.yaml").read_text(encoding="utf-8", errors="replace")
            if re.search("^recipe:", config, re.MULTILINE):  # evaluations have none
                yield Path(name)


def _is_finished(run_dir: Path) -> bool:
    """Return whether a run has predicted the validation photos and written its report."""
    try:
        metrics = read_json(run_dir / "metrics.json")
    except UserError:  # damaged
        return False
    return isinstance(metrics, dict) and bool(metrics.get("final")) and not (run_dir / ".unreported").exists()


def _last_progress(run_dir: Path) -> float:
    """Time at which the run was started or resumed, or finished a stage, whichever is later."""
    files = [run_dir / name for name in ("config.yaml", "environment.json", "metrics.json")]
    return max(file.stat().st_mtime for file in files if file.exists())
