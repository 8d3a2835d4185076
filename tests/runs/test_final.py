"""The weights that a run ends with: those of the stage with the lowest validation loss, or of the last."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, Run, command_runner
from interrupted_runs import RECIPE, outcome, run
from safetensors import safe_open

from dogscats import Predictor
from dogscats.base.files import read_csv
from dogscats.lesson.stage import final_stage, make_stages
from dogscats.report.facts import final_weights
from dogscats.runs import finish

HARMFUL = [*RECIPE, "recipe.augmented.lr=1", "recipe.finetune.lr=1", "callbacks.tta.n_aug=0"]
"""Stages that get worse: the first one, which saves no checkpoint, is the best."""

SENTENCE = "Weights of stage precompute, which has the lowest validation loss; the validation photos chose it"


class Killed(Exception):
    """Stands in for a signal."""


def kill(*_: object, **__: object) -> None:
    raise Killed


def saved_stage(run_dir: Path) -> str:
    return str(torch.load(run_dir / "checkpoints" / "last.ckpt")["stage"])


@pytest.fixture(scope="module")
def straight(shared_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The directory and the output of a run whose first stage is the best."""
    run_dir = tmp_path_factory.mktemp("straight") / "run"
    return run_dir, run(shared_root, run_dir, *HARMFUL)


@pytest.fixture(scope="module")
def stopped(shared_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the same run, killed after its last stage."""
    run_dir = tmp_path_factory.mktemp("stopped") / "run"
    arguments = [f"data.root={shared_root}", f"hydra.run.dir={run_dir}", *TINY, *HARMFUL]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finish, "choose_weights", kill)
        assert "Killed" in command_runner(run_dir.parent)("train.py", *arguments).stderr
    return run_dir


@pytest.fixture
def killed(stopped: Path, tmp_path: Path) -> Path:
    """A copy of that directory."""
    return shutil.copytree(stopped, tmp_path / "run")


def test_a_run_ends_with_the_weights_of_its_best_stage(straight: tuple[Path, str], shared_root: Path) -> None:
    run_dir, output = straight
    metrics = json.loads((run_dir / "metrics.json").read_text())
    losses = {name: row["valid_loss"] for name, row in metrics["stages"].items()}
    assert metrics["final"]["stage"] == min(losses, key=lambda name: losses[name]) == "precompute"
    assert metrics["final"]["valid_loss"] == pytest.approx(losses["precompute"], rel=1e-5)
    assert saved_stage(run_dir) == "precompute"
    with safe_open(run_dir / "model.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["stage"]) == "precompute"
    assert {path.name for path in (run_dir / "checkpoints").glob("*")} == {
        f"{name}.ckpt{digest}" for name in ("224_lastlayer", "last") for digest in ("", ".sha256")
    }
    for text in (output, *((run_dir / name).read_text() for name in ("report.html", "MODEL_CARD.md"))):
        assert SENTENCE in text
    rows = read_csv(run_dir / "predictions_valid.csv")
    predictions, _ = Predictor.load(run_dir).predict([shared_root / row["path"] for row in rows], n_aug=0)
    assert np.allclose(predictions.probabilities[:, 0], [float(row["prob_cats"]) for row in rows], atol=1e-5)
    assert json.loads((run_dir / "reliability.json").read_text())["weights"]
    assert predictions.unlike is not None  # the detector of strangers is of these weights


POINTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "before": lambda patch: patch.setattr(finish, "choose_weights", kill),
    "before the weights are written": lambda patch: patch.setattr(finish, "save_classifier", kill),
    "after they are written": lambda patch: patch.setattr(finish, "shutil", SimpleNamespace(rmtree=kill)),
    "after": lambda patch: patch.setattr(finish, "fit_detector", kill),
    "before the report": lambda patch: patch.setattr(finish, "finish_run", kill),
}


@pytest.mark.fault("killed before, during and after the choice of the final weights: ends bit-equal")
@pytest.mark.parametrize("point", POINTS)
def test_killed_around_the_choice_it_ends_the_same(
    point: str, straight: tuple[Path, str], killed: Path, shared_root: Path, run_command: Run
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        POINTS[point](patch)
        assert "Killed" in run_command("train.py", f"resume={killed}").stderr
    run(shared_root, killed, f"resume={killed}")
    assert outcome(killed) == outcome(straight[0])
    assert (killed / "model.safetensors").read_bytes() == (straight[0] / "model.safetensors").read_bytes()
    assert saved_stage(killed) == "precompute"
    assert not (killed / "checkpoints" / "stages").exists()


@pytest.mark.fault("the best stage's weights damaged before the choice: its stages are repeated, bit-equal")
@pytest.mark.slow
def test_damaged_weights_of_the_best_stage_are_trained_again(
    straight: tuple[Path, str], killed: Path, shared_root: Path
) -> None:
    file = killed / "checkpoints" / "stages" / "precompute.ckpt"
    file.write_bytes(file.read_bytes()[:-1000])
    output = run(shared_root, killed, f"resume={killed}")
    assert "precompute.ckpt: it is damaged" in output
    assert outcome(killed) == outcome(straight[0])


def test_a_run_of_an_earlier_version_ends_with_its_last_stage(killed: Path, shared_root: Path) -> None:
    shutil.rmtree(killed / "checkpoints" / "stages")
    config = killed / "config.yaml"
    config.write_text(config.read_text().replace("final: best\n", ""))
    output = run(shared_root, killed, f"resume={killed}")
    assert "Stage precompute:" not in output
    assert saved_stage(killed) == "finetune"
    assert "Weights of stage finetune, the last; stage precompute has a lower validation loss" in output


RECIPES = make_stages({name: {"lr": 1, "epochs": 1} for name in ("first", "second", "third")})


@pytest.mark.parametrize(
    ("losses", "final", "chosen", "reason"),
    [
        ((0.3, 0.2, 0.4), "best", "second", "the lowest validation loss; the validation photos chose it"),
        ((0.3, 0.2, 0.2), "best", "third", "the lowest validation loss"),
        ((0.3, None, float("nan")), "best", "first", "the lowest validation loss"),
        ((None, None, None), "best", "third", "the last; no stage has a validation loss"),
        ((0.3, 0.2, 0.4), "last", "third", "the last; stage second has a lower validation loss"),
        ((0.3, 0.2, 0.1), "last", "third", "the last."),
    ],
)
def test_the_lowest_validation_loss_chooses(
    losses: tuple[float | None, ...], final: str, chosen: str, reason: str
) -> None:
    rows: dict[str, Any] = {stage.name: {"valid_loss": loss} for stage, loss in zip(RECIPES, losses, strict=True)}
    rows = {name: row if row["valid_loss"] is not None else {} for name, row in rows.items()}
    assert final_stage(RECIPES, rows, final).name == chosen
    said = final_weights({"stages": rows, "final": {"stage": chosen}}, RECIPES, final)
    assert said.startswith(f"Weights of stage {chosen}, ")
    assert reason in said


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("final=first", "final=first: expected best or last"),
        ("recipe.finetune.save=224_lastlayer", "it would overwrite the weights of stage augmented"),
    ],
)
def test_mistakes_are_named(setting: str, message: str, shared_root: Path, run_command: Run) -> None:
    result = run_command("train.py", f"data.root={shared_root}", *TINY, setting)
    assert (result.returncode, "Traceback" in result.stderr) == (1, False)
    assert message in result.stderr
