"""Folders that hold something else are left as they are."""

import shutil
from pathlib import Path

import pytest
from conftest import FAST, Run
from lightning_fabric.utilities.rank_zero import rank_zero_only

PHOTO = "predict=photo.jpg"


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def run_dir(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def photo(shared_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(shared_root / "train/cats/cat.0.jpg", tmp_path / "photo.jpg"))


@pytest.mark.fault("evaluate.py is given the folder of something else: refused, every file as before")
@pytest.mark.parametrize(
    "arguments",
    [
        ["hydra.run.dir=run"],
        ["hydra.run.dir=run", PHOTO],
        ["hydra.run.dir=run", "suspects=true"],
        ["hydra.run.dir=run", "export=torch", "trainer.devices=2", "trainer.strategy=ddp"],
        ["hydra.run.dir=notes"],
        ["hydra.run.dir=notes", "RANK=1", "WORLD_SIZE=2"],
        ["-m", "keep=0.8,0.9", "hydra.sweep.dir=notes"],
        ["-m", "keep=0.8,0.9", "hydra.sweep.dir=run"],
    ],
)
def test_evaluation_refuses_the_folder_of_something_else(
    run_command: Run, run_dir: Path, photo: Path, tmp_path: Path, arguments: list[str]
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "metrics.json").write_text("mine")
    before = contents(run_dir) | contents(tmp_path / "notes")
    environment = dict(argument.split("=") for argument in arguments if argument[:4] in ("RANK", "WORL"))
    settings = [argument for argument in arguments if argument.partition("=")[0] not in environment]
    result = run_command("evaluate.py", *settings, "run=run", **environment)
    assert result.returncode == 1
    assert "it holds files of something else. Choose another folder." in result.stderr
    assert "Traceback" not in result.stderr
    assert contents(run_dir) | contents(tmp_path / "notes") == before


def test_the_same_evaluation_may_be_repeated_and_a_finished_prediction_may_not(
    run_command: Run, run_dir: Path, photo: Path, tmp_path: Path
) -> None:
    def code(*arguments: str) -> int:
        return run_command("evaluate.py", "run=run", *arguments, "hydra.run.dir=out").returncode

    assert code("predict=none.jpg") == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["evaluate.log"]  # free for the correct command
    assert code(PHOTO, "callbacks.tta.n_aug=0") == 0
    assert {path.name for path in (tmp_path / "out" / ".hydra").iterdir()} == {
        "config.yaml", "hydra.yaml", "overrides.yaml",
    }  # fmt: skip
    assert code(PHOTO, "callbacks.tta.n_aug=0") == 1
    assert code(PHOTO, "callbacks.tta.n_aug=1") == 1
    (tmp_path / "out" / ".unfinished").write_text("{}")
    assert code(PHOTO, "callbacks.tta.n_aug=1") == 1
    assert code(PHOTO, "callbacks.tta.n_aug=0") == 0


@pytest.mark.fault("train.py is refused in the folder of a run, or of something else: every file as before")
@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (["hydra.run.dir=run"], "it holds a run already"),
        (["resume=run", "lr=1"], "drop lr=1"),
        (["hydra.run.dir=run", "seed=-1", "trainer.devices=2", "RANK=1"], "seed=-1"),
        (["hydra.run.dir=published"], "it holds files of something else"),
    ],
)
def test_a_refused_training_leaves_the_folder_as_it_was(
    run_command: Run, run_dir: Path, shared_root: Path, tmp_path: Path, arguments: list[str], culprit: str
) -> None:
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "model.safetensors").write_text("weights")
    before = contents(run_dir) | contents(tmp_path / "published")
    environment = {"RANK": "1"} if "RANK=1" in arguments else {}
    data = [] if "resume=run" in arguments else [f"data.root={shared_root}", *FAST]
    settings = [argument for argument in arguments if argument != "RANK=1"]
    result = run_command("train.py", *data, *settings, **environment)
    assert result.returncode == 1
    assert culprit in result.stderr
    assert contents(run_dir) | contents(tmp_path / "published") == before


def test_resuming_leaves_what_hydra_wrote(run_command: Run, run_dir: Path) -> None:
    before = contents(run_dir / ".hydra")
    assert len(before) == 3
    assert run_command("train.py", "resume=run").returncode == 0
    assert contents(run_dir / ".hydra") == before


def test_a_refused_training_leaves_its_folder_free(run_command: Run, shared_root: Path, tmp_path: Path) -> None:
    settings = [f"data.root={shared_root}", *FAST, "hydra.run.dir=new"]
    for refused in ("load=photo.jpg", "class_weights=[1,2,3]", "model.name=nonesuch", "++data.valid_fraction=2"):
        assert run_command("train.py", *settings, refused).returncode == 1
        assert not (tmp_path / "new").exists(), refused
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "notes.txt").write_text("mine")
    assert run_command("train.py", *settings, "model.name=nonesuch").returncode == 1
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["notes.txt"]
    assert run_command("train.py", *settings[:-1], "lr=x").returncode == 1
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29511"},
        {"LOCAL_RANK": "1", "RANK": "1", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none", "GROUP_RANK": "0"},
        {
            "SLURM_PROCID": "1",
            "SLURM_LOCALID": "1",
            "SLURM_NTASKS": "2",
            "SLURM_JOB_NAME": "train",
            "SLURM_NODEID": "0",
        },
    ],
)
def test_a_process_of_a_platform_is_a_run_of_its_own(
    run_command: Run, shared_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)  # as when Lightning is imported with these variables
    result = run_command("train.py", f"data.root={shared_root}", *FAST, "hydra.run.dir=own", **environment)
    assert result.returncode == 0, result.stderr
    assert "Stage precompute" in result.stdout
    assert list((tmp_path / "own" / "tensorboard" / "precompute").iterdir())
    assert (tmp_path / "own" / "metrics.json").is_file()
