"""Interrupted runs of `python train.py`, taken up again."""

import json
import signal
from pathlib import Path

import pytest
from conftest import TINY, Run
from interrupted_runs import outcome, run, start, stop


def test_a_finished_run_has_no_state_of_its_own_left_and_says_that_it_is_finished(
    uninterrupted: Path, shared_root: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (uninterrupted / "checkpoints").iterdir()}
    assert not [path for path in before if "resume" in path.name]
    assert "is finished" in run(shared_root, uninterrupted, f"resume={uninterrupted}")
    assert before == {path: path.stat().st_mtime_ns for path in (uninterrupted / "checkpoints").iterdir()}


@pytest.mark.slow
@pytest.mark.fault("SIGKILL twice, then `resume=`: ends bit-equal")
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


@pytest.mark.fault("SIGTERM, Ctrl-C: exit 143 and 130, resumed bit-equal")
@pytest.mark.parametrize(
    ("signum", "code", "epochs"),
    [pytest.param(signal.SIGINT, 130, 1, marks=pytest.mark.slow), (signal.SIGTERM, 143, 4)],
)
def test_signals_leave_a_run_to_be_resumed(
    uninterrupted: Path, shared_root: Path, tmp_path: Path, signum: int, code: int, epochs: int
) -> None:
    run_dir = tmp_path / "run"
    returned, output = stop(start(shared_root, run_dir), run_dir, epochs, signum)
    assert returned == code
    assert f"train.py resume={run_dir}" in output
    assert "Traceback" not in output
    run(shared_root, run_dir, f"resume={run_dir}")
    assert outcome(run_dir) == outcome(uninterrupted)


@pytest.mark.fault("newest checkpoint damaged: resumed from the one before, bit-equal")
@pytest.mark.slow
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


@pytest.mark.slow
def test_a_found_learning_rate_is_found_again(shared_root: Path, tmp_path: Path) -> None:
    arguments = ["recipe=head_only", "lr=find", "recipe.precompute.epochs=3", "callbacks.reports=null"]

    def trace(run_dir: Path) -> str:
        metrics = json.loads((run_dir / "metrics.json").read_text())
        assert 1e-6 <= metrics["lr_finder"]["precompute"] < 1
        return (run_dir / "lr_trace.csv").read_text()

    straight, killed = tmp_path / "straight", tmp_path / "killed"
    run(shared_root, straight, *arguments)
    assert stop(start(shared_root, killed, *arguments), killed, 2, signal.SIGKILL)[0] == -signal.SIGKILL
    run(shared_root, killed, f"resume={killed}")
    assert trace(straight) == trace(killed)


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (["hydra.run.dir=RUN", *TINY], "it holds a run already"),
        (["resume=nowhere"], "resume=nowhere: it has no config.yaml"),
        (["resume=RUN", "lr=1"], "drop lr=1"),
    ],
)
def test_mistakes_are_named(
    run_command: Run, uninterrupted: Path, tmp_path: Path, arguments: list[str], culprit: str
) -> None:
    result = run_command("train.py", *[argument.replace("RUN", str(uninterrupted)) for argument in arguments])
    assert result.returncode == 1
    assert culprit in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "nowhere").exists()
