"""What comes from elsewhere, or from a mistake, is bounded, checked, and refused in one message."""

import io
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
import torch
from conftest import FAST, QUIET, TINY, Run, command_runner

from dogscats import Predictor
from dogscats.base.errors import UserError
from dogscats.base.locks import locked
from dogscats.data.loading.cached_array import read_array, seal_array
from dogscats.lesson.lr_finder import LRCurve
from dogscats.runs.checkpoint import read_checkpoint

WRONG = [
    *("seed=-1", "seed=two", "heads=0", "heads=10000000", "activations.views=-1", "trainer.devices=two"),
    *("trainer.num_nodes=1e400", "augment.max_zoom=big", "augment.degrees=-1", "augment.lighting=[]"),
    *("data.size=100000", "data.root=null", "data.download=2", "data.augment=two", "data.changed=maybe"),
    *("data.valid_fraction=2", "data.batch_size=1", "class_weights=heavy", "model.weights=null", "trust=maybe"),
    *("callbacks.sgdr.fastai_start=two", "recipe.precompute.save=resume_x", "recipe.precompute.lr=nan"),
    *("optimized_metric=final.beauty", "optimized_metric=final.valid_acc_tta", "optimized_metric=stages.x.valid_acc"),
    *("optimized_metric=5", "recipe=null", "model=null", "data._target_=two", "augment._partial_=two"),
]


@pytest.mark.fault("settings that can only be wrong: refused in one message before anything is computed")
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_settings_are_refused_first(run_command: Run, shared_root: Path, tmp_path: Path, wrong: str) -> None:
    key = wrong.partition("=")[0]
    arguments = [argument for argument in FAST if argument.partition("=")[0] != key]
    root = [] if key == "data.root" else [f"data.root={shared_root}"]
    result = run_command("train.py", *root, *arguments, wrong, "hydra.run.dir=run")
    assert result.returncode == 1
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert key.rpartition(".")[2] in line
    assert "Stage" not in result.stdout
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.fixture(scope="module")
def trained(finished: Path) -> Path:
    return finished / "checkpoints" / "last.ckpt"


@pytest.mark.fault("checkpoint of odd content or size: refused in one message, without filling the memory")
@pytest.mark.parametrize(
    "change",
    [
        {"heads": 10_000_000},
        {"size": 100_000},
        {"size": "big"},
        {"classes": 7},
        {"classes": []},
        {"data": 7},
        {"augment": []},
        {"model": {"_target_": "dogscats.timm_backbone", "name": 7}},
        {"seed": "x"},
        {"classes": [["a"], ["b"]]},
    ],
    ids=str,
)
def test_odd_checkpoints_are_refused(trained: Path, run_command: Run, tmp_path: Path, change: dict[str, Any]) -> None:
    checkpoint = torch.load(trained, weights_only=True)
    checkpoint["hyper_parameters"] |= change
    torch.save(checkpoint, tmp_path / "odd.ckpt")
    result = run_command("evaluate.py", "ckpt=odd.ckpt")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "odd.ckpt" in result.stderr or "data" in result.stderr


@pytest.mark.parametrize(
    "content", [7, [], {}, {"state_dict": 7}, {"state_dict": {}, "hyper_parameters": None}], ids=str
)
def test_checkpoints_of_another_shape_are_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "odd.ckpt")
    with pytest.raises(UserError, match=r"odd\.ckpt"):
        Predictor.load(tmp_path / "odd.ckpt")


def test_a_checkpoint_that_unpacks_to_more_than_its_size_is_refused(tmp_path: Path) -> None:
    stored = io.BytesIO()
    torch.save({"weights": torch.zeros(2_000_000)}, stored)
    with zipfile.ZipFile(stored) as old, zipfile.ZipFile(tmp_path / "bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member))
    assert (tmp_path / "bomb.ckpt").stat().st_size < 100_000
    with pytest.raises(UserError, match=r"MB would unpack to 8\.0 MB"):
        read_checkpoint(tmp_path / "bomb.ckpt")


@pytest.mark.fault("activation cache with the right checksum, but another shape or type, NaN, or a pipe: not used")
def test_arrays_that_are_not_what_is_expected_are_not_used(tmp_path: Path) -> None:
    def reads(array: np.ndarray[Any, Any]) -> bool:
        np.save(tmp_path / "a.npy", array)
        seal_array(tmp_path / "a.npy")
        return read_array(tmp_path / "a.npy", (3, 2)) is not None

    good = np.ones((3, 2), np.float32)
    assert reads(good)
    spoilt = good.copy()
    spoilt[1] = np.nan
    for array in (good[:2], good.T.copy(), good.astype(np.float64), np.ones((3, 2), np.int32), spoilt):
        assert not reads(array)
    assert reads(good)
    (tmp_path / "a.npy").unlink()
    os.mkfifo(tmp_path / "a.npy")
    assert read_array(tmp_path / "a.npy", (3, 2)) is None
    (tmp_path / "a.json").unlink()
    os.mkfifo(tmp_path / "a.json")
    assert read_array(tmp_path / "a.npy", (3, 2)) is None


@pytest.mark.fault("no locks on the file system, a read-only cache: works without; a held lock: said, then waited for")
@pytest.mark.parametrize("number", ["ENOLCK", "ENOTSUP", "EROFS", "EACCES", None])
def test_locks_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str | None) -> None:
    import errno

    def fails(self: Any, **options: Any) -> None:
        if number is None:
            raise NotImplementedError("no flock")
        raise OSError(getattr(errno, number), os.strerror(getattr(errno, number)))

    monkeypatch.setattr(filelock.FileLock, "acquire", fails)
    with locked(tmp_path / "x.lock", "x"):
        done = True
    assert done


