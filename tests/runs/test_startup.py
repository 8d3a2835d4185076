"""The start: help and wrong settings are told before torch is imported, and nothing is imported without need."""

import json
import os
import resource
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY, TINY

import dogscats

ONE_BY_ONE = """
import json, os, runpy, sys
for script, *arguments in json.load(sys.stdin):
    sys.argv = [script, *arguments]
    print("$", *arguments, flush=True)
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as error:
        print(error)
    print("imported:", *sorted({"torch", "pytorch_lightning", "matplotlib"} & set(sys.modules)))
import dogscats
assert {*dogscats.__all__} <= {*dir(dogscats)}
print("package:", *sorted({"torch", "pytorch_lightning", "matplotlib"} & set(sys.modules)))
"""

EMPTY = """
import hydra
hydra.main(version_base="1.3", config_path=%r, config_name="train")(print)()
"""


def test_help_and_wrong_settings_need_no_torch(tmp_path: Path) -> None:
    """All in one process, where torch would stay imported."""
    (tmp_path / "photos").mkdir()
    wrong = {
        ("train.py",): [
            *("nothing=1", "data.root=nowhere", "data.size=0", "data.group='('", "model=timm", "load=nowhere.ckpt"),
            *("lr=abc", "recipe.precompute.epochs=-1", "+recipe.finetune.unknown=1", "heads=0", "resume=photos"),
        ],
        ("evaluate.py", "run=nowhere"): ["ckpt=x", "export=tflite", "run=photos"],
        ("evaluate.py",): ["run=null", "run=nowhere"],
    }
    commands = [[str(REPOSITORY / script), "--help"] for script in ("train.py", "evaluate.py")]
    commands += [
        [str(REPOSITORY / script), *(["data.root=photos"] if script == "train.py" else []), *given, setting]
        for (script, *given), settings in wrong.items()
        for setting in settings
    ]
    result = subprocess.run(
        [sys.executable, "-c", ONE_BY_ONE],
        input=json.dumps(commands), capture_output=True, text=True, cwd=tmp_path, check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    printed = result.stdout.split("\n$ ")
    assert len(printed) == len(commands)
    assert all("--cfg job shows all settings" in text for text in printed[:2])
    for command, text in zip(commands[2:], printed[2:], strict=True):
        assert "error: " in text, text
        key, _, value = command[-1].lstrip("+").partition("=")
        message = text.partition("\n")[2]
        assert key.rpartition(".")[2] in message or value in message
    loaded = [text.splitlines()[0] for text in printed if "imported: torch" in text]
    assert not loaded
    assert result.stdout.splitlines()[-1].strip() == "package:"
    assert not (tmp_path / "outputs").is_dir() or not [*(tmp_path / "outputs").glob("*/*/config.yaml")]


def test_help_is_almost_as_quick_as_that_of_an_empty_program(tmp_path: Path) -> None:
    def cpu_seconds(*arguments: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments, "--help"], cwd=tmp_path, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    (tmp_path / "empty.py").write_text(EMPTY % str(REPOSITORY / "conf"))
    assert cpu_seconds(str(REPOSITORY / "train.py")) < 1.5 * cpu_seconds("empty.py")


@pytest.mark.fault("Ctrl-C while torch is imported: exit 130, without a traceback")
def test_a_signal_during_the_imports(shared_root: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "train.py"), f"data.root={shared_root}", *TINY, "hydra.run.dir=run"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
    )  # fmt: skip
    while not (tmp_path / "run").is_dir():  # made just before Hydra calls `main`
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=15)
    assert process.returncode == 130
    assert not (tmp_path / "run" / "config.yaml").exists()
    assert "Traceback" not in output + errors


@pytest.mark.parametrize("script", ["train.py", "evaluate.py"])
def test_importing_a_command_leaves_signal_handlers_as_they_are(script: str) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    runpy.run_path(str(REPOSITORY / script), run_name="imported")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_public_names() -> None:
    for name in dogscats.__all__:
        assert getattr(dogscats, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing"):
        dogscats.nothing  # noqa: B018
