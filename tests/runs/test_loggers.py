"""Loggers that cannot be started, or fail later."""

import csv
import time
from pathlib import Path

import pytest
from conftest import HEAD, Run

from dogscats.runs import loggers

FRAGILE = (
    "+logger.mine={_target_: mine.Fragile, save_dir: '{run_dir}/mine', name: '', version: '{stage}', on: %s, stage: %s}"
)


def logged(file: Path) -> list[str]:
    with file.open(newline="") as rows:
        return [row["valid_loss"] for row in csv.DictReader(rows) if row.get("valid_loss")]


@pytest.mark.parametrize("on", ["start", pytest.param("start hangs", marks=pytest.mark.slow)])
def test_a_logger_that_cannot_be_started(
    run_command: Run, shared_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on: str
) -> None:
    monkeypatch.setattr(loggers, "MOST_IDLE", 2)
    started = time.monotonic()
    settings = [f"data.root={shared_root}", *HEAD, "~callbacks.reports.pictures", "hydra.run.dir=run"]
    result = run_command("train.py", *settings, FRAGILE % (on, "''"))
    assert result.returncode == 1
    reason = "no answer within 2 seconds" if "hangs" in on else "the server has gone"
    assert result.stderr.splitlines()[-1] == (
        f"error: logger.mine: it cannot be started ({reason}). Correct its settings, or leave it out."
    )
    assert "Traceback" not in result.stderr
    assert time.monotonic() - started < 40
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize(
    ("on", "stage"), [("log", "''"), ("start", "final"), ("image", "final"), ("end", "precompute")]
)
def test_a_logger_that_fails_later(run_command: Run, shared_root: Path, tmp_path: Path, on: str, stage: str) -> None:
    settings = [f"data.root={shared_root}", *HEAD, "recipe.precompute.epochs=3", "~callbacks.reports.pictures"]
    result = run_command("train.py", *settings, FRAGILE % (on, stage), "hydra.run.dir=run")
    assert result.returncode == 0, result.stderr
    failures = result.stdout.count("logger.mine fails (the server has gone): what it does not take")
    assert failures == (2 if on == "log" else 1)  # each stage has a new one
    unlogged = tmp_path / "run" / "unlogged" / "mine"
    if on == "log":
        assert len(logged(unlogged / "precompute" / "metrics.csv")) == 3
    if on in ("log", "start", "image"):
        assert "final.valid_acc" in (unlogged / "final" / "metrics.csv").read_text()
    assert (tmp_path / "run" / "metrics.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("logger", "environment", "advice"),
    [
        ("wandb", {}, "set WANDB_API_KEY, or set logger.wandb.offline=true"),
        ("wandb", {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}, "logger.wandb.offline=true"),
        ("mlflow", {}, "logger.mlflow.tracking_uri"),
    ],
)
def test_clients_without_a_server(
    run_process: Run, shared_root: Path, logger: str, environment: dict[str, str], advice: str
) -> None:
    pytest.importorskip(logger, reason=f"{logger} is not installed")
    more = ["logger.mlflow.tracking_uri=http://127.0.0.1:9"] if logger == "mlflow" else []
    result = run_process("train.py", f"data.root={shared_root}", *HEAD, f"logger={logger}", *more, **environment)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr + result.stdout
    assert f"error: logger.{logger}: it cannot be started" in result.stderr
    assert advice in result.stderr
