"""Callbacks and loggers that a user adds through Hydra."""

import csv
import json
import re
from pathlib import Path

import pytest
import torch
from conftest import HEAD, QUIET, REPOSITORY, TINY, Run
from interrupted_runs import outcome
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dogscats.base.errors import UserError
from dogscats.runs.compose import nodes

QUICK = [*TINY, "recipe=head_only", *QUIET, "hydra.run.dir=run"]
EARLY_STOPPING = (
    "+callbacks.early_stopping={_target_: pytorch_lightning.callbacks.EarlyStopping, monitor: valid_loss, "
    "patience: 1, min_delta: 100}"
)
EMA = (
    "+callbacks.ema={_target_: pytorch_lightning.callbacks.WeightAveraging, "
    "avg_fn: {_target_: torch.optim.swa_utils.get_ema_avg_fn, decay: 0.9}}"
)


def metrics(run_dir: Path) -> dict[str, dict[str, dict[str, float]]]:
    return dict(json.loads((run_dir / "metrics.json").read_text()))


def state(run_dir: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])


@pytest.mark.parametrize(
    "recipe", ["lesson1", *(pytest.param(recipe, marks=pytest.mark.slow) for recipe in ("gradual", "heads"))]
)
def test_early_stopping_ends_each_stage_and_epochs_are_those_that_ran(
    run_command: Run, shared_root: Path, tmp_path: Path, recipe: str
) -> None:
    result = run_command(
        "train.py", f"data.root={shared_root}", *QUICK, f"recipe={recipe}", "callbacks.tta.n_aug=0",
        EARLY_STOPPING,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    stages = metrics(tmp_path / "run")["stages"]
    assert {stage["epochs"] for stage in stages.values()} == {2}
    history = list(csv.DictReader((tmp_path / "run" / "history.csv").open()))
    assert [row["epoch"] for row in history] == ["0", "1"] * len(stages)


def test_a_moving_average_of_the_weights_is_validated_saved_and_predicted_with(
    run_command: Run, shared_root: Path, tmp_path: Path
) -> None:
    arguments = [f"data.root={shared_root}", *QUICK]
    for name, more in (("plain", []), ("averaged", [EMA])):
        result = run_command("train.py", *arguments, f"hydra.run.dir={name}", *more)
        assert result.returncode == 0, result.stderr
    plain, averaged = (metrics(tmp_path / name) for name in ("plain", "averaged"))
    assert plain["stages"]["precompute"]["train_loss"] == averaged["stages"]["precompute"]["train_loss"]
    assert plain["stages"]["precompute"]["valid_loss"] != averaged["stages"]["precompute"]["valid_loss"]
    assert averaged["final"]["valid_loss"] == pytest.approx(averaged["stages"]["precompute"]["valid_loss"], rel=1e-5)
    weights = state(tmp_path / "averaged")["heads.0.6.weight"]
    assert not torch.equal(weights, state(tmp_path / "plain")["heads.0.6.weight"])


@pytest.mark.slow
def test_callbacks_resume_bit_equal(run_command: Run, shared_root: Path, tmp_path: Path) -> None:
    arguments = [
        f"data.root={shared_root}", *TINY, *QUIET, "recipe=gradual",
        "callbacks.tta.n_aug=0", "recipe.head.epochs=3", "recipe.late.save=224_lastlayer",
        EMA, EARLY_STOPPING.replace("patience: 1", "patience: 2"), "+callbacks.mine={_target_: mine.Epochs, word: hi}",
    ]  # fmt: skip
    assert run_command("train.py", *arguments, "hydra.run.dir=straight").returncode == 0
    resume = [f"resume={tmp_path / 'interrupted'}", "trust=true"]
    result = run_command("train.py", *arguments, "hydra.run.dir=interrupted", INTERRUPT="head 2")
    assert result.returncode == 143
    assert f"train.py {' '.join(resume)}" in result.stdout
    assert "mine.Epochs" in run_command("train.py", resume[0]).stderr
    assert run_command("train.py", *resume, INTERRUPT="all 3").returncode == 143
    result = run_command("train.py", *resume)
    assert result.returncode == 0, result.stderr
    assert "hi: all 3" in result.stdout
    assert outcome(tmp_path / "interrupted") == outcome(tmp_path / "straight")
    assert metrics(tmp_path / "interrupted")["stages"]["head"]["epochs"] == 3


def test_a_callback_of_the_users_own_module_in_the_working_directory(
    run_command: Run, shared_root: Path, tmp_path: Path
) -> None:
    (tmp_path / "own_module.py").write_text((REPOSITORY / "tests" / "mine.py").read_text())
    result = run_command(
        "train.py", f"data.root={shared_root}", *QUICK, "+callbacks.mine={_target_: own_module.Epochs, word: hi}"
    )
    assert result.returncode == 0, result.stderr
    assert "hi: precompute 1\n" in result.stdout
    assert "hi: precompute 2\n" in result.stdout


def test_a_report_is_one_function(run_command: Run, shared_root: Path, tmp_path: Path) -> None:
    report = "+callbacks.reports.mine={_target_: dogscats.Report, draw: {_target_: mine.histogram, _partial_: true}}"
    result = run_command(
        "train.py", f"data.root={shared_root}", *HEAD, "hydra.run.dir=run", "~callbacks.reports.pictures",
        report,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run" / "histogram.png").exists()
    assert (tmp_path / "run" / "confusion_matrix.png").exists()
    tags = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "final")).Reload().Tags()["images"]
    assert {"histogram", "confusion_matrix"} <= set(tags)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+callbacks.x={patience: 3}", "callbacks.x.patience=3: this has no effect"),
        ("+callbacks.x=3", "callbacks.x=3: this has no effect"),
        ("+callbacks.x={_target_: nowhere.X}", "callbacks.x._target_=nowhere.X: "),
        ("+callbacks.x={_target_: builtins.dict}", "callbacks.x: builtins.dict gives a dict, not a callback"),
        ("+callbacks.x={_target_: mine.Epochs}", "missing 1 required positional argument: 'word'"),
        ("+callbacks.x={_target_: pytorch_lightning.callbacks.EarlyStopping, monitor: nothing}", "metric `nothing`"),
        (
            "+callbacks.x={_target_: pytorch_lightning.callbacks.StochasticWeightAveraging, swa_lrs: 0.1}",
            "callbacks.x: StochasticWeightAveraging cannot be used here",
        ),
        ("+callbacks.x={_target_: pytorch_lightning.callbacks.OnExceptionCheckpoint, dirpath: x}", "resume=<run>"),
        ("+callbacks.x={_target_: pytorch_lightning.callbacks.BackboneFinetuning}", "recipe.<stage>.freeze_to"),
        (
            "+callbacks.x={_target_: dogscats.LRSchedule, schedule: one_cycle, foo: 1}",
            "got an unexpected keyword argument 'foo'",
        ),
        ("+callbacks.x={_target_: dogscats.SGDR, cycle_len: 0}", "cycle_len=0: expected a whole number"),
        ("+callbacks.x={_target_: dogscats.TTA}", "callbacks.x: there is test-time augmentation already"),
        ("+callbacks.x={_target_: dogscats.LRFinder}", "there are several LR finders"),
        ("callbacks.lr_finder.before=last", "callbacks.lr_finder.before=last: expected first, all or none"),
        ("callbacks.tta.n_aug=-1", "callbacks.tta.n_aug=-1: expected a whole number"),
        ("+logger.x={_target_: builtins.dict}", "logger.x: builtins.dict gives a dict, not a logger"),
        ("logger=nothing", "logger=nothing: there is no such choice"),
    ],
)
def test_what_cannot_take_effect_is_refused(run_command: Run, shared_root: Path, override: str, message: str) -> None:
    result = run_command("train.py", f"data.root={shared_root}", *QUICK, override)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stdout + result.stderr


