"""Runs of `python train.py` that tests interrupt and compare."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from conftest import QUIET, REPOSITORY, TINY, command_runner

SCRIPT = REPOSITORY / "train.py"

# Cached, frozen and unfrozen stages of several epochs, small enough to be killed in.
RECIPE = [
    "recipe.precompute.epochs=3",
    "recipe.finetune.cycles=2",
    "recipe.finetune.save=null",
    *QUIET,
]


def settings(root: Path, run_dir: Path, *arguments: str) -> list[str]:
    """Settings of a new run, of `RECIPE` unless others are given, or of one to resume."""
    if any(argument.startswith("resume=") for argument in arguments):
        return list(arguments)
    if "-m" in arguments:
        return ["-m", f"data.root={root}", *TINY, *(argument for argument in arguments if argument != "-m")]
    return [f"data.root={root}", f"hydra.run.dir={run_dir}", *TINY, *(arguments or RECIPE)]


def start(
    root: Path, run_dir: Path, *arguments: str, before: Callable[[], object] | None = None, group: bool = False
) -> subprocess.Popen[str]:
    """Start or resume a run in a process, and with `group` a process group, of its own, which can be killed."""
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *settings(root, run_dir, *arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=run_dir.parent,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},  # which would stay incomplete on a disk that is full
        preexec_fn=before,
        start_new_session=group,
    )


def run(root: Path, run_dir: Path, *arguments: str) -> str:
    """Make or resume a run, to its end, in this process: that takes seconds less."""
    result = command_runner(run_dir.parent)("train.py", *settings(root, run_dir, *arguments))
    assert result.returncode == 0, result.stderr
    return result.stdout


def rows(file: Path) -> int:
    return len(file.read_text().splitlines()) - 1 if file.exists() else 0


def stop(process: subprocess.Popen[str], run_dir: Path, epochs: int, signum: int) -> tuple[int, str]:
    """Send a signal once so many epochs are in `history.csv`; give the exit code and what was printed."""
    while rows(run_dir / "history.csv") < epochs:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(signum)
    output, errors = process.communicate()
    return process.returncode, output + errors


def outcome(run_dir: Path) -> dict[str, Any]:
    """What must not depend on interruptions: weights, metrics, predictions, learning rates, but no times."""
    metrics = json.loads((run_dir / "metrics.json").read_text())
    for timed in (metrics, *metrics["stages"].values()):
        timed.pop("seconds")
    metrics.pop("peak_rss_mb")
    history = [line.rsplit(",", 1)[0] for line in (run_dir / "history.csv").read_text().splitlines()]
    weights = {}
    for name in ("last.ckpt", "224_lastlayer.ckpt"):
        state = torch.load(run_dir / "checkpoints" / name, weights_only=True)["state_dict"]
        weights[name] = {key: value.numpy().tobytes() for key, value in state.items()}
    files = {name: (run_dir / name).read_text() for name in ("lr_trace.csv", "predictions_valid.csv")}
    return {"metrics": metrics, "history": history, "weights": weights, **files}
