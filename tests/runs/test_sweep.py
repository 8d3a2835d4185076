"""Sweeps, as a user runs them."""

import csv
import json
from pathlib import Path

import pytest
from conftest import FAST, Run
from filelock import FileLock
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from PIL import Image

from dogscats.base.environment import CONF
from dogscats.base.errors import UserError
from dogscats.runs.settings import check_settings


def sweep_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def sweep(tmp_path: Path) -> tuple[Path, list[dict[str, str]]]:
    (folder,) = tmp_path.glob("multirun/*/*")
    return folder, sweep_rows(folder)


@pytest.fixture
def empty_roots(tmp_path: Path) -> str:
    """Setting of two folders without photos: each job of the sweep fails when it looks for them."""
    for name in ("no1", "no2"):
        (tmp_path / name).mkdir()
    return "data.root=no1,no2"


@pytest.mark.slow
@pytest.mark.draws
def test_a_sweep_ends_with_a_table_and_reports_a_job_that_diverges(
    run_command: Run, shared_root: Path, tmp_path: Path
) -> None:
    result = run_command(
        "train.py", "-m", "lr=1e-3,1e30,1e-2", f"data.root={shared_root}", *FAST,
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
    assert (rows[2]["job"], rows[2]["lr"], rows[2]["metric"]) == ("1", "1e+30", "nan")
    assert rows[2]["status"].startswith("diverged: Stage precompute diverged: non-finite")
    assert result.stdout.count("Computing activations of train") == 1
    assert result.stdout.count("Reusing activations of train") == 4  # two by training, and at the end of two
    assert "final.valid_loss  status" in result.stdout
    with Image.open(folder / "sweep.png") as picture:
        assert picture.width == 800
    assert len(list(folder.glob("*/tensorboard/precompute"))) == 3


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
    assert "a multirun (-m) cannot start several ranks per job" in result.stderr + result.stdout
    assert "hydra/launcher=slurm" in result.stderr + result.stdout


@pytest.mark.parametrize(
    ("swept", "message"),
    [
        (["lr=1e-3,1e-2,-1"], "job 2, lr=-1: recipe.precompute.lr=-1: expected a positive number"),
        (["lr=1e-3,1e-2", "data.size=32,0"], "job 1, lr=0.001 data.size=0: data.size=0: expected a whole number"),
        (["data.root=.,/nowhere"], "job 1, data.root=/nowhere: data.root=/nowhere: there is no such folder"),
        (["heads=1,none"], "job 1, heads=none: heads=none: expected a whole number"),
        (["recipe=small,auto"], "job 1, recipe=auto: recipe=auto: it cannot be swept"),
        (["model=resnet34,resnet35"], "job 1, model=resnet35: model=resnet35: there is no such choice"),
        (["lr=-1,1e-3"], "job 0, lr=-1: recipe.precompute.lr=-1: expected a positive number"),
        (["lr=-1"], "recipe.precompute.lr=-1: expected a positive number"),
    ],
)
def test_a_sweep_with_a_wrong_value_starts_no_job(
    run_command: Run, tmp_path: Path, swept: list[str], message: str
) -> None:
    given = [] if swept[0].startswith("recipe=") else ["recipe=head_only"]
    result = run_command("train.py", "-m", "data.root=.", *given, *swept)
    assert result.returncode == 1
    assert f"error: {message}" in result.stderr
    assert "Traceback" not in result.stderr
    assert [*tmp_path.iterdir()] == []


def test_photos_of_other_machines_are_not_looked_for() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        given = ["data.root=/nowhere", "hydra.runtime.output_dir=x", "hydra.job.num=0", "hydra.job.id=0"]
        cfg = compose("train", given, return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    assert check_settings(cfg, here=False).values["data"]["root"] == "/nowhere"
    with pytest.raises(UserError, match=r"root=/nowhere: there is no such folder"):
        check_settings(cfg)


@pytest.mark.fault("every job of a sweep fails, in folders of any name: table, exit 1")
@pytest.mark.parametrize("subdir", ["a/b/${hydra.job.num}", "same"])
def test_failed_jobs_are_in_the_table_whatever_their_folder(
    run_command: Run, empty_roots: str, tmp_path: Path, subdir: str
) -> None:
    result = run_command("train.py", "-m", empty_roots, f"hydra.sweep.subdir={subdir}")
    assert result.returncode == 1
    assert "error: 2 of 2 jobs failed" in result.stderr
    _, rows = sweep(tmp_path)
    assert [(row["job"], row["data.root"]) for row in rows] == [("0", "no1"), ("1", "no2")]
    assert rows[0]["status"].startswith("failed: data.root=no1: it has no folder train/")
    assert rows[1]["status"].startswith("failed: data.root=no2: it has no folder train/")


@pytest.mark.fault("a table of a sweep that cannot be made: exit 1 all the same")
def test_the_exit_code_does_not_depend_on_the_report(
    run_command: Run, empty_roots: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dogscats.runs.sweep.draw_sweep", lambda *_: 1 / 0)
    result = run_command("train.py", "-m", empty_roots)
    assert result.returncode == 1
    assert "the table of the sweep cannot be made" in result.stderr
    assert [row["run_dir"].rpartition("/")[2] for row in sweep(tmp_path)[1]] == ["0", "1"]


@pytest.mark.slow
@pytest.mark.fault("the folder of a sweep holds another, or a run: refused, every file as before")
def test_a_refused_sweep_or_run_writes_nothing(run_command: Run, shared_root: Path, tmp_path: Path) -> None:
    data = [f"data.root={shared_root}", *FAST, f"activations.dir={tmp_path / 'cache'}"]
    assert run_command("train.py", "-m", "lr=1e-3,1e-2", *data, "hydra.sweep.dir=sweep").returncode == 0
    before = contents(tmp_path / "sweep")
    for arguments in (["-m", "lr=2e-3,2e-2", "hydra.sweep.dir=sweep"], ["hydra.run.dir=sweep/0"]):
        result = run_command("train.py", *arguments, *data)
        assert result.returncode == 1
        assert "it holds" in result.stderr
        assert contents(tmp_path / "sweep") == before
    again = run_command("train.py", "-m", "lr=1e-3,1e-2", *data, "hydra.sweep.dir=sweep")  # continued: all is there
    assert again.returncode == 0
    assert "Stage precompute" not in again.stdout
    assert {row["status"] for row in sweep_rows(tmp_path / "sweep")} == {"finished"}


@pytest.mark.slow
def test_one_process_at_a_time_runs_a_sweep(
    run_command: Run, empty_roots: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dogscats.base.locks.SECONDS_BEFORE_NOTICE", 0.01)
    (tmp_path / "sweep" / ".sweep").mkdir(parents=True)
    with FileLock(tmp_path / "sweep" / ".sweep" / "running.lock"):
        result = run_command("train.py", "-m", empty_roots, "hydra.sweep.dir=sweep")
    assert result.returncode == 1
    assert "another process is working on it" in result.stderr
    assert not list((tmp_path / "sweep").glob("[0-9]*"))


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