def test_a_held_lock_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr("dogscats.base.locks.SECONDS_BEFORE_NOTICE", 0.05)
    holder = filelock.FileLock(tmp_path / "x.lock")
    with (
        holder,
        pytest.raises(UserError, match="another process is working on it"),
        locked(tmp_path / "x.lock", "the cache", timeout=0.1),
    ):
        pass
    assert "Waiting for another process, which uses the cache" in caplog.text


def test_a_cache_that_is_complete_can_be_read_only(run_command: Run, shared_root: Path, tmp_path: Path) -> None:
    cache = f"activations.dir={tmp_path / 'cache'}"
    first = run_command("train.py", f"data.root={shared_root}", *FAST, cache, "hydra.run.dir=a")
    assert first.returncode == 0, first.stderr
    lock = filelock.FileLock.acquire

    def read_only(self: Any, *args: Any, **options: Any) -> Any:
        if "cache" in str(self.lock_file):
            raise OSError(30, "Read-only file system")
        return lock(self, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filelock.FileLock, "acquire", read_only)
        result = run_command("train.py", f"data.root={shared_root}", *FAST, cache, "hydra.run.dir=b")
    assert result.returncode == 0, result.stderr
    assert "Reusing activations" in result.stdout
    assert "Computing activations" not in result.stdout


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([1.0] * 20 + [0.5] * 20 + [3.0] * 60, True),
        ([1 - 0.005 * step for step in range(100)], False),  # falls to the end
        ([1.0] * 100, False),
        ([1 + 0.1 * step for step in range(100)], False),  # rises from the beginning
        ([1.0, 0.5], False),
    ],
)
def test_a_curve_without_a_minimum_suggests_nothing(losses: list[float], expected: bool) -> None:
    curve = LRCurve()
    for step, loss in enumerate(losses):
        curve.add(1e-5 * 1.1**step, loss)
    assert curve.has_minimum is expected


@pytest.mark.slow
def test_lr_find_without_a_minimum_keeps_the_lessons(
    run_command: Run, shared_root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(LRCurve, "has_minimum", False)
    arguments = [argument for argument in FAST if "lr_finder" not in argument]
    result = run_command("train.py", f"data.root={shared_root}", *arguments, "lr=find", "hydra.run.dir=run")
    assert result.returncode == 0, result.stderr
    assert "LR finder: suggests nothing" in result.stdout
    assert "0.01" in (tmp_path / "run" / "lr_trace.csv").read_text().splitlines()[1].split(",")[-1]


@pytest.mark.slow
def test_a_test_set_without_a_class_is_evaluated(
    trained: Path, run_command: Run, shared_root: Path, tmp_path: Path
) -> None:
    (tmp_path / "others" / "test").mkdir(parents=True)
    (tmp_path / "others" / "test" / "dogs").symlink_to(shared_root / "valid" / "dogs")
    result = run_command("evaluate.py", f"ckpt={trained}", "data.root=others", "split=test", "callbacks.tta.n_aug=0")
    assert result.returncode == 0, result.stderr
    assert "5 photos of test" in result.stdout
    (tmp_path / "others" / "train").symlink_to(shared_root / "train")
    result = run_command("evaluate.py", f"ckpt={trained}", "data.root=others", "split=train", "callbacks.tta.n_aug=0")
    assert "These are 80 % of the photos in train/; split=valid has the others" in result.stdout


@pytest.fixture(scope="module")
def run_dir(shared_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interrupted run, with a finished stage and the state of another."""
    folder = tmp_path_factory.mktemp("interrupted")
    mine = "+callbacks.mine={_target_: mine.Epochs, word: hi}"
    settings = [*TINY, *QUIET, "recipe.precompute.epochs=1", "recipe.finetune.cycles=1", "callbacks.tta.n_aug=0", mine]
    command = ["train.py", f"data.root={shared_root}", *settings, "hydra.run.dir=run"]
    assert command_runner(folder)(*command, INTERRUPT="augmented 2").returncode == 143
    return folder / "run"


BOMB = "a: &a [1, 1]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.fault("file of a run directory damaged before `resume=`: named in one message, or repaired")
@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("metrics.json", text) for text in ("[1,2", '{"stages": 5}', '{"stages": {"precompute": 5}}', "\x00")),
        *(("photos.csv", text) for text in ("a,b\n1,2\n", "\xff\xfe")),
        *(("config.yaml", text) for text in (BOMB, "a: [", "5", "data: 5")),
        *((name, "\xff\xfe") for name in ("history.csv", "checkpoints/resume_augmented.ckpt", "checkpoints/last.ckpt")),
    ],
)
def test_damaged_run_directories(run_dir: Path, run_command: Run, tmp_path: Path, name: str, content: str) -> None:
    shutil.copytree(run_dir, tmp_path / "run")
    (tmp_path / "run" / name).write_bytes(content.encode("latin-1"))
    result = run_command("train.py", f"resume={tmp_path / 'run'}", "trust=true")
    assert "Traceback" not in result.stderr + result.stdout
    if name.startswith("checkpoints"):
        assert result.returncode == 0, result.stderr
        assert "it is damaged" in result.stdout
    else:
        assert result.returncode == 1
        assert str(tmp_path / "run" / name) in result.stderr
