"""Faults injected into runs: killed processes, full disks, damaged files.

`make test` runs the fast ones, `make test-faults` all of them, and writes docs/measurements/faults.md.
"""

import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
import torch
from conftest import REPOSITORY, TINY, Run, TinyNetwork, draw_root
from interrupted_runs import outcome, rows, run, settings, start, stop

from dogscats import DogsCatsDataModule
from dogscats.base.errors import UserError
from dogscats.base.files import write_stage_rows
from dogscats.lesson.activations import precompute
from dogscats.lesson.backbone import Backbone
from dogscats.report.figures.drawing import new_figure, publish
from dogscats.report.summary import RunReport
from dogscats.runs.checkpoint import read_checkpoint, write_checkpoint


@pytest.mark.fault("SIGKILL at random moments, two a run, then `resume=`: ends bit-equal")
@pytest.mark.slow
@pytest.mark.parametrize("number", range(20))
def test_killed_twice_at_random_moments(uninterrupted: Path, shared_root: Path, tmp_path: Path, number: int) -> None:
    """Every fourth kill comes while a checkpoint is being written."""
    rng = random.Random(number)
    run_dir = tmp_path / "run"
    arguments: list[str] = []
    for epochs in sorted(rng.sample(range(9), 2)):  # 3 + 3 + 3 epochs in all
        process = start(shared_root, run_dir, *arguments)
        while rows(run_dir / "history.csv") < epochs or not (run_dir / "config.yaml").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        if number % 4 == 0:
            while process.poll() is None and not list((run_dir / "checkpoints").glob(".*.part*")):
                pass
        else:
            time.sleep(rng.uniform(0, 0.4))
        process.kill()
        process.communicate()
        arguments = [f"resume={run_dir}"]
    run(shared_root, run_dir, *arguments)
    assert outcome(run_dir) == outcome(uninterrupted)
    assert not list(run_dir.rglob("*.part*"))


def limited(size: int) -> Callable[[], object]:
    """Let no file of a process grow beyond `size` bytes, as on a full disk."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.fault("disk full at a checkpoint: exit 1 naming it, the run before it is whole and resumed")
@pytest.mark.slow
def test_disk_full_at_a_checkpoint_of_a_run(uninterrupted: Path, shared_root: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    stop(start(shared_root, run_dir), run_dir, 7, signal.SIGKILL)
    process = start(shared_root, run_dir, f"resume={run_dir}", before=limited(300_000))
    errors = process.communicate()[1]
    assert process.returncode == 1
    assert "resume_finetune.ckpt: it cannot be written" in errors
    assert "Traceback" not in errors
    for name in ("last.ckpt", "224_lastlayer.ckpt"):
        assert read_checkpoint(run_dir / "checkpoints" / name)["stage"] == "augmented"
    run(shared_root, run_dir, f"resume={run_dir}")
    assert outcome(run_dir) == outcome(uninterrupted)


@pytest.mark.fault("disk full at the activation cache: exit 1 naming it, nothing half-written")
@pytest.mark.slow
def test_disk_full_at_the_cache_of_a_run(tmp_path: Path) -> None:
    root = draw_root(tmp_path / "photos", train=150)
    process = start(root, tmp_path / "run", before=limited(150_000))
    errors = process.communicate()[1]
    assert process.returncode == 1
    assert f"{root / 'tmp' / 'activations-'}" in errors
    assert "it cannot be written" in errors
    assert "Traceback" not in errors
    assert not list((root / "tmp").glob("*activations-*.npy"))
    assert not list((root / "tmp").glob(".activations*part*"))


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        with mock.patch.object(sys, "dont_write_bytecode", True):
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write_picture(path: Path) -> None:
    publish(new_figure(4, 3), path)


def write_metrics(path: Path) -> None:
    RunReport(path.parent, 0.0, ["cats"] * 100).write()


def write_table(path: Path) -> None:
    write_stage_rows(path, "stage", [{"step": step} for step in range(100)])


@pytest.mark.fault("disk full at a picture, metrics, log, checkpoint: named, the old file stays")
@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("picture.png", write_picture),
        ("metrics.json", write_metrics),
        ("history.csv", write_table),
        ("last.ckpt", lambda path: write_checkpoint({"weights": torch.ones(1000)}, path)),
    ],
)
def test_disk_full(tmp_path: Path, name: str, write: Callable[[Path], None]) -> None:
    path = tmp_path / name
    write(path)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with full_disk(200), pytest.raises(UserError, match=f"{name}: it cannot be written"):
        write(path)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.fault("checkpoint truncated, or a byte flipped, at 10 places: noticed")
@pytest.mark.parametrize("place", range(10))
@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_checkpoint_is_noticed(tmp_path: Path, place: int, damage: str) -> None:
    path = tmp_path / "last.ckpt"
    weights = torch.arange(2000.0)
    write_checkpoint({"weights": weights}, path)
    assert torch.equal(read_checkpoint(path)["weights"], weights)
    content = bytearray(path.read_bytes())
    position = len(content) * place // 10
    if damage == "flipped":
        content[position] ^= 1 << place % 8
    path.write_bytes(content if damage == "flipped" else content[:position])
    with pytest.raises(UserError, match=r"last\.ckpt: it is damaged"):
        read_checkpoint(path)


def test_a_kill_between_checkpoint_and_digest_leaves_a_whole_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped at each of its steps in turn, writing leaves the old checkpoint or the new one."""
    path = tmp_path / "last.ckpt"
    seen = set()
    for step in range(3):
        write_checkpoint({"number": 1}, path)
        replace, count = Path.replace, iter(range(10))

        def killed(self: Path, target: Path, step: int = step) -> Path:
            if next(count) == step:  # noqa: B023
                raise KeyboardInterrupt
            return replace(self, target)  # noqa: B023

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", killed)
            with pytest.raises(KeyboardInterrupt):
                write_checkpoint({"number": 2}, path)
        seen.add(read_checkpoint(path)["number"])
    assert seen == {1, 2}


