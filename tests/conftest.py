"""Photos, networks and command lines that the tests share."""

import contextlib
import gc
import io
import logging
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Generator
from pathlib import Path
from unittest import mock

# Expected values are those of the CPU, and CUDA does not survive the forks of ranks. `CUDA_VISIBLE_DEVICES=0 make test`
# uses a GPU all the same: then tests of ranks, and those that compare with the CPU, fail.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np
import pytest
import torch
import yaml
from hydra._internal.hydra import Hydra
from hydra.core.hydra_config import HydraConfig
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

from dogscats.lesson.backbone import Backbone

# What is computed here is too small to be worth threads, which wait for each other on a busy machine.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

# A run writes some fifty small files, and a disk takes milliseconds for each. Tests kill processes, not machines.
os.fsync = lambda file: None

# Each command reads some twenty files of conf/; libyaml is several times as quick.
yaml.SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

REPOSITORY = Path(__file__).parent.parent
REAL_DATA = REPOSITORY.parent / "shared" / "data"

TINY = ["model=timm", "model.name=test_resnet", "model.weights=none", "data.size=32", "data.batch_size=5"]
"""Settings that train a tiny network on tiny photos."""

QUIET = ["callbacks.lr_finder.before=none", "callbacks.reports=null"]
"""Settings that leave out the LR finder and the pictures of the final prediction."""

HEAD = [*TINY, "recipe=head_only", "recipe.precompute.epochs=1", "callbacks.lr_finder.before=none"]
"""Settings that train the head of a tiny network for one epoch."""

FAST = [*HEAD, "callbacks.reports=null"]
"""Settings of the quickest run: without pictures of the photos, too."""