def test_evaluation_refuses_a_callback_of_training(run_command: Run, tmp_path: Path) -> None:
    (tmp_path / "any.ckpt").touch()  # not read before that
    result = run_command("evaluate.py", "ckpt=any.ckpt", EARLY_STOPPING)
    assert result.returncode == 1
    assert "callbacks.early_stopping: this has no effect: it acts when training" in result.stderr


def test_a_stage_with_cycles_needs_its_schedule(run_command: Run, shared_root: Path) -> None:
    result = run_command("train.py", f"data.root={shared_root}", *TINY, "~callbacks.sgdr")
    assert result.returncode == 1
    assert "callbacks.sgdr: it is missing, but stage augmented has cycles" in result.stderr


@pytest.mark.slow
def test_an_lr_finder_under_another_name_runs(run_command: Run, shared_root: Path, tmp_path: Path) -> None:
    finder = "+callbacks.mine={_target_: dogscats.LRFinder, before: all}"
    result = run_command(
        "train.py", f"data.root={shared_root}", *TINY, "recipe=head_only", "~callbacks.lr_finder", finder,
        "callbacks.reports=null", "hydra.run.dir=run",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run" / "lr_finder.csv").exists()


@pytest.mark.slow
def test_a_resumed_stage_keeps_the_lr_finders_curve(run_command: Run, shared_root: Path, tmp_path: Path) -> None:
    arguments = [
        f"data.root={shared_root}", *TINY, "recipe=head_only", "recipe.precompute.epochs=4", "callbacks.reports=null",
        "hydra.run.dir=run", "+callbacks.mine={_target_: mine.Epochs, word: hi}",
    ]  # fmt: skip
    assert run_command("train.py", *arguments, INTERRUPT="precompute 3").returncode == 143
    assert run_command("train.py", "resume=run", "trust=true").returncode == 0
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "precompute"), {"scalars": 0}).Reload()
    points = len(list(csv.DictReader((tmp_path / "run" / "lr_finder.csv").open())))
    assert {event.step for event in events.Scalars("lr_finder/lr")} == set(range(points))
    assert [event.step for event in events.Scalars("lr-SGD/head")] == list(range(20))