@pytest.mark.fault("folder of a run, a sweep, an evaluation, the cache not writable: exit 1 naming it")
@pytest.mark.parametrize(
    ("script", "arguments", "key"),
    [
        ("train.py", ["hydra.run.dir=/proc/run"], "hydra.run.dir=/proc/run"),
        ("train.py", ["lr=1e-3,1e-2", "hydra.sweep.dir=/proc/sweep", "-m"], "hydra.sweep.dir=/proc/sweep"),
        ("train.py", ["activations.dir=/proc/cache"], "activations.dir"),
        ("evaluate.py", ["hydra.run.dir=/proc/run", "run=any"], "hydra.run.dir=/proc/run"),
    ],
)
def test_a_folder_that_cannot_be_written(
    run_command: Run,
    shared_root: Path,
    script: str,
    arguments: list[str],
    key: str,
) -> None:
    root = [f"data.root={shared_root}", *TINY] if script == "train.py" else []
    result = run_command(script, *root, *arguments)
    assert result.returncode == 1
    assert key in result.stderr
    assert "/proc/" in result.stderr
    assert "Traceback" not in result.stderr + result.stdout


BUILD = """
import sys, time, torch
sys.path[:0] = [{tests!r}, {tests!r} + "/runs"]
from pathlib import Path
import dogscats.data.loading.dataset
from test_faults import body, photos
from dogscats.lesson.activations import precompute

def read_slowly(dataset, key, read=dogscats.data.loading.dataset.PhotoDataset.__getitem__):
    time.sleep(0.06)
    return read(dataset, key)

dogscats.data.loading.dataset.PhotoDataset.__getitem__ = read_slowly
print("ready", flush=True)
data = photos(Path({root!r}))
loader = data.loader(data.train_dataset("s", augment=False))
precompute(body(), loader, Path({folder!r}), torch.device("cpu"))
"""


def body() -> Backbone:
    torch.manual_seed(0)
    return Backbone(TinyNetwork(), last_early="first", channels=8)


def photos(root: Path) -> DogsCatsDataModule:
    data = DogsCatsDataModule(root, size=24, batch_size=2, num_workers=0)
    data.setup()
    return data


def build(root: Path, folder: Path) -> subprocess.Popen[str]:
    script = BUILD.format(tests=str(REPOSITORY / "tests"), root=str(root), folder=str(folder))
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def expected(root: Path, folder: Path) -> torch.Tensor:
    data = photos(root)
    return precompute(body(), data.loader(data.train_dataset("s", augment=False)), folder, torch.device("cpu"))


@pytest.mark.fault("activation cache killed at 10 points of its build: no partial read, identical result")
@pytest.mark.slow
@pytest.mark.parametrize("number", range(10))
def test_a_killed_build_of_the_cache_leaves_no_part_of_it(shared_root: Path, tmp_path: Path, number: int) -> None:
    process = build(shared_root, tmp_path / "cache")
    time.sleep(number * 0.14)  # of the 24 photos' 1.44 seconds
    process.kill()
    process.communicate()
    assert not list((tmp_path / "cache").glob("activations-*.npy"))
    reference = expected(shared_root, tmp_path / "reference")
    assert torch.equal(expected(shared_root, tmp_path / "cache"), reference)
    assert not list((tmp_path / "cache").glob("*.part*"))


@pytest.mark.fault("two runs build the same activation cache at once: built once, identical result")
@pytest.mark.slow
def test_two_builds_of_the_same_cache(shared_root: Path, tmp_path: Path) -> None:
    both = [build(shared_root, tmp_path / "cache") for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    (file,) = (tmp_path / "cache").glob("activations-*.npy")
    before = file.stat().st_mtime_ns
    reference = expected(shared_root, tmp_path / "reference")
    assert torch.equal(expected(shared_root, tmp_path / "cache"), reference)
    assert file.stat().st_mtime_ns == before


@pytest.mark.fault("disk full as the run directory is begun: exit 1 naming it")
def test_disk_full_at_the_start_of_a_run(run_command: Run, shared_root: Path, tmp_path: Path) -> None:
    with full_disk(500):
        result = run_command("train.py", *settings(shared_root, tmp_path / "run"))
    assert result.returncode == 1
    assert "error: " in result.stderr
    assert "it cannot be written" in result.stderr
    assert "Traceback" not in result.stdout + result.stderr
