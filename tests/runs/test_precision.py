"""Precision by device, gradient scaling, and operations that are not deterministic."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cached_head import cached, head_classifier
from conftest import TINY, Run
from interrupted_runs import outcome
from pytorch_lightning import Callback, Trainer
from test_trainer import PHOTOS, cycles

from dogscats.base.errors import Diverged
from dogscats.lesson.keep_best import StopAtDivergence
from dogscats.lesson.lr_finder import find_lr
from dogscats.lesson.sgdr import SGDR
from dogscats.report.history import History
from dogscats.runs import launch, trainer
from dogscats.runs.trainer import cpu_computes_bf16, default_precision, trainer_factory

CUDA = torch.device("cuda", 1)
CAPABILITIES = [
    ((9, 0), "bf16-mixed"), ((8, 9), "bf16-mixed"), ((8, 0), "bf16-mixed"),
    ((7, 5), "16-mixed"), ((7, 0), "16-mixed"), ((6, 0), "16-mixed"),
]  # fmt: skip
"""H100, L4, A100; T4, V100, P100."""


def scaled(init_scale: float, growth_interval: int = 2000) -> str:
    """Gradient scaling on the CPU, where Lightning's own 16-mixed would be bf16-mixed."""
    scaler = (
        f"{{_target_: torch.amp.GradScaler, device: cpu, init_scale: {init_scale}, growth_interval: {growth_interval}}}"
    )
    plugin = "_target_: pytorch_lightning.plugins.MixedPrecision, precision: 16-mixed, device: cpu"
    return f"+trainer.plugins=[{{{plugin}, scaler: {scaler}}}]"


def scaled_trainers(init_scale: float) -> Any:
    scaler = {"_target_": "torch.amp.GradScaler", "device": "cpu", "init_scale": init_scale}
    plugin = {"_target_": "pytorch_lightning.plugins.MixedPrecision", "precision": "16-mixed", "device": "cpu"}
    return trainer_factory({"accelerator": "cpu", "logger": False, "plugins": [plugin | {"scaler": scaler}]})


class Recorder(Trainer):
    """A Trainer that remembers the precision it was asked for; on a CPU Lightning changes 16-mixed."""

    asked = None

    def __init__(self, **arguments: Any):
        Recorder.asked = arguments["precision"]
        super().__init__(**arguments)


class Nondeterministic(Callback):
    """An operation without a deterministic version, at every step."""

    def on_before_zero_grad(self, *_: Any) -> None:
        torch.zeros(2).put_(torch.tensor([0]), torch.ones(1))


class NaNGradients(Callback):
    """Gradients that are no numbers, though the loss is one."""

    def on_after_backward(self, trainer: Trainer, pl_module: Any) -> None:
        for parameter in pl_module.heads.parameters():
            parameter.grad.fill_(float("nan"))


@pytest.fixture
def train(run_command: Run, shared_root: Path, tmp_path: Path) -> Any:
    def train(*overrides: str, name: str = "run", code: int = 0) -> Any:
        settings = overrides
        if not overrides[0].startswith("resume="):
            settings = (f"data.root={shared_root}", *TINY, *PHOTOS, f"hydra.run.dir={name}", *overrides)
        result = run_command("train.py", *settings)
        assert result.returncode == code, result.stderr
        return result

    return train


def rows(file: Path) -> list[dict[str, str]]:
    with file.open() as opened:
        return list(csv.DictReader(opened))


def test_the_default_precision_is_the_fastest_that_the_device_computes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for capability, precision in CAPABILITIES:
        # Only the card that is used counts.
        monkeypatch.setattr(
            "torch.cuda.get_device_capability", lambda device, its=capability: its if device == CUDA else (0, 0)
        )
        assert default_precision(CUDA) == precision
        settings = {"_target_": f"{__name__}.Recorder", "accelerator": "cpu"}
        trainer_factory(settings, tmp_path, CUDA)()
        assert Recorder.asked == precision
        trainer_factory(settings | {"precision": "32-true"}, tmp_path, CUDA)()
        assert Recorder.asked == "32-true"
        # Without a device, that which Lightning chooses: in Python, by Predictor.
        monkeypatch.setattr(trainer, "Fabric", lambda **_: SimpleNamespace(device=CUDA))
        trainer_factory(settings)()
        assert Recorder.asked == precision
    assert default_precision(torch.device("cpu")) == default_precision(torch.device("mps")) == "32-true"


