"""Predictions are written as they come; what was stopped is continued by the same command, with the same result."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY, Run, draw_folder, draw_photo, offline

from dogscats.base.errors import Failure
from dogscats.predict import predictor
from dogscats.predict.growing import GrowingPredictions

COUNT = 33
"""Photos of `photos`; two more cannot be read."""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = draw_folder(tmp_path / "photos", COUNT)
    for number in (4, 21):
        (folder / f"{number}b.jpg").write_bytes(b"no photo")
    return folder


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 10 photos."""
    monkeypatch.setattr(predictor, "FEWEST_AT_ONCE", 10)
    monkeypatch.setattr(predictor, "MOST_AT_ONCE", 10)


@pytest.fixture
def command(finished: Path) -> list[str]:
    return [f"run={finished}", "predict=photos", "data.batch_size=4", "callbacks.tta.n_aug=1"]


def results(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.csv")}


def stop_after(parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a prediction fail after some parts, as on a full disk."""
    append, left = GrowingPredictions.append, iter(range(parts))

    def fail(*arguments: object) -> None:
        if next(left, None) is None:
            raise Failure("stopped")
        append(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(GrowingPredictions, "append", fail)


@pytest.mark.usefixtures("photos")
def test_resumed_predictions_are_those_of_an_uninterrupted_command(
    run_command: Run,
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    whole = run_command("evaluate.py", *command, "sort=copy", "hydra.run.dir=whole")
    assert whole.returncode == 0, whole.stderr
    request.getfixturevalue("in_parts")
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        stopped = run_command("evaluate.py", *command, "sort=copy", "hydra.run.dir=out")
    assert stopped.returncode == 1
    file = tmp_path / "out" / "predictions.csv"
    lines = file.read_bytes().splitlines(keepends=True)
    assert 1 + 12 <= len(lines) <= 1 + 20
    assert (tmp_path / "whole" / "predictions.csv").read_bytes().startswith(b"".join(lines))
    file.write_bytes(file.read_bytes()[:-7])  # a kill may leave half a row

    other = run_command("evaluate.py", *command, "hydra.run.dir=out")
    assert other.returncode == 1
    assert "it holds files of something else" in other.stderr

    resumed = run_command("evaluate.py", *command, "sort=copy", "hydra.run.dir=out")
    assert resumed.returncode == 0, resumed.stderr
    assert "of them are done" in resumed.stdout
    assert results(tmp_path / "out") == results(tmp_path / "whole")
    assert len(results(tmp_path / "out")) == 3
    for said in ("33 photos: ", "2 cannot be read", "photos/4b.jpg", "photos/21b.jpg"):
        assert said in resumed.stdout
        assert said in whole.stdout

    again = run_command("evaluate.py", *command, "sort=copy", "hydra.run.dir=out")
    assert again.returncode == 1
    assert "finished" in again.stderr


@pytest.mark.usefixtures("in_parts")
def test_what_has_changed_is_predicted_again(
    run_command: Run, command: list[str], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        assert run_command("evaluate.py", *command, "hydra.run.dir=out").returncode == 1
    draw_photo(photos / "9b.jpg", 0, 99)
    (photos / "12.jpg").unlink()
    resumed = run_command("evaluate.py", *command, "hydra.run.dir=out")
    assert "Resuming  9 of them are done" in resumed.stdout  # two batches of 4, and one that cannot be read
    assert run_command("evaluate.py", *command, "hydra.run.dir=whole").returncode == 0
    assert results(tmp_path / "out") == results(tmp_path / "whole")


@pytest.mark.usefixtures("photos")
def test_what_is_made_of_all_predictions_is_made_when_it_was_stopped(
    run_command: Run, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise Failure("The disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("dogscats.predict.sorting._put", fail)
        assert run_command("evaluate.py", *command, "sort=link", "hydra.run.dir=out").returncode == 1
    file = tmp_path / "out" / "predictions.csv"
    before = file.read_bytes()
    resumed = run_command("evaluate.py", *command, "sort=link", "hydra.run.dir=out")
    assert resumed.returncode == 0, resumed.stderr
    assert "Resuming  35 of them are done" in resumed.stdout
    assert f"Sorted    {COUNT} photos" in resumed.stdout
    assert file.read_bytes() == before
    assert not (tmp_path / "out" / ".unfinished").exists()


@pytest.mark.usefixtures("in_parts", "photos")
def test_a_limit_holds_for_all_parts_together(run_command: Run, command: list[str], tmp_path: Path) -> None:
    limited = [*command, "+trainer.limit_predict_batches=5", "hydra.run.dir=out"]
    assert run_command("evaluate.py", *limited).returncode == 0
    assert len((tmp_path / "out" / "predictions.csv").read_text().splitlines()) == 1 + 20


@pytest.mark.slow
@pytest.mark.fault("predict= is killed with kill -9: the same command continues, with the same bytes")
@pytest.mark.usefixtures("photos")
def test_a_killed_prediction_is_continued(run_command: Run, command: list[str], tmp_path: Path) -> None:
    draw_folder(tmp_path / "photos", 700)
    process = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "evaluate.py"), *command, "hydra.run.dir=out"],
        cwd=tmp_path,
        env=os.environ | offline(tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    file = tmp_path / "out" / "predictions.csv"
    while not file.exists() or file.stat().st_size < 1000:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = run_command("evaluate.py", *command, "hydra.run.dir=out")
    assert resumed.returncode == 0, resumed.stderr
    assert "of them are done" in resumed.stdout
    assert run_command("evaluate.py", *command, "hydra.run.dir=whole").returncode == 0
    assert results(tmp_path / "out") == results(tmp_path / "whole")
