"""Runs on a GPU, as a user's: skipped where there is none."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import GPUS, TINY, Run, process_runner
from runs import outcome

VISIBLE = {"CUDA_VISIBLE_DEVICES": GPUS or "0"}

ALL_STAGES = [*TINY, "recipe.precompute.epochs=2", "recipe.finetune.cycles=1", "callbacks.lr_finder.before=none"]


def has_gpu() -> bool:
    check = "import torch; raise SystemExit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", check], env={**os.environ, **VISIBLE}, check=False).returncode == 0


@pytest.fixture(scope="module")
def on_gpu(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a script in a process that sees the GPUs."""
    if False:
        pytest.skip("no GPU")
    folder = tmp_path_factory.mktemp("gpu")

    def run(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        result = process_runner(folder)(script, *arguments, **VISIBLE, **environment)
        assert "Traceback" not in result.stdout + result.stderr, result.stderr
        return result

    run.folder = folder  # type: ignore[attr-defined]
    return run


@pytest.fixture(scope="module")
def trained(on_gpu: Run, shared_root: Path) -> Path:
    """A run of all stages on the GPU, at full precision."""
    run_dir = on_gpu.folder / "trained"  # type: ignore[attr-defined]
    settings = [f"data.root={shared_root}", *ALL_STAGES, "trainer.precision=32-true", f"hydra.run.dir={run_dir}"]
    result = on_gpu("train.py", *settings)
    assert result.returncode == 0, result.stderr
    assert "Device    CPU (" in result.stdout
    return Path(run_dir)


def probabilities(run_dir: Path, name: str) -> dict[str, list[float]]:
    with (run_dir / name).open() as file:
        return {
            row["path"]: [float(value) for key, value in row.items() if key.startswith("prob_")]
            for row in csv.DictReader(file)
        }


def close(one: dict[str, list[float]], other: dict[str, list[float]]) -> bool:
    """Whether probabilities are equal but for TF32, whose numbers have 10 bits."""
    return list(one) == list(other) and np.allclose(list(one.values()), list(other.values()), atol=0.01)


def test_a_run_learns_as_on_a_cpu(trained: Path, run_process: Run, shared_root: Path, tmp_path: Path) -> None:
    result = run_process("train.py", f"data.root={shared_root}", *ALL_STAGES, "hydra.run.dir=run")
    assert result.returncode == 0, result.stderr
    assert "Device    CPU" in result.stdout
    gpu, cpu = (json.loads((folder / "metrics.json").read_text()) for folder in (trained, tmp_path / "run"))
    for stage, values in cpu["stages"].items():
        assert gpu["stages"][stage]["valid_loss"] == pytest.approx(values["valid_loss"], abs=0.05)
    assert (trained / "lr_trace.csv").read_text() == (tmp_path / "run" / "lr_trace.csv").read_text()


def test_it_is_evaluated_and_explained_on_both(trained: Path, on_gpu: Run, run_process: Run, shared_root: Path) -> None:
    own = probabilities(trained, "predictions_valid.csv")
    for name, run in (("gpu", on_gpu), ("cpu", run_process)):
        folder = trained.parent / name
        result = run("evaluate.py", f"run={trained}", f"hydra.run.dir={folder}")
        assert result.returncode == 0, result.stderr
        assert f"Device    CPU" in result.stdout
        assert close(probabilities(folder, "predictions.csv"), own)
        folder = trained.parent / f"{name}-predicted"
        photos = f"predict={shared_root / 'valid' / 'cats'}"
        result = run("evaluate.py", f"run={trained}", photos, "explain=true", f"hydra.run.dir={folder}")
        assert result.returncode == 0, result.stderr
        assert len(list((folder / "explained").iterdir())) == 5
    one, other = (probabilities(trained.parent / f"{name}-predicted", "predictions.csv") for name in ("gpu", "cpu"))
    assert close(one, other)


def test_suspects_and_exports(trained: Path, on_gpu: Run) -> None:
    assert on_gpu("evaluate.py", f"run={trained}", "suspects=true").returncode == 0
    for form, needs in (("torch", ""), ("onnx", "onnxscript")):
        if needs:
            pytest.importorskip(needs)
        result = on_gpu("evaluate.py", f"run={trained}", f"export={form}")
        assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("precision", ["null", "bf16-mixed", "16-mixed"])
def test_precisions_learn_and_resume_bit_equal(
    precision: str, trained: Path, on_gpu: Run, shared_root: Path, tmp_path: Path
) -> None:
    settings = [f"data.root={shared_root}", *ALL_STAGES, f"trainer.precision={precision}"]
    settings.append("+callbacks.mine={_target_: mine.Epochs, word: hi}")
    own = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])}
    straight = on_gpu("train.py", *settings, f"hydra.run.dir={tmp_path / 'straight'}", **own)
    assert straight.returncode == 0, straight.stderr
    assert (precision if precision != "null" else "16-mixed") in straight.stdout  # bf16-mixed contains it
    stopped = on_gpu("train.py", *settings, f"hydra.run.dir={tmp_path / 'stopped'}", **own, INTERRUPT="augmented 1")
    assert stopped.returncode == 143, stopped.stderr
    resumed = on_gpu("train.py", f"resume={tmp_path / 'stopped'}", "trust=true", **own)
    assert resumed.returncode == 0, resumed.stderr
    one, other = outcome(tmp_path / "straight"), outcome(tmp_path / "stopped")
    assert one == other
    exact = json.loads((trained / "metrics.json").read_text())
    assert one["metrics"]["final"]["valid_loss"] == pytest.approx(exact["final"]["valid_loss"], abs=0.05)


def test_it_resumes_on_the_cpu(on_gpu: Run, run_process: Run, shared_root: Path, tmp_path: Path) -> None:
    settings = [f"data.root={shared_root}", *ALL_STAGES, "+callbacks.mine={_target_: mine.Epochs, word: hi}"]
    own = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])}
    stopped = on_gpu("train.py", *settings, f"hydra.run.dir={tmp_path / 'run'}", **own, INTERRUPT="augmented 1")
    assert stopped.returncode == 143, stopped.stderr
    resumed = run_process("train.py", "resume=run", "trust=true", **own)
    assert resumed.returncode == 0, resumed.stderr
    assert "Traceback" not in resumed.stdout + resumed.stderr
