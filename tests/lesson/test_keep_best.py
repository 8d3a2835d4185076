"""`keep=best`: a stage never ends worse than it began."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, Run

SETTINGS = [
    *TINY,
    *("recipe=adapt", "heads=2", "callbacks.reports=null", "callbacks.tta.n_aug=0", "recipe.finetune.epochs=4"),
]
EMA = (
    "+callbacks.ema={_target_: pytorch_lightning.callbacks.EMAWeightAveraging, decay: 0.5, "
    "update_starting_at_epoch: 0, use_buffers: true}"
)
HARMFUL = ["recipe.finetune.lr=0.05", "recipe.finetune.optimizer=sgd", "recipe.finetune.weight_decay=10"]
DIVERGING = ["recipe.finetune.lr=10", "recipe.finetune.optimizer=sgd"]


def metrics(run_dir: Path) -> Any:
    return json.loads((run_dir / "metrics.json").read_text())


def state(run_dir: Path, name: str = "last") -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = torch.load(run_dir / "checkpoints" / f"{name}.ckpt")["state_dict"]
    return loaded


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    "averaging", [pytest.param([], id="plain"), pytest.param([EMA], id="averaged", marks=pytest.mark.slow)]
)
def test_the_stage_ends_with_the_weights_of_its_best_epoch(
    averaging: list[str], run_command: Run, shared_root: Path, tmp_path: Path
) -> None:
    result = run_command("train.py", f"data.root={shared_root}", *SETTINGS, *averaging, "hydra.run.dir=run")
    assert result.returncode == 0, result.stderr
    found = metrics(tmp_path / "run")
    stages, final = found["stages"], found["final"]
    with (tmp_path / "run" / "history.csv").open() as file:
        losses = [float(row["valid_loss"]) for row in csv.DictReader(file) if row["stage"] == "finetune"]
    start = stages["precompute"]["valid_loss"]
    kept = stages["finetune"]["kept"]
    best = min(losses)
    assert kept == (losses.index(best) if best < start else "start")
    assert stages["finetune"]["valid_loss"] == pytest.approx(min(best, start), rel=1e-5)
    assert final["valid_loss"] == pytest.approx(min(best, start), rel=1e-5)
    assert f"Kept the weights of {f'epoch {kept}' if kept != 'start' else 'the start'}" in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "harm", [pytest.param(HARMFUL, id="harmful"), pytest.param(DIVERGING, id="diverging", marks=pytest.mark.slow)]
)
def test_harmful_training_ends_with_the_start(
    harm: list[str], run_command: Run, shared_root: Path, tmp_path: Path
) -> None:
    result = run_command("train.py", f"data.root={shared_root}", *SETTINGS, *harm, "hydra.run.dir=run")
    assert result.returncode == 0, result.stderr
    stages = metrics(tmp_path / "run")["stages"]
    assert stages["finetune"]["kept"] == "start"
    assert "train_loss" not in stages["finetune"]
    assert stages["finetune"]["valid_loss"] == pytest.approx(stages["precompute"]["valid_loss"], rel=1e-4)
    assert same(state(tmp_path / "run"), state(tmp_path / "run", "adapt_head"))
    assert "since no epoch was better" in result.stdout
    assert ("non-finite" in result.stdout) == (harm is DIVERGING)


@pytest.mark.parametrize("harm", [[], HARMFUL], ids=["good", "harmful"])
@pytest.mark.slow
def test_it_resumes_bit_equal(harm: list[str], run_command: Run, shared_root: Path, tmp_path: Path) -> None:
    arguments = [f"data.root={shared_root}", *SETTINGS, *harm, "+callbacks.mine={_target_: mine.Epochs, word: hi}"]
    assert run_command("train.py", *arguments, "hydra.run.dir=straight").returncode == 0
    for epoch in (1, 3):
        run_dir = f"interrupted{epoch}"
        stopped = run_command("train.py", *arguments, f"hydra.run.dir={run_dir}", INTERRUPT=f"finetune {epoch}")
        assert stopped.returncode == 143, stopped.stderr
        resumed = run_command("train.py", f"resume={tmp_path / run_dir}", "trust=true")
        assert resumed.returncode == 0, resumed.stderr
        assert same(state(tmp_path / run_dir), state(tmp_path / "straight"))
        straight, other = (metrics(tmp_path / name) for name in ("straight", run_dir))
        assert straight["final"] == other["final"]
        assert straight["stages"]["finetune"]["kept"] == other["stages"]["finetune"]["kept"]


def test_without_validation_it_is_refused(run_command: Run, shared_root: Path) -> None:
    result = run_command("train.py", f"data.root={shared_root}", *SETTINGS, "+trainer.limit_val_batches=0")
    assert result.returncode == 1
    assert "keep=best needs the validation loss" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_few_photos_point_to_other_recipes_unless_one_was_chosen(run_command: Run, shared_root: Path) -> None:
    tiny = [f"data.root={shared_root}", *TINY, "callbacks.reports=null", "+trainer.fast_dev_run=true"]
    hint = "recipe=small and recipe=adapt"
    assert hint in run_command("train.py", *tiny).stdout
    for chosen in ("recipe=lesson1", "recipe=head_only", "recipe=adapt"):
        assert hint not in run_command("train.py", *tiny, chosen).stdout