def test_a_run_interrupted_in_its_first_stage_is_resumed(run_command: Run, shared_root: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    arguments = [f"data.root={shared_root}", *QUICK, "+callbacks.mine={_target_: mine.Epochs, word: hi}"]
    run_command("train.py", *arguments, INTERRUPT="precompute 2")
    result = run_command("train.py", "resume=run", "trust=true")
    assert result.returncode == 0, result.stderr
    assert metrics(run_dir)["stages"]["precompute"]["epochs"] == 2


def test_a_stage_stops_at_the_first_loss_that_is_no_number(run_command: Run, shared_root: Path, tmp_path: Path) -> None:
    result = run_command("train.py", f"data.root={shared_root}", *QUICK, "recipe.precompute.lr=1e30")
    assert result.returncode == 1
    assert re.search(
        r"error: Stage precompute diverged: non-finite \w+ loss at step \d+, epoch 0, lr=1e\+30", result.stderr
    )
    assert len(result.stderr.strip().splitlines()) == 1
    assert not list((tmp_path / "run" / "checkpoints").glob("*.ckpt"))


def test_predicting_takes_callbacks_and_refuses_what_needs_labels(
    run_command: Run, finished: Path, shared_root: Path
) -> None:
    predict = f"predict={shared_root / 'valid' / 'cats'}"
    writer = "+callbacks.writer={_target_: mine.Writer, write_interval: epoch}"
    result = run_command("evaluate.py", f"run={finished}", predict, writer)
    assert result.returncode == 0, result.stderr
    assert "wrote predictions" in result.stdout
    report = "+callbacks.reports.x={_target_: dogscats.Report, draw: {_target_: mine.histogram, _partial_: true}}"
    for arguments in ([predict, report], ["export=onnx", writer]):
        result = run_command("evaluate.py", f"run={finished}", *arguments)
        assert result.returncode == 1
        assert "this has no effect with predict=, export=, suspects= or label=" in result.stderr


def test_nodes_are_found_at_any_depth() -> None:
    config = {
        "a": {"_target_": "builtins.dict"},
        "b": {"c": {"_target_": "builtins.dict", "d": {"_target_": "x.D"}}},
        "e": None,
    }
    assert [key for key, _ in nodes(config, "callbacks")] == ["callbacks.a", "callbacks.b.c"]
    with pytest.raises(UserError, match=r"callbacks\.b\.c=1: this has no effect"):
        list(nodes({"b": {"c": 1}}, "callbacks"))


def test_tensorboard_and_csv_side_by_side(run_command: Run, shared_root: Path, tmp_path: Path) -> None:
    result = run_command("train.py", f"data.root={shared_root}", *QUICK, "logger=[tensorboard,csv]")
    assert result.returncode == 0, result.stderr
    rows = list(csv.DictReader((tmp_path / "run" / "csv" / "precompute" / "metrics.csv").open()))
    found = metrics(tmp_path / "run")
    assert float([row["valid_loss"] for row in rows if row["valid_loss"]][-1]) == pytest.approx(
        found["stages"]["precompute"]["valid_loss"]
    )
    assert [float(row["lr-SGD/head"]) for row in rows if row["lr-SGD/head"]] == [0.01] * 10
    final = list(csv.DictReader((tmp_path / "run" / "csv" / "final" / "metrics.csv").open()))
    assert float(final[0]["final.valid_acc"]) == found["final"]["valid_acc"]
    assert "recipe: precompute" in (tmp_path / "run" / "csv" / "final" / "hparams.yaml").read_text()
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "precompute")).Reload()
    assert "valid_loss" in events.Tags()["scalars"]


