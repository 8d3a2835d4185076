"""Installing: the wheel works without the clone, and extras are named by commands that work."""

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
import venv
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import FAST, REAL_DATA, REPOSITORY, draw_root, offline

import dogscats.data.pixels.images
from dogscats.base import environment
from dogscats.base.environment import command, how_to_install
from dogscats.data.pixels.images import read_image

UV = [sys.executable, "-m", "uv"]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(REPOSITORY)]
    subprocess.run([sys.executable, "-m", "pip", *build], check=True)
    (file,) = folder.glob("*.whl")
    return file


def test_the_wheel_has_the_scripts_and_the_config(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for script in ("train.py", "evaluate.py"):
            assert archive.read(f"dogscats/{script}") == (REPOSITORY / script).read_bytes()
        for file in (REPOSITORY / "conf").rglob("*.yaml"):
            assert archive.read(f"dogscats/conf/{file.relative_to(REPOSITORY / 'conf')}") == file.read_bytes()
        folders = {name.split("/")[0] for name in archive.namelist()}
    assert all(folder.startswith("dogscats") for folder in folders)
    assert not (REPOSITORY / "dogscats" / "conf").exists()


def test_posix_locale_without_utf8_mode_reads_names_in_utf8() -> None:
    code = "from dogscats.base.environment import use_utf8; use_utf8(); import sys; print(ascii(sys.argv[1]))"
    settings = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", code, "caf\u00e9"]
    result = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=True)
    assert result.stdout == "'caf\\xe9'\n"


def test_make_installs_what_its_target_needs(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / ".venv").mkdir()

    def installs(*arguments: str) -> list[str]:
        command = ["make", "--dry-run", *arguments]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return [line for line in result.stdout.splitlines() if "pip install" in line]

    (base,) = installs("quickstart")
    assert base.endswith('pip install --quiet --disable-pip-version-check --editable ".[fast,timm]"')
    (without_cuda,) = installs("quickstart", "CPU=1")
    assert "uv pip install" in without_cuda
    assert without_cuda.endswith('--torch-backend cpu --editable ".[fast,timm]"')
    first, rest = installs("test")
    assert first == base
    (tmp_path / ".venv" / "quickstart").touch()
    assert installs("test") == [rest]
    assert installs("quickstart", "CPU=1") == []
    assert not re.search("torch|upgrade|reinstall", rest)  # the torch that is there stays


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    root = draw_root(tmp_path / "photos")
    venv.create(tmp_path / "env")
    python = str(tmp_path / "env" / "bin" / "python")
    subprocess.run([*UV, "pip", "install", "--quiet", "--python", python, f"{wheel}[timm]"], check=True)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | offline(tmp_path)

    def run(*arguments: str) -> str:
        result = subprocess.run(
            [python, "-m", *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        assert "Warning" not in result.stderr
        return result.stdout

    assert "recipe: adapt, auto, gradual, head_only" in run("dogscats.train", "--help")
    run("dogscats.train", f"data.root={root}", *FAST, "hydra.run.dir=run")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["final"]["n"] == 10
    assert "10 photos of valid" in run("dogscats.evaluate", "run=run", "callbacks.tta.n_aug=0")
    run("dogscats.check", str(root))
    run("dogscats.train", "-m", f"data.root={root}", *FAST, "lr=0.1,0.01", "hydra.sweep.dir=sweep")
    assert len((tmp_path / "sweep" / "sweep.csv").read_text().splitlines()) == 3
    two = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "data.batch_size=4"]
    run("dogscats.train", f"data.root={root}", *FAST, *two, "hydra.run.dir=ranks")
    assert json.loads((tmp_path / "ranks" / "metrics.json").read_text())["final"]["n"] == 10


@pytest.mark.slow
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("resolution", ["highest", "lowest-direct"])
def test_the_dependencies_resolve(python: str, resolution: str) -> None:
    extras = ["timm", "fast", "sweep", "onnx", "demo", "loggers", "heif", "parquet"]
    result = subprocess.run(
        [*UV, "pip", "compile", "--quiet", "--no-header", "--python-version", python, "--resolution", resolution]
        + [f"--extra={extra}" for extra in extras]
        + ["pyproject.toml"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert re.search(r"^torch==2\.\d+", result.stdout, re.MULTILINE)


def test_the_command_is_that_of_the_clone_or_of_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert command("train") == "python train.py"
    monkeypatch.chdir(tmp_path)
    assert command("evaluate") == f"python {shlex.quote(str(REPOSITORY.resolve() / 'evaluate.py'))}"
    monkeypatch.setattr(environment, "CLONE", tmp_path)
    assert command("train") == "python -m dogscats.train"


@pytest.mark.parametrize("extra", ["timm", "onnx", "demo", "heif", "sweep", "loggers", "parquet"])
def test_an_extra_is_installed_without_the_name_on_the_index(
    extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    *command, clone = shlex.split(how_to_install(extra))
    assert command == ["pip", "install", "--editable"]
    assert clone == f"{REPOSITORY.resolve()}[{extra}]"
    monkeypatch.setattr(environment, "CLONE", tmp_path)  # from a wheel
    packages = {name.replace("_", "-") for name in shlex.split(how_to_install(extra))[2:]}
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"][extra]
    assert packages == {name.replace("_", "-") for name in declared}


def test_every_extra_that_is_named_exists_and_none_is_taken_from_the_index() -> None:
    files = [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.*"), *REPOSITORY.rglob("conf/**/*.yaml")]
    files += [*REPOSITORY.glob("*.py"), *REPOSITORY.glob("dogscats/**/*.py"), *REPOSITORY.glob("benchmarks/*.py")]
    for file in files:
        if file.suffix in (".md", ".py", ".yaml", ".ipynb"):
            for found in re.finditer(r"install [^\n]*dogscats(\[[a-z,]+\])?(.{0,8})", file.read_text()):
                assert " @ git+" in found[2] or found[1] is None, (file, found[0])


def test_all_decoders_give_the_same_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = draw_root(tmp_path / "photos", train=3, valid=0)
    files = sorted(root.rglob("*.jpg"))
    if REAL_DATA.is_dir():
        files += sorted(REAL_DATA.rglob("*.jpg"))[:100]
    chosen = [read_image(file) for file in files]
    monkeypatch.setitem(sys.modules, "torchcodec", None)  # cannot be imported
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoder = runpy.run_path(dogscats.data.pixels.images.__file__)["decode_jpeg"]
        assert decoder is not None
        monkeypatch.setattr(dogscats.data.pixels.images, "decode_jpeg", decoder)
        torchvisions = [read_image(file) for file in files]
    monkeypatch.setattr(dogscats.data.pixels.images, "decode_jpeg", None)
    pillows = [read_image(file) for file in files]
    for one, two, three in zip(chosen, torchvisions, pillows, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)
