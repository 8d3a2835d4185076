"""The whole lesson on tiny photos, as a user runs it."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from conftest import QUIET, REPOSITORY, TINY, Run, command_runner
from hydra import compose, initialize_config_dir
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dogscats.lesson.schedules import Position, sgdr
from dogscats.networks.timm_backbone import timm_backbone


def table(path: Path, stage: str) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["stage"] == stage]


def metrics_of(run: Path, stage: str) -> list[dict[str, str]]:
    """The stage's history without its times."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in table(run / "history.csv", stage)]


def state(checkpoint: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(checkpoint, weights_only=True)["state_dict"])


def pretrained_body() -> dict[str, torch.Tensor]:
    """The random weights with which a run of the tiny network begins."""
    pl.seed_everything(0, verbose=False)
    return timm_backbone("test_resnet", "none").state_dict()


@pytest.fixture(scope="module")
def lesson(shared_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run of the lesson to the letter: it ends with the weights of its last stage."""
    folder = tmp_path_factory.mktemp("lesson")
    result = command_runner(folder)("train.py", f"data.root={shared_root}", "hydra.run.dir=run", *TINY, "final=last")
    assert result.returncode == 0, result.stderr
    return folder / "run"


def test_the_stages_are_the_lessons(lesson: Path) -> None:
    metrics: dict[str, Any] = json.loads((lesson / "metrics.json").read_text())
    assert {name: stage["epochs"] for name, stage in metrics["stages"].items()} == {
        "precompute": 2, "augmented": 3, "finetune": 7
    }  # fmt: skip
    final = metrics["final"]
    assert set(final) >= {
        "stage", "n", "valid_acc", "valid_loss", "valid_acc_tta", "valid_loss_tta", "confusion_matrix",
        "valid_balanced_acc", "valid_balanced_acc_tta", "valid_macro_f1", "valid_macro_f1_tta",
        "valid_ece", "valid_ece_tta",
    }  # fmt: skip
    assert final["stage"] == "finetune"
    assert final["valid_acc"] == pytest.approx(metrics["stages"]["finetune"]["valid_acc"])
    assert final["valid_loss"] == pytest.approx(metrics["stages"]["finetune"]["valid_loss"], rel=1e-4)
    assert final["valid_loss_tta"] != final["valid_loss"]
    assert sum(map(sum, final["confusion_matrix"])) == 10


def test_learning_rates_are_constant_then_restart_with_every_cycle(lesson: Path) -> None:
    constant = table(lesson / "lr_trace.csv", "precompute")
    assert {row["head"] for row in constant} == {"0.01"}
    assert len(constant) == 2 * 5  # 24 photos in batches of 5
    for stage, epochs, mult in [("augmented", 3, 1), ("finetune", 7, 2)]:
        trace = table(lesson / "lr_trace.csv", stage)
        assert [int(row["step"]) for row in trace] == list(range(5 * epochs))
        for step, row in enumerate(trace):
            factor = sgdr(Position(step, 5, 5 * epochs), cycle_mult=mult)
            found = [float(row[group]) for group in ("early", "late", "head")]
            assert found == pytest.approx([factor * lr for lr in (1e-4, 1e-3, 1e-2)])


def test_frozen_groups_are_bit_equal_after_their_stages_and_the_last_stage_trains_all(lesson: Path) -> None:
    initial = pretrained_body()
    frozen, trained = (state(lesson / "checkpoints" / f"224_{name}.ckpt") for name in ("lastlayer", "all"))
    for key, value in initial.items():
        assert torch.equal(frozen[f"body.{key}"], value)
        if "num_batches" not in key:
            assert not torch.equal(trained[f"body.{key}"], value)
    last = state(lesson / "checkpoints" / "last.ckpt")
    assert all(torch.equal(last[key], trained[key]) for key in trained)


def test_tensorboard_and_the_directory_have_every_plot_and_picture(lesson: Path) -> None:
    pictures = {
        "accuracy_kept", "augmentation", "confusion_matrix", "lr_schedule", "most_right", "most_uncertain",
        "most_wrong", "random_right", "random_wrong", "reliability",
    }  # fmt: skip
    assert {path.stem for path in lesson.glob("*.png")} >= pictures | {"lr_finder"}
    final = EventAccumulator(str(lesson / "tensorboard" / "final")).Reload().Tags()
    assert {tag.removeprefix("pictures/") for tag in final["images"]} >= pictures
    assert "final/valid_acc_tta" in final["scalars"]
    first = EventAccumulator(str(lesson / "tensorboard" / "precompute")).Reload().Tags()
    assert first["images"] == ["lr_finder/plots"]
    with (lesson / "lr_finder.csv").open(newline="") as file:
        lrs = [float(row["lr"]) for row in csv.DictReader(file)]
    assert lrs[0] == pytest.approx(1e-5)
    assert len(lrs) > 50


def test_a_saved_stage_can_be_started_from(lesson: Path, run_command: Run, shared_root: Path, tmp_path: Path) -> None:
    """The stages before it need not be repeated: what follows is the same."""
    result = run_command(
        "train.py", f"data.root={shared_root}", "hydra.run.dir=run", *TINY,
        f"load={lesson / 'checkpoints' / '224_lastlayer.ckpt'}", "~recipe.precompute", "~recipe.augmented",
        *QUIET, "callbacks.tta.n_aug=0",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert metrics_of(tmp_path / "run", "finetune") == metrics_of(lesson, "finetune")


def test_a_saved_stage_with_another_number_of_heads_is_refused(
    lesson: Path, run_command: Run, shared_root: Path
) -> None:
    result = run_command(
        "train.py", f"data.root={shared_root}", *TINY, "heads=3",
        f"load={lesson / 'checkpoints' / '224_lastlayer.ckpt'}",
    )  # fmt: skip
    assert result.returncode == 1
    assert "224_lastlayer.ckpt: it was saved with heads=1, but this run has 3." in result.stderr
    assert "Traceback" not in result.stderr


def test_all_layers_can_be_trained_while_batchnorm_keeps_its_statistics(
    run_command: Run, shared_root: Path, tmp_path: Path
) -> None:
    result = run_command(
        "train.py", f"data.root={shared_root}", "hydra.run.dir=run", *TINY, "~recipe.precompute",
        "~recipe.augmented", "recipe.finetune.cycles=1", "recipe.finetune.lr=[0.01,0.01,0.01]",
        "recipe.finetune.train_batchnorm=false",
        *QUIET, "callbacks.tta.n_aug=0",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    initial = pretrained_body()
    trained = state(tmp_path / "run" / "checkpoints" / "224_all.ckpt")
    for key, value in initial.items():
        statistics = "running" in key or "num_batches" in key
        assert torch.equal(trained[f"body.{key}"], value) == statistics, key


def test_the_recipe_with_heads_trains_five_of_them_along_one_cosine_and_averages_versions(
    run_command: Run, shared_root: Path, tmp_path: Path
) -> None:
    result = run_command(
        "train.py", f"data.root={shared_root}", "hydra.run.dir=run", "recipe=heads", *TINY,
        *QUIET,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    saved = state(tmp_path / "run" / "checkpoints" / "heads.ckpt")
    assert all(torch.equal(saved[f"body.{key}"], value) for key, value in pretrained_body().items())
    assert {key.split(".")[1] for key in saved if key.startswith("heads.")} == {*"01234"}
    lrs = [float(row["head"]) for row in table(tmp_path / "run" / "lr_trace.csv", "precompute")]
    assert lrs == pytest.approx([1e-2 * sgdr(Position(step, 5, len(lrs)), cycle_len=14) for step in range(len(lrs))])
    assert "valid_loss_tta" in json.loads((tmp_path / "run" / "metrics.json").read_text())["final"]


@pytest.mark.parametrize(("overrides", "size"), [([], 288), (["data.size=224"], 224)])
def test_the_recipe_for_few_photos_wants_larger_ones_unless_told(overrides: list[str], size: int) -> None:
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        assert compose("train", ["recipe=small", *overrides]).data.size == size


def test_the_head_learns_the_same_from_the_cache_and_with_the_body_in_the_loop(
    run_command: Run, shared_root: Path, tmp_path: Path
) -> None:
    settings = [f"data.root={shared_root}", "recipe=head_only", *TINY, "callbacks.reports=null"]
    for name, cached in [("cached", "true"), ("loop", "false")]:
        result = run_command(
            "train.py", *settings, f"hydra.run.dir={name}", f"recipe.precompute.precompute={cached}",
            "callbacks.lr_finder.before=none",
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
    cached_rows, loop_rows = (metrics_of(tmp_path / name, "precompute") for name in ("cached", "loop"))
    for ours, theirs in zip(cached_rows, loop_rows, strict=True):
        for key in ("train_loss", "valid_loss"):
            assert float(ours[key]) == pytest.approx(float(theirs[key]), abs=1e-4)


@pytest.mark.slow
def test_a_recipe_can_be_changed_and_the_finders_suggestion_used(
    run_command: Run, shared_root: Path, tmp_path: Path
) -> None:
    result = run_command(
        "train.py", f"data.root={shared_root}", "hydra.run.dir=run", *TINY, "lr=find", "activations.views=2",
        "recipe.finetune.lr=[1e-5,1e-4,1e-3]", "recipe.finetune.cycles=1", "~recipe.augmented",
        "callbacks.lr_finder.before=all", "callbacks.reports=null", "callbacks.tta.n_aug=1",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    run = tmp_path / "run"
    found = json.loads((run / "metrics.json").read_text())["lr_finder"]
    assert set(found) == {"precompute", "finetune"}
    trace = table(run / "lr_trace.csv", "precompute")
    assert {float(row["head"]) for row in trace} == {found["precompute"]}
    first = table(run / "lr_trace.csv", "finetune")[0]
    assert [float(first[group]) for group in ("early", "late", "head")] == [1e-5, 1e-4, 1e-3]
    assert (run / "lr_finder_finetune.png").exists()
    assert result.stdout.count("Computing activations of train, view") == 2
