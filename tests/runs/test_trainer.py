"""Arguments of Lightning's Trainer take effect, or are refused by one message."""

import csv
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import QUIET, TINY, Run
from pytorch_lightning import Trainer

from dogscats.base.errors import UserError
from dogscats.lesson.schedules import Position, sgdr
from dogscats.runs.trainer import trainer_factory
from dogscats.runs.trainer_settings import PREDICTION_ARGUMENTS, REFUSED_ARGUMENTS, check_trainer

PHOTOS = [
    "~recipe.precompute", "~recipe.finetune", "recipe.augmented.cycles=2", "callbacks.tta.n_aug=0", *QUIET,
]  # fmt: skip
"""A stage of 2 epochs, each of 5 batches and a cycle of its own, on photos."""


@pytest.fixture
def train(run_command: Run, shared_root: Path, tmp_path: Path) -> Any:
    def train(*overrides: str, name: str = "run") -> tuple[dict[str, Any], list[dict[str, str]], list[float]]:
        result = run_command(
            "train.py", f"data.root={shared_root}", *TINY, *PHOTOS, *overrides, f"hydra.run.dir={name}"
        )
        assert result.returncode == 0, result.stderr
        assert "Traceback" not in result.stdout + result.stderr
        run = tmp_path / name
        history, trace = (list(csv.DictReader((run / name).open())) for name in ("history.csv", "lr_trace.csv"))
        assert [int(row["step"]) for row in trace] == list(range(len(trace)))
        return json.loads((run / "metrics.json").read_text()), history, [float(row["head"]) for row in trace]

    return train


def cycles(steps: int, epochs: int) -> list[float]:
    """Learning rates of cycles of an epoch each."""
    return [0.01 * sgdr(Position(step, steps, steps * epochs)) for step in range(steps * epochs)]


def test_accumulated_gradients_count_steps_not_batches(train: Any) -> None:
    metrics, _, lrs = train("+trainer.accumulate_grad_batches=2")
    assert lrs == pytest.approx(cycles(3, 2))  # 5 batches are 3 steps, the last one of a single batch
    assert metrics["stages"]["augmented"]["epochs"] == 2


def test_a_callback_that_changes_the_accumulation_keeps_the_cycles(train: Any) -> None:
    scheduling = "{_target_: pytorch_lightning.callbacks.GradientAccumulationScheduler, scheduling: {0: 5, 1: 1}}"
    lrs = train(f"+callbacks.accumulation={scheduling}")[2]
    assert lrs == pytest.approx([0.01, *cycles(5, 1)])


def test_limited_training_batches_make_shorter_cycles(train: Any) -> None:
    assert train("+trainer.limit_train_batches=2")[2] == pytest.approx(cycles(2, 2))


@pytest.mark.slow
def test_gradients_are_clipped(train: Any) -> None:
    plain, clipped = train(name="plain")[1], train("+trainer.gradient_clip_val=0.01", name="clipped")[1]
    assert plain[-1]["train_loss"] != clipped[-1]["train_loss"]


def test_without_validation_there_are_no_validation_metrics_of_a_stage(train: Any) -> None:
    metrics, history, _ = train("+trainer.limit_val_batches=0")
    assert set(metrics["stages"]["augmented"]) == {"epochs", "train_loss", "seconds"}
    assert metrics["final"]["n"] == 10
    assert [row["valid_loss"] for row in history] == ["", ""]


def test_an_epoch_without_validation_has_no_metrics_of_the_one_before(train: Any) -> None:
    history = train("+trainer.check_val_every_n_epoch=2", "recipe.augmented.cycles=3")[1]
    assert [bool(row["valid_acc"]) for row in history] == [False, True, False]


def test_the_time_of_a_stage_can_be_limited(train: Any) -> None:
    metrics, history, lrs = train("+trainer.max_time=00:00:00:01", "recipe.augmented.cycles=500")
    assert 1 <= metrics["stages"]["augmented"]["epochs"] == len(history) < 500
    assert lrs == pytest.approx(cycles(5, 500)[: len(lrs)])


@pytest.mark.parametrize("lr", ["0.01", "find"])
def test_a_fast_run_tries_every_part_on_one_batch(train: Any, lr: str) -> None:
    metrics, history, lrs = train(
        "+trainer.fast_dev_run=true", "callbacks.tta.n_aug=2", "callbacks.lr_finder.before=first", f"lr={lr}"
    )
    assert metrics["stages"]["augmented"]["epochs"] == len(history) == len(lrs) == 1
    assert metrics["final"]["n"] == 5  # of 10 photos, in batches of 5


@pytest.mark.slow
def test_progress_bars_can_be_hidden(run_command: Run, root: Path) -> None:
    settings = [f"data.root={root}", *TINY, "recipe=head_only", "callbacks.reports=null"]
    assert "Computing activations of train:   0%" in run_command("train.py", *settings).stderr
    result = run_command("train.py", *settings, "+trainer.enable_progress_bar=false", "seed=1", "activations.dir=other")
    assert result.returncode == 0
    assert result.stderr == ""


