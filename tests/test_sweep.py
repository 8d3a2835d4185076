"""Sweeps, as a user runs them."""

import csv
import json
from pathlib import Path

import pytest
from conftest import TINY, Run
from PIL import Image

FAST = [*TINY, "recipe=head_only", "callbacks.lr_finder.before=none", "callbacks.reports=null"]


def sweep(tmp_path: Path) -> tuple[Path, list[dict[str, str]]]:
    (folder,) = tmp_path.glob("multirun/*/*")
    with (folder / "sweep.csv").open(newline="") as file:
        return folder, list(csv.DictReader(file))


def test_a_sweep_ends_with_a_table_and_reports_a_failed_job(
    run_command: Run, shared_root: Path, tmp_path: Path
) -> None:
    result = run_command(
        "train.py", "-m", "lr=-1,1e-3,1e-2", f"data.root={shared_root}", *FAST,
        "optimized_metric=final.valid_loss", f"activations.dir={tmp_path / 'cache'}",
    )  # fmt: skip
    assert result.returncode == 1
    assert "Traceback" not in result.stdout + result.stderr
    folder, rows = sweep(tmp_path)
    assert list(rows[0]) == ["job", "lr", "metric", "status", "run_dir"]
    losses = [float(row["metric"]) for row in rows[:2]]
    assert losses == sorted(losses)  # of a loss the lowest is the best
    for row in rows[:2]:
        assert row["status"] == "finished"
        metrics = json.loads((tmp_path / row["run_dir"] / "metrics.json").read_text())
        assert metrics["final"]["valid_loss"] == float(row["metric"])
    assert {row["lr"] for row in rows[:2]} == {"0.001", "0.01"}
    assert (rows[2]["job"], rows[2]["lr"], rows[2]["metric"]) == ("0", "-1", "nan")
    assert rows[2]["status"].startswith("failed: recipe.precompute.lr=-1: expected a positive number")
    assert result.stdout.count("Computing activations of train") == 1
    assert result.stdout.count("Reusing activations of train") == 1
    assert "final.valid_loss  status" in result.stdout
    with Image.open(folder / "sweep.png") as picture:
        assert picture.width == 800
    assert len(list(folder.glob("*/tensorboard/precompute"))) == 2


@pytest.mark.slow
def test_jobs_can_run_in_parallel(run_process: Run, shared_root: Path, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs the extra 'sweep'")
    result = run_process(
        "train.py", "-m", "lr=1e-3,1e-2", f"data.root={shared_root}", *FAST, "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2", f"activations.dir={tmp_path / 'cache'}", "data.num_workers=0",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    _, rows = sweep(tmp_path)
    assert {row["lr"] for row in rows} == {"0.001", "0.01"}
    assert {row["status"] for row in rows} == {"finished"}
    assert len(list((tmp_path / "cache").glob("activations-*.npy"))) == 2  # train and valid, once each


def test_a_multirun_of_several_ranks_a_job_is_refused(run_command: Run, shared_root: Path, tmp_path: Path) -> None:
    result = run_command(
        "train.py", "-m", "lr=1e-3,1e-2", f"data.root={shared_root}", *FAST, "trainer=ddp",
        "trainer.devices=2", "trainer.accelerator=cpu",
    )  # fmt: skip
    assert result.returncode == 1
    assert "a multirun (-m) cannot start several processes a job" in result.stderr + result.stdout
    assert "hydra/launcher=slurm" in result.stderr + result.stdout
