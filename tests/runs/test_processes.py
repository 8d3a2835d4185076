"""Signals and dead processes: nothing hangs, is orphaned, or ends in a traceback."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Never

import pytest
from conftest import TINY, Run, draw_root
from interrupted_runs import RECIPE, SCRIPT, rows, start
from test_sweep import sweep_rows
from torch.utils.data import DataLoader

from dogscats import DogsCatsDataModule
from dogscats.base.errors import Failure, UserError
from dogscats.data.loading import loaders, workers
from dogscats.data.loading.dataset import Batch
from dogscats.data.loading.workers import fitting_workers
from dogscats.runs.checkpoint import read_checkpoint

RANKS = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "data.batch_size=6", "data.num_workers=0"]
WORKERS = ["data.num_workers=2"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return draw_root(tmp_path / "photos", train=40)


def wait_for(process: subprocess.Popen[str], run_dir: Path, epochs: int) -> None:
    while rows(run_dir / "history.csv") < epochs:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and output; it must end within 15 seconds, with all processes of its group."""
    output, errors = process.communicate(timeout=15)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and alive(process.pid):
        time.sleep(0.1)
    assert not alive(process.pid)
    assert "Traceback" not in output + errors
    return process.returncode, output + errors


def alive(group: int) -> list[str]:
    """Commands of a process group that are not zombies."""
    listed = subprocess.run(["ps", "-eo", "pgid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    split = [line.split(None, 2) for line in listed.splitlines()]
    return [" ".join(rest) for pgid, state, *rest in split if int(pgid) == group and not state.startswith("Z")]


def children(process: subprocess.Popen[str]) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout
    return [int(pid) for pid in found.split()]


@pytest.mark.slow
@pytest.mark.fault("SIGTERM to the main process of two ranks, in training and in TTA: exit 143 within 15 s, resumable")
@pytest.mark.parametrize(("epochs", "pause"), [(1, 0.0), (5, 0.2), (9, 1.5)])
def test_sigterm_ends_all_ranks(photos: Path, tmp_path: Path, epochs: int, pause: float) -> None:
    run_dir = tmp_path / "run"
    process = start(photos, run_dir, *RECIPE, *RANKS, "callbacks.tta.n_aug=40", group=True)
    wait_for(process, run_dir, epochs)
    time.sleep(pause)
    process.send_signal(signal.SIGTERM)
    code, output = ended(process)
    assert code == 143
    assert f"train.py resume={run_dir}" in output


@pytest.mark.slow
@pytest.mark.fault("Ctrl-C, SIGTERM to the process group while ranks start: exit 130 and 143, and how to go on")
@pytest.mark.parametrize(("signum", "pause"), [(signal.SIGINT, 0.5), (signal.SIGTERM, 1.5), (signal.SIGINT, 2.5)])
def test_a_signal_while_ranks_start(photos: Path, tmp_path: Path, signum: int, pause: float) -> None:
    run_dir = tmp_path / "run"
    process = start(photos, run_dir, *RECIPE, *RANKS, group=True)
    while not (run_dir / "photos.csv").exists():
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(pause)
    os.killpg(process.pid, signum)
    code, output = ended(process)
    assert code == 128 + signum
    assert f"train.py resume={run_dir}" in output


@pytest.mark.slow
@pytest.mark.fault("a rank is killed: exit 1 naming it, and how to go on")
def test_a_killed_rank_is_named(photos: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = start(photos, run_dir, *RECIPE, *RANKS, group=True)
    wait_for(process, run_dir, 4)
    os.kill(children(process)[0], signal.SIGKILL)
    code, output = ended(process)
    assert code == 1
    assert "error: The process of rank 1 was killed by SIGKILL" in output
    assert f"train.py resume={run_dir}" in output


@pytest.mark.slow
@pytest.mark.fault("Ctrl-C, SIGTERM to the process group with loader workers: exit 130 and 143, and how to go on")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("epochs", [3, 6])
def test_a_signal_to_the_group_leaves_workers_to_the_main_process(
    photos: Path, tmp_path: Path, signum: int, epochs: int
) -> None:
    run_dir = tmp_path / "run"
    process = start(photos, run_dir, *RECIPE, *WORKERS, group=True)
    wait_for(process, run_dir, epochs)
    time.sleep(0.3)
    os.killpg(process.pid, signum)
    code, output = ended(process)
    assert code == 128 + signum
    assert f"Interrupted. To resume: python {SCRIPT} resume={run_dir}" in output


@pytest.mark.slow
@pytest.mark.fault("a loader worker is killed: exit 1 with one message, and how to go on")
def test_a_killed_worker_is_named(photos: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = start(photos, run_dir, *RECIPE, *WORKERS, group=True)
    wait_for(process, run_dir, 5)
    os.kill(children(process)[0], signal.SIGKILL)
    code, output = ended(process)
    assert code == 1
    assert "error: A worker process that decodes photos died" in output
    assert "data.num_workers" in output
    assert f"train.py resume={run_dir}" in output


SLOW_DISK = """
import os, time
fsync = os.fsync

def slow_fsync(file):
    until = time.monotonic() + 20 * (".ckpt" in os.readlink(f"/proc/self/fd/{file}"))
    raised = []
    while time.monotonic() < until:  # as the kernel does, it goes on waiting after a signal
        try:
            time.sleep(until - time.monotonic())
        except BaseException as error:
            raised.append(error)
    fsync(file)
    if raised:
        raise raised[0]

os.fsync = slow_fsync
"""


@pytest.mark.slow
@pytest.mark.fault("Ctrl-C, SIGTERM at a random moment on a busy machine with a slow disk: exit 130, 143, files whole")
@pytest.mark.parametrize("seed", range(4))
def test_a_signal_on_a_slow_machine(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "sitecustomize.py").write_text(SLOW_DISK)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'slow'}:{os.environ.get('PYTHONPATH', '')}")
    run_dir, rng = tmp_path / "run", random.Random(seed)
    signum, pause = rng.choice([signal.SIGINT, signal.SIGTERM]), rng.uniform(0, 40)
    busy = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(2)]
    try:
        process = start(photos, run_dir, *RECIPE, *WORKERS, group=True)
        while not (run_dir / "config.yaml").exists():
            time.sleep(0.1)
        time.sleep(pause)
        os.killpg(process.pid, signum)
        output = "".join(process.communicate(timeout=90))
    finally:
        for loop in busy:
            loop.kill()
    assert process.returncode == 128 + signum, output
    assert "Traceback" not in output
    assert "Exception ignored" not in output
    assert not list(run_dir.rglob("*.part*"))
    for file in run_dir.glob("checkpoints/*.ckpt"):
        read_checkpoint(file)


@pytest.mark.slow
@pytest.mark.fault("SIGTERM, Ctrl-C on a sweep with parallel jobs: all end, table, exit 143 and 130")
@pytest.mark.parametrize(("signum", "whole_group"), [(signal.SIGTERM, False), (signal.SIGINT, True)])
def test_a_signal_ends_the_jobs_of_a_sweep(photos: Path, tmp_path: Path, signum: int, whole_group: bool) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs the extra 'sweep'")
    folder = tmp_path / "sweep"
    process = start(
        photos, folder, "-m", "lr=1e-3,1e-2", *RECIPE, "recipe.finetune.cycles=8", "data.num_workers=0",
        "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", f"hydra.sweep.dir={folder}", group=True,
    )  # fmt: skip
    for job in ("0", "1"):
        wait_for(process, folder / job, 4)
    (os.killpg if whole_group else os.kill)(process.pid, signum)
    code, output = ended(process)
    assert code == 128 + signum
    assert {row["status"] for row in sweep_rows(folder)} == {"unfinished"}
    assert f"hydra.sweep.dir={folder}" in output


@pytest.mark.slow
@pytest.mark.fault("SIGKILL on a sweep, then the same command: finished jobs skipped, the rest resumed or run")
def test_a_killed_sweep_is_continued(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    arguments = ["-m", "lr=1e-3,1e-2,3e-2", *RECIPE, "data.num_workers=0", f"hydra.sweep.dir={folder}"]
    process = start(photos, folder, *arguments, group=True)
    wait_for(process, folder / "1", 4)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert [row["status"] for row in sweep_rows(folder)] == ["finished"]  # the table survives
    before = (folder / "0" / "metrics.json").read_bytes()
    output = start(photos, folder, *arguments).communicate()[0]
    assert [row["status"] for row in sweep_rows(folder)] == ["finished"] * 3
    assert (folder / "0" / "metrics.json").read_bytes() == before
    assert "is finished; its metrics are in metrics.json" in output
    assert "Resuming after epoch" in output or "Stage augmented" in output


@pytest.mark.slow
def test_two_processes_do_not_work_on_the_same_run(photos: Path, run_command: Run, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = start(photos, run_dir, *RECIPE, "recipe.finetune.cycles=8", "data.num_workers=0")
    wait_for(process, run_dir, 4)
    second = run_command("train.py", f"resume={run_dir}")
    process.terminate()
    process.communicate()
    assert second.returncode == 1
    assert "another process is working on it" in second.stderr


def test_workers_that_do_not_fit_into_shared_memory_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "SHARED_MEMORY", tmp_path)
    usage = shutil.disk_usage(tmp_path)
    batch = 64 * 3 * 224 * 224  # 9.6 MB
    for free, fitting in [(64e6, 1), (50e6, 0), (2e9, 8)]:
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage._replace(free=int(free)))
        assert fitting_workers(8, batch) == fitting
    monkeypatch.setattr(workers, "SHARED_MEMORY", tmp_path / "none")  # as on macOS
    assert fitting_workers(8, batch) == 8


def loader(photos: Path) -> DataLoader[Batch]:
    data = DogsCatsDataModule(photos, 32, batch_size=4, num_workers=2)
    return data.loader(data.train_dataset("train", augment=False))


@pytest.fixture
def long_tmpdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder whose name is too long for sockets in it."""
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    config: dict[str, object] = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    before = config.pop("tempdir", None)
    yield
    config["tempdir"] = before


def test_without_sockets_photos_are_decoded_without_workers(
    photos: Path, long_tmpdir: None, caplog: pytest.LogCaptureFixture
) -> None:
    assert loader(photos).num_workers == 0
    assert "photos are decoded without workers" in caplog.text
    assert "AF_UNIX path too long" in caplog.text


def test_workers_that_cannot_send_say_so(photos: Path, long_tmpdir: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaders, "fitting_workers", lambda wanted, *_: wanted)
    with pytest.raises(UserError, match=r"^Worker processes cannot send photos \(AF_UNIX path too long\)\. Set fewer"):
        list(loader(photos))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signum", "message"),
    [
        (signal.SIGSTOP, "photos hang: they"),
        (signal.SIGKILL, "DataLoader worker|Photos of worker processes do not arrive"),
    ],
)
def test_workers_that_hang_or_die(photos: Path, monkeypatch: pytest.MonkeyPatch, signum: int, message: str) -> None:
    monkeypatch.setattr(workers, "SECONDS_BETWEEN_LOOKS", 0.5)
    monkeypatch.setattr(loaders, "SECONDS_BETWEEN_LOOKS", 0.5)
    monkeypatch.setattr(workers, "MOST_IDLE", 1)
    batches = iter(loader(photos))
    next(batches)
    of_torch = signal.signal(signal.SIGCHLD, lambda *_: None)  # which would raise for each worker, at any line
    try:
        for worker in multiprocessing.active_children():
            assert worker.pid is not None
            os.kill(worker.pid, signum)
        with pytest.raises((Failure, RuntimeError), match=message):
            list(batches)
    finally:
        signal.signal(signal.SIGCHLD, of_torch)


def test_workers_that_are_slow_are_waited_for(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode_slowly(*_: object) -> Never:
        until = time.monotonic() + 3
        while time.monotonic() < until:
            sum(range(1000))
        raise ValueError("decoded at last")

    monkeypatch.setattr(workers, "SECONDS_BETWEEN_LOOKS", 0.5)
    monkeypatch.setattr(loaders, "SECONDS_BETWEEN_LOOKS", 0.5)
    monkeypatch.setattr(workers, "MOST_IDLE", 1)
    monkeypatch.setattr("dogscats.data.loading.dataset.PhotoDataset.__getitem__", decode_slowly)
    with pytest.raises(ValueError, match="decoded at last"):
        list(loader(photos))


@pytest.mark.slow
@pytest.mark.fault("/dev/shm of 64 MB with 8 workers: works with fewer, or exit 1 naming it")
@pytest.mark.parametrize("estimate", [True, False])
def test_little_shared_memory(photos: Path, tmp_path: Path, estimate: bool) -> None:
    """Without the estimate, as if another process filled it meanwhile."""
    mounted = ["unshare", "-m", "sh", "-c", "mount -t tmpfs -o size=4m tmpfs /dev/shm"]
    if shutil.which("unshare") is None or subprocess.run(mounted, capture_output=True, check=False).returncode:
        pytest.skip("needs permission to mount a file system")
    script = tmp_path / "small.py"
    script.write_text(
        "import runpy, sys\n"
        "import dogscats.data.loading.loaders\n"
        + ("" if estimate else "dogscats.data.loading.loaders.fitting_workers = lambda wanted, *_: wanted\n")
        + f"sys.argv = ['train.py', *sys.argv[1:]]\nrunpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
    )
    arguments = [
        f"data.root={photos}", *TINY, *RECIPE, "data.size=224", "data.batch_size=32", "data.num_workers=8",
        "recipe.precompute.epochs=1", "recipe.finetune.cycles=1", f"hydra.run.dir={tmp_path / 'run'}",
    ]  # fmt: skip
    command = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=4m tmpfs /dev/shm && exec "$@"', "sh"]
    result = subprocess.run(
        [*command, sys.executable, str(script), *arguments],
        capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False,
    )  # fmt: skip
    assert "Traceback" not in result.stderr + result.stdout
    if estimate:
        assert result.returncode == 0, result.stderr
        assert json.loads((tmp_path / "run" / "metrics.json").read_text())["final"]
        assert "/dev/shm has 4 MB: 0 workers" in result.stdout
    else:
        assert result.returncode == 1
        assert "/dev/shm" in result.stderr
        assert "data.num_workers" in result.stderr


CLEAN_UP = """
import signal, time
from pytorch_lightning.callbacks import LambdaCallback
from pytorch_lightning.demos.boring_classes import BoringModel
from dogscats.base.signals import interruptible
from dogscats.runs.trainer import trainer_factory

send = LambdaCallback(on_train_batch_start=lambda *_: signal.raise_signal(signal.SIGTERM))
quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
with interruptible():
    try:
        trainer_factory({"accelerator": "cpu"})([send], max_epochs=1, **quiet).fit(BoringModel())
    finally:
        time.sleep(0.5)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        print("cleaned up", flush=True)
"""


@pytest.mark.slow
def test_neither_alarms_nor_further_signals_disturb_the_clean_up_after_a_trainer(tmp_path: Path) -> None:
    """The Trainer puts back the handlers that it found, while alarms go on, to raise an exception that was lost."""
    result = subprocess.run([sys.executable, "-c", CLEAN_UP], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (result.returncode, result.stdout) == (143, "cleaned up\n"), result.stderr


FORKED = """
import os, signal, time
from dogscats.base import signals

signals.SECONDS_TO_END_WORKERS = 1
with signals.interruptible():
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(writing, b"started")
        time.sleep(60)
    os.read(reading, 1)
    os.kill(pid, signal.SIGTERM)
    print(os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGALRM)
"""


def test_a_forked_process_that_is_stuck_dies_of_the_alarm(tmp_path: Path) -> None:
    result = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=15, check=False)
    assert (result.returncode, result.stdout) == (0, "True\n"), result.stderr