@pytest.mark.slow
def test_precisions(train: Any) -> None:
    exact = float(train(name="exact")[1][0]["train_loss"])
    for precision in ("bf16-mixed", "64-true", "bf16-true"):
        loss = float(train(f"trainer.precision={precision}", name=precision)[1][0]["train_loss"])
        assert loss == pytest.approx(exact, abs=0.05)
        assert loss != exact


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("+trainer.max_epochs=3", "trainer.max_epochs=3: this has no effect here; the stages have their own"),
        ("+trainer.callbacks=[]", "+callbacks.<name>="),
        ("+trainer.logger=true", "logger=csv"),
        ("+trainer.default_root_dir=x", "hydra.run.dir"),
        ("+trainer.overfit_batches=1", "data.limit"),
        ("trainer.use_distributed_sampler=true", "split across ranks"),
        ("+trainer.barebones=true", "trainer.barebones=True: this has no effect"),
        ("+trainer.limit_train_batches=0", "trainer.limit_train_batches=0: expected more than 0"),
        ("+trainer.max_epoch=3", "Did you mean trainer.max_epochs?"),
        ("trainer.precision=half", "trainer: Precision 'half' is invalid"),
        ("+trainer.gradient_clip_val=much", "trainer.gradient_clip_val=much: expected more than 0"),
        ("+trainer.max_time=soon", "trainer.max_time=soon: expected a time such as 00:02:30:00"),
        ("+trainer.accumulate_grad_batches=-1", "trainer.accumulate_grad_batches=-1: expected a whole number"),
        ("+trainer.accumulate_grad_batches=2.5", "trainer.accumulate_grad_batches=2.5: expected a whole number"),
        ("+trainer.check_val_every_n_epoch=0", "trainer.check_val_every_n_epoch=0: expected"),
        ("+trainer.limit_predict_batches=0", "trainer.limit_predict_batches=0: expected more than 0"),
        ("+trainer.max_time=5", "trainer.max_time=5: expected a time"),
        ("+trainer.max_time=00:00:00:00", "trainer.max_time=00:00:00:00: expected a time"),
        ("+trainer.max_steps=7", "trainer.max_steps=7: this has no effect here; set recipe.<stage>.epochs"),
        ("+trainer.benchmark=abc", "trainer.benchmark=abc: expected true or false"),
        ("+trainer.profiler={a: 1}", "trainer.profiler={'a': 1}: expected"),
        ("+trainer.gradient_clip_algorithm=value", "no effect without trainer.gradient_clip_val"),
        ("trainer._target_=nowhere.X", "trainer._target_=nowhere.X: "),
        ("trainer._target_=builtins.dict", "it is not a Trainer of Lightning"),
        ("trainer.strategy=ddp_spawn", "trainer.strategy=ddp_spawn: ranks run the whole script"),
        ("+trainer._args_=[1]", "trainer._args_: Lightning's Trainer has no such argument"),
        ("~trainer", "trainer: the config group is missing"),
        ("+trainer.val_check_interval=100", "`val_check_interval` (100) must be less than or equal"),
        ("+trainer.sync_batchnorm=true", "needs GPUs"),
        ("trainer.accelerator=abacus", "trainer: "),
        ("trainer.strategy={_target_: x.Y}", "trainer: "),
    ],
)
def test_what_cannot_take_effect_is_refused(run_command: Run, shared_root: Path, argument: str, message: str) -> None:
    result = run_command("train.py", f"data.root={shared_root}", *TINY, *PHOTOS, argument)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stdout + result.stderr


def test_every_argument_of_the_trainer_is_known_here() -> None:
    known = set(inspect.signature(Trainer.__init__).parameters) - {"self"}
    assert set(REFUSED_ARGUMENTS) <= known
    assert known >= PREDICTION_ARGUMENTS


def test_arguments_without_a_value_are_accepted() -> None:
    check_trainer({"_target_": "pytorch_lightning.Trainer", "max_epochs": None, "min_steps": 5})
    with pytest.raises(UserError, match="where nothing is trained"):
        check_trainer({"gradient_clip_val": 5}, training=False)


def test_plugins_and_profilers_of_the_users_own(tmp_path: Path) -> None:
    profiler = {"_target_": "pytorch_lightning.profilers.SimpleProfiler", "dirpath": str(tmp_path)}
    plugin = {"_target_": "pytorch_lightning.plugins.MixedPrecision", "precision": "bf16-mixed", "device": "cpu"}
    trainer = trainer_factory({"profiler": profiler, "plugins": plugin, "accelerator": "cpu"}, tmp_path)(logger=False)
    assert str(trainer.profiler.dirpath) == str(tmp_path)  # type: ignore[attr-defined]
    assert trainer.precision == "bf16-mixed"
    with pytest.raises(UserError, match=r"trainer\.plugins: a CheckpointIO"):
        trainer_factory({"plugins": [{"_target_": "pytorch_lightning.plugins.io.TorchCheckpointIO"}]}, tmp_path)()
