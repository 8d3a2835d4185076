"""Interrupted runs of `python train.py`, taken up again."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPOSITORY, TINY

Run = Callable[..., subprocess.CompletedProcess[str]]

# Cached, frozen and unfrozen stages of several epochs, small enough to be killed in.
RECIPE = [
    "recipe.precompute.epochs=3",
    "recipe.finetune.cycles=2",
    "recipe.finetune.save=null",
    "callbacks.lr_finder.before=none",
    "callbacks.reports=null",
]


def start(root: Path, run_dir: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a new run, of `RECIPE` unless other settings are given, or resume one."""
    command = [sys.executable, str(REPOSITORY / "train.py")]
    if any(argument.startswith("resume=") for argument in arguments):
        command += arguments
    else:
        command += [f"data.root={root}", f"hydra.run.dir={run_dir}", *TINY, *(arguments or RECIPE)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=run_dir.parent
    )


def run(root: Path, run_dir: Path, *arguments: str) -> str:
    process = start(root, run_dir, *arguments)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return output


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


@pytest.fixture(scope="module")
def uninterrupted(shared_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("uninterrupted") / "run"
    run(shared_root, run_dir)
    return run_dir


def test_a_finished_run_has_no_state_of_its_own_left_and_says_that_it_is_finished(
    uninterrupted: Path, shared_root: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (uninterrupted / "checkpoints").iterdir()}
    assert not [path for path in before if "resume" in path.name]
    assert "is finished" in run(shared_root, uninterrupted, f"resume={uninterrupted}")
    assert before == {path: path.stat().st_mtime_ns for path in (uninterrupted / "checkpoints").iterdir()}


def test_killed_twice_it_ends_as_if_nothing_had_happened(
    uninterrupted: Path, shared_root: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    assert stop(start(shared_root, run_dir), run_dir, 2, signal.SIGKILL)[0] == -signal.SIGKILL
    resumed = start(shared_root, run_dir, f"resume={run_dir}")
    assert stop(resumed, run_dir, 7, signal.SIGKILL)[0] == -signal.SIGKILL
    output = run(shared_root, run_dir, f"resume={run_dir}")
    assert "Stage finetune" in output
    assert "Stage precompute" not in output
    assert outcome(run_dir) == outcome(uninterrupted)
    assert not list(tmp_path.glob("outputs"))


@pytest.mark.parametrize(("signum", "code", "epochs"), [(signal.SIGINT, 130, 1), (signal.SIGTERM, 143, 4)])
def test_signals_leave_a_run_to_be_resumed(
    uninterrupted: Path, shared_root: Path, tmp_path: Path, signum: int, code: int, epochs: int
) -> None:
    run_dir = tmp_path / "run"
    returned, output = stop(start(shared_root, run_dir), run_dir, epochs, signum)
    assert returned == code
    assert f"python train.py resume={run_dir}" in output
    assert "Traceback" not in output
    run(shared_root, run_dir, f"resume={run_dir}")
    assert outcome(run_dir) == outcome(uninterrupted)


@pytest.mark.parametrize("damaged", ["last.ckpt", "resume_finetune.ckpt"])
def test_from_a_damaged_checkpoint_it_falls_back_to_the_newest_whole_one(
    uninterrupted: Path, shared_root: Path, tmp_path: Path, damaged: str
) -> None:
    run_dir = tmp_path / "run"
    stop(start(shared_root, run_dir), run_dir, 8, signal.SIGKILL)  # in the third stage's second epoch
    file = run_dir / "checkpoints" / damaged
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    output = run(shared_root, run_dir, f"resume={run_dir}")
    assert f"{damaged}: it is damaged" in output
    assert outcome(run_dir) == outcome(uninterrupted)


def test_a_found_learning_rate_is_found_again(shared_root: Path, tmp_path: Path) -> None:
    arguments = ["recipe=head_only", "lr=find", "recipe.precompute.epochs=3", "callbacks.reports=null"]

    def trace(name: str, *epochs: int) -> str:
        run_dir = tmp_path / name
        process = start(shared_root, run_dir, *arguments)
        for wanted in epochs:
            stop(process, run_dir, wanted, signal.SIGKILL)
            process = start(shared_root, run_dir, f"resume={run_dir}")
        process.communicate()
        assert process.returncode == 0
        metrics = json.loads((run_dir / "metrics.json").read_text())
        assert 1e-6 <= metrics["lr_finder"]["precompute"] < 1
        return (run_dir / "lr_trace.csv").read_text()

    assert trace("straight") == trace("killed", 2)


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [(["resume=nowhere"], "resume=nowhere: it has no config.yaml"), (["resume=RUN", "lr=1"], "drop lr=1")],
)
def test_mistakes_are_named(
    run_command: Run, uninterrupted: Path, tmp_path: Path, arguments: list[str], culprit: str
) -> None:
    result = run_command("train.py", *[argument.replace("RUN", str(uninterrupted)) for argument in arguments])
    assert result.returncode == 1
    assert culprit in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "nowhere").exists()