def draw_photo(path: Path, label: int, number: int, size: tuple[int, int] = (60, 48)) -> None:
    """A noisy JPEG: class 0 is brighter at the top, class 1 at the left."""
    rng = np.random.default_rng([label, number])
    ramp = np.linspace(1, 0, size[1])[:, None] if label == 0 else np.linspace(1, 0, size[0])[None, :]
    pixels = 130 * ramp[..., None] + rng.integers(0, 120, (size[1], size[0], 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path, quality=95)


def draw_folder(folder: Path, count: int, first: int = 0) -> Path:
    """Photos of both classes by turns, `0.jpg` and so on; `first` is the number of the first drawing."""
    for number in range(count):
        draw_photo(folder / f"{number}.jpg", number % 2, first + number)
    return folder


def draw_classes(root: Path, count: int, classes: tuple[str, ...] = ("cats", "dogs")) -> Path:
    """So many photos in a folder of each class."""
    for label, name in enumerate(classes):
        for number in range(count):
            draw_photo(root / name / f"{number}.jpg", label, number)
    return root


def draw_root(root: Path, train: int = 12, valid: int = 5, classes: tuple[str, ...] = ("cats", "dogs")) -> Path:
    for split, count in [("train", train), ("valid", valid)]:
        for label, name in enumerate(classes):
            for number in range(count):
                seed = number + (1000 if split == "valid" else 0)
                draw_photo(root / split / name / f"{name[:-1]}.{number}.jpg", label, seed)
    return root


@pytest.fixture(scope="session")
def shared_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos that no test may change."""
    return draw_root(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Photos of the test's own."""
    return draw_root(tmp_path / "photos")


class TinyNetwork(nn.Sequential):
    """Two convolutions with BatchNorm, as a body of two layer groups."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module("first", nn.Sequential(nn.Conv2d(3, 6, 3, 2, bias=False), nn.BatchNorm2d(6), nn.ReLU()))
        self.add_module("second", nn.Sequential(nn.Conv2d(6, 8, 3, 2, bias=False), nn.BatchNorm2d(8), nn.ReLU()))


@pytest.fixture
def tiny_body() -> Backbone:
    torch.manual_seed(0)
    return Backbone(TinyNetwork(), last_early="first", channels=8)


Run = Callable[..., subprocess.CompletedProcess[str]]


def offline(folder: Path) -> dict[str, str]:
    """Environment in which nothing can be downloaded, and all caches are in `folder`."""
    nowhere = "http://127.0.0.1:9"  # a port that nothing listens on
    return {
        "http_proxy": nowhere,
        "https_proxy": nowhere,
        "HTTPS_PROXY": nowhere,
        "TORCH_HOME": str(folder / "torch"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
    }


def save_blank(figure: Figure, file: str | os.PathLike[str] | io.StringIO, **settings: object) -> None:
    """Stands in for `Figure.savefig`: saves an empty picture."""
    if isinstance(file, io.StringIO):
        file.write('<svg width="1" height="1"></svg>')
    else:
        Image.new("RGB", (1, 1)).save(file, "PNG")


def command_runner(folder: Path, draws: bool = False) -> Run:
    """Runs a script of the repository in this process as `python <script>` would: a process takes seconds to start.

    Its figures are composed, but saved as empty pictures unless it `draws`: rendering them takes half of a short run.
    Signals are for processes of their own, see `process_runner`: here they would reach the tests.
    """

    def run(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [str(REPOSITORY / script), *arguments]
        output, errors, code = io.StringIO(), io.StringIO(), 0
        deterministic, hydra_config = torch.are_deterministic_algorithms_enabled(), HydraConfig.instance().cfg
        root, raises, path = logging.getLogger(), logging.raiseExceptions, [*sys.path]
        handlers, level = [*root.handlers], root.level
        signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        with (
            mock.patch.object(sys, "argv", command),
            mock.patch.dict(os.environ, offline(folder) | environment),
            contextlib.chdir(folder),
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(errors),
            warnings.catch_warnings(),
            mock.patch.object(Hydra, "get_mode", return_value=None),  # composes it all once more for `hydra.mode=`
            contextlib.nullcontext() if draws else mock.patch.object(Figure, "savefig", save_blank),
        ):
            try:
                runpy.run_path(command[0], run_name="__main__")
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else int(error.code is not None)
                if isinstance(error.code, str):
                    print(error.code, file=sys.stderr)
            except BaseException:
                traceback.print_exc()
                code = 1
            finally:
                sys.path[:] = path
                for number, handler in signals.items():
                    signal.signal(number, handler)
                root.handlers[:], logging.raiseExceptions = handlers, raises
                root.setLevel(level)
                logging.disable(logging.NOTSET)
                torch.use_deterministic_algorithms(deterministic)
                HydraConfig.instance().cfg = hydra_config
        return subprocess.CompletedProcess(command, code, output.getvalue(), errors.getvalue())

    return run


def process_runner(folder: Path) -> Run:
    """Runs a script of the repository in a process of its own, as a user does."""

    def run(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(REPOSITORY / script), *arguments],
            capture_output=True,
            text=True,
            cwd=folder,
            env={**os.environ, **offline(folder), **environment},
            check=False,
        )

    return run


@pytest.fixture
def blank_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """All figures are saved as empty pictures."""
    monkeypatch.setattr(Figure, "savefig", save_blank)


@pytest.fixture
def run_command(tmp_path: Path, request: pytest.FixtureRequest) -> Run:
    """Runs a script in the test's own folder, in this process; its pictures are empty unless the test is marked."""
    return command_runner(tmp_path, draws=request.node.get_closest_marker("draws") is not None)


@pytest.fixture
def run_process(tmp_path: Path) -> Run:
    """Runs a script in the test's own folder, in a process of its own."""
    return process_runner(tmp_path)


@pytest.fixture(scope="session")
def finished(shared_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the quickest run, which no test may change."""
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    result = command_runner(run_dir.parent)("train.py", f"data.root={shared_root}", *FAST, "hydra.run.dir=run")
    assert result.returncode == 0, result.stderr
    return run_dir


@pytest.fixture(scope="session")
def uninterrupted(shared_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that nothing has disturbed."""
    from interrupted_runs import run

    run_dir = tmp_path_factory.mktemp("uninterrupted") / "run"
    run(shared_root, run_dir)
    return run_dir


STARTED = time.monotonic()

FAULTS: dict[str, list[int]] = {}
"""For each fault that tests inject: how often it was survived, how often it was injected."""


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("there is no GPU, or CUDA_VISIBLE_DEVICES hides it")


def pytest_collection_finish() -> None:
    """Spare the garbage collector the modules, which stay: it would go through their objects hundreds of times."""
    gc.freeze()
    gc.set_threshold(10_000)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    # With several workers, reports are all that reaches the process that prints the table.
    report.user_properties.extend(("fault", mark.args[0]) for mark in item.iter_markers("fault"))
    return report


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.failed:
        for name, value in report.user_properties:
            if name == "fault":
                count = FAULTS.setdefault(str(value), [0, 0])
                count[0] += report.passed
                count[1] += 1
    if report.when == "???":  # xdist's report of the test in which a worker died: the others would go on for minutes
        pytest.exit(str(report.longrepr), returncode=1)


FAULTS_PAGE = """\
# Faults that a run survives

`make test-faults` injects faults and writes this page, in {minutes:.0f} minutes on {cores} CPU cores.

| fault | survived |
|---|---|
{rows}
"""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if FAULTS:
        terminalreporter.section("faults survived")
        rows = [f"| {fault} | {survived}/{injected} |" for fault, (survived, injected) in sorted(FAULTS.items())]
        terminalreporter.write_line("\n".join(rows))
        if page := os.environ.get("FAULTS_PAGE"):  # set by `make test-faults`, which injects them all
            minutes = (time.monotonic() - STARTED) / 60
            text = FAULTS_PAGE.format(minutes=minutes, cores=os.cpu_count(), rows="\n".join(rows))
            Path(page).write_text(text, encoding="utf-8")