@pytest.mark.parametrize(
    ("flags", "computes"), [("sse avx512_bf16", True), ("amx_tile amx_bf16", True), ("avx512f", False), (None, False)]
)
def test_bf16_of_the_processor(flags: str | None, computes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_text(path: Path, **_: Any) -> str:
        assert str(path) == "/proc/cpuinfo"
        if flags is None:
            raise FileNotFoundError
        return f"processor\t: 0\nflags\t\t: fpu {flags} sse4\n"

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_text", read_text)
        assert cpu_computes_bf16() == computes


@pytest.mark.slow
def test_the_log_names_the_precision_and_that_of_a_faster_processor_once(
    train: Any, run_command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "cpu_computes_bf16", lambda: True)
    output = train("recipe.augmented.cycles=1").stdout
    assert "threads), 32-true" in output
    assert output.count("trainer.precision=bf16-mixed may be faster") == 1
    evaluated = run_command("evaluate.py", "run=run", "callbacks.tta.n_aug=0", "trainer.precision=bf16-mixed")
    assert evaluated.returncode == 0, evaluated.stderr
    assert "threads), bf16-mixed" in evaluated.stdout
    for name, asked in (("one", "32-true"), ("two", "bf16-mixed")):
        output = train("recipe.augmented.cycles=1", f"trainer.precision={asked}", name=name).stdout
        assert f"threads), {asked}" in output
        assert "may be faster" not in output


def test_each_trainer_has_a_scaler_of_its_own() -> None:
    make_trainer = scaled_trainers(2.0)
    one, other = make_trainer(), make_trainer()
    assert one.precision == other.precision == "16-mixed"
    assert one.precision_plugin.scaler is not other.precision_plugin.scaler
    assert one.precision_plugin.scaler.get_scale() == 2


@pytest.mark.slow
def test_skipped_steps_keep_the_schedule_and_are_no_divergence(train: Any, tmp_path: Path) -> None:
    result = train(scaled(1e30), "callbacks.lr_finder.before=first")  # too high for all 10 steps
    assert "threads), 16-mixed" in result.stdout
    assert "Warning   10 of 10 optimizer steps were skipped" in result.stdout
    trace = rows(tmp_path / "run" / "lr_trace.csv")
    assert [int(row["step"]) for row in trace] == list(range(10))
    assert [float(row["head"]) for row in trace] == pytest.approx(cycles(5, 2))
    assert len(rows(tmp_path / "run" / "history.csv")) == 2


@pytest.mark.slow
def test_after_the_first_steps_it_trains_and_keeps_the_best_with_clipped_gradients(train: Any, tmp_path: Path) -> None:
    settings = ("recipe.augmented.cycles=5", "recipe.augmented.keep=best")
    exact = train(*settings, "+trainer.gradient_clip_val=0.1", name="exact")
    result = train(*settings, "+trainer.gradient_clip_val=0.1", scaled(2.0**20))
    assert "diverged" not in result.stdout + exact.stdout
    losses = [float(row["valid_loss"]) for row in rows(tmp_path / "run" / "history.csv")]
    assert len(set(losses)) == len(losses) == 5
    stage = json.loads((tmp_path / "run" / "metrics.json").read_text())["stages"]["augmented"]
    assert stage["valid_loss"] <= min(losses)
    expected = [float(row["valid_loss"]) for row in rows(tmp_path / "exact" / "history.csv")]
    assert losses[0] != expected[0]
    assert losses[-1] == pytest.approx(expected[-1], abs=0.3)


def test_the_lr_finder_takes_every_step(shared_root: Path) -> None:
    curve = find_lr(head_classifier(), cached(), scaled_trainers(1e30), steps=30)
    assert curve.lrs == pytest.approx([1e-5 * 1e6 ** (step / 29) for step in range(30)])
    steady = find_lr(head_classifier(), cached(), scaled_trainers(2.0**8), steps=100)
    assert steady.has_minimum


def test_gradients_that_no_scale_makes_finite_are_divergence() -> None:
    callbacks = [SGDR(cycle_len=1), StopAtDivergence(), NaNGradients()]
    fit = scaled_trainers(2.0**16)(callbacks=callbacks, max_epochs=5, enable_checkpointing=False, logger=False)
    with pytest.raises(Diverged, match=r"non-finite gradients at step 39, epoch 2"):  # 13 steps an epoch
        fit.fit(head_classifier(), cached())


@pytest.mark.slow
def test_a_resumed_run_has_the_scale_of_an_uninterrupted_one(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [scaled(2.0**18, growth_interval=4), "recipe.augmented.cycles=4"]
    states: list[dict[str, Any]] = []
    recorded, interrupted = History.on_train_epoch_end, History.on_train_epoch_start

    def record(history: History, trainer: Trainer, module: Any) -> None:
        recorded(history, trainer, module)
        states.append(trainer.precision_plugin.state_dict())

    def interrupt(history: History, trainer: Trainer, module: Any) -> None:
        interrupted(history, trainer, module)
        if trainer.current_epoch == 2:
            raise RuntimeError("power cut")

    monkeypatch.setattr(History, "on_train_epoch_end", record)
    train(*settings, name="straight")
    straight = states.copy()
    assert len({state["scale"] for state in straight}) > 1
    states.clear()
    with monkeypatch.context() as patched:
        patched.setattr(History, "on_train_epoch_start", interrupt)
        train(*settings, name="killed", code=1)
    saved = torch.load(tmp_path / "killed" / "checkpoints" / "resume_augmented.ckpt", weights_only=True)
    assert saved["MixedPrecision"] == straight[1]
    assert any(state["_growth_tracker"] > 0 for state in straight)
    train("resume=killed")
    assert states == straight
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "straight")


@pytest.mark.slow
def test_operations_that_are_not_deterministic_are_named_once_or_refused(train: Any, tmp_path: Path) -> None:
    callback = f"+callbacks.own={{_target_: {__name__}.Nondeterministic}}"
    warned = train(callback)
    assert (warned.stdout + warned.stderr).count("deterministic") == 1
    assert "Warning   put_ has no deterministic implementation on this device" in warned.stdout
    refused = train(callback, "trainer.deterministic=true", name="refused", code=1)
    assert refused.stderr.strip().splitlines()[-1].startswith("error: trainer.deterministic=true: put_ has no")
    assert "trainer.deterministic=warn" in refused.stderr
    assert "Traceback" not in refused.stdout + refused.stderr
    assert "To resume" not in refused.stdout
    train("trainer.deterministic=true", name="refused")  # the directory is free