def test_without_loggers_a_run_still_reports(run_command: Run, shared_root: Path, tmp_path: Path) -> None:
    result = run_command("train.py", f"data.root={shared_root}", *QUICK, "logger=[]")
    assert result.returncode == 0, result.stderr
    assert "valid_acc" in metrics(tmp_path / "run")["final"]
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert "tensorboard" not in result.stdout


def test_csv_logs_of_an_interrupted_stage_are_kept(run_command: Run, shared_root: Path, tmp_path: Path) -> None:
    arguments = [
        *QUICK,
        "recipe.precompute.epochs=4",
        "logger=csv",
        "+callbacks.mine={_target_: mine.Epochs, word: hi}",
    ]
    run_command("train.py", f"data.root={shared_root}", *TINY, *arguments, INTERRUPT="precompute 3")
    assert run_command("train.py", "resume=run", "trust=true").returncode == 0
    losses = [
        [row["valid_loss"] for row in csv.DictReader((folder / "metrics.csv").open()) if row["valid_loss"]]
        for folder in (tmp_path / "run" / "csv" / name for name in ("precompute", "precompute_from_step_10"))
    ]
    assert [len(values) for values in losses] == [3, 2]
    assert losses[0][2] == losses[1][0]  # the epoch that was lost is repeated


@pytest.mark.slow
def test_mlflow_with_a_store_of_its_own(run_command: Run, shared_root: Path, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    result = run_command(
        "train.py", f"data.root={shared_root}", *HEAD, "recipe.precompute.epochs=2", "hydra.run.dir=run",
        "logger=mlflow", "~callbacks.reports.pictures",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'run' / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "dogscats"]
    runs = {found.info.run_name: found for found in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"precompute", "final"}
    found = metrics(tmp_path / "run")
    assert runs["precompute"].data.metrics["valid_loss"] == pytest.approx(found["stages"]["precompute"]["valid_loss"])
    assert runs["final"].data.metrics["final.valid_acc"] == found["final"]["valid_acc"]
    assert runs["final"].data.params["recipe"] == "precompute"
    assert {found.info.status for found in runs.values()} == {"FINISHED"}
    artifacts = {file.path for file in client.list_artifacts(runs["final"].info.run_id)}
    drawn = {"accuracy_kept", "augmentation", "confusion_matrix", "lr_schedule", "reliability"}
    assert artifacts == {f"{name}.png" for name in drawn}


@pytest.mark.slow
def test_wandb_offline(run_command: Run, shared_root: Path, tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    result = run_command(
        "train.py", f"data.root={shared_root}", *HEAD, "recipe.precompute.epochs=2", "hydra.run.dir=run",
        "logger=wandb", "logger.wandb.offline=true", "~callbacks.reports.pictures",
        WANDB_MODE="offline", WANDB_SILENT="true",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    stages = sorted((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert len(stages) == 2  # the stage and the final report
    assert list(stages[1].rglob("confusion_matrix*.png"))
