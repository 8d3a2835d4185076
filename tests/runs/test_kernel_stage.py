"""A stage that fits a kernel head in closed form, and what a run with one is used for."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, Run, command_runner, draw_root
from PIL import Image

from dogscats import Predictor
from dogscats.base.files import read_csv, read_json
from dogscats.data.photos.layouts import Photos
from dogscats.kernel.kernel_head import KernelHead
from dogscats.suspects.photo_groups import left_out_together

SMALL = [*TINY, "recipe=small", "data.size=32", "callbacks.tta.n_aug=1"]


@pytest.fixture(scope="module")
def small(shared_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The directory of a run with `recipe=small`, and what it printed."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "photos").symlink_to(shared_root)
    settings = [f"data.root={folder / 'photos'}", *SMALL, "hydra.run.dir=run", "heads=3", "+recipe.kernel.epochs=2"]
    stopping = "+callbacks.stopping={_target_: pytorch_lightning.callbacks.EarlyStopping, monitor: valid_loss}"
    result = command_runner(folder)("train.py", *settings, stopping, f"activations.dir={folder / 'cache'}")
    assert result.returncode == 0, result.stderr
    return folder / "run", result.stdout


def test_the_stage_has_one_row_with_the_loss_of_leave_one_out(small: tuple[Path, str]) -> None:
    run, printed = small
    (row,) = read_csv(run / "history.csv")
    assert (row["stage"], row["epoch"]) == ("kernel", "0")
    assert "train_loss" not in row
    stage = read_json(run / "metrics.json")["stages"]["kernel"]
    assert stage["epochs"] == 0
    assert stage["loo_loss"] == pytest.approx(float(row["loo_loss"]), abs=1e-5)
    assert stage["valid_loss"] == pytest.approx(float(row["valid_loss"]), abs=1e-5)
    assert "loo_loss" in printed
    assert not (run / "lr_trace.csv").exists()
    assert not (run / "lr_finder.csv").exists()


def test_unused_settings_are_named(small: tuple[Path, str]) -> None:
    (line,) = [line for line in small[1].splitlines() if line.startswith("Not used by a fit in closed form")]
    assert line.endswith(": heads, recipe.kernel.epochs, callbacks.stopping")


def test_a_finished_run_predicts_as_it_did(small: tuple[Path, str], shared_root: Path) -> None:
    run, _ = small
    rows = read_csv(run / "predictions_valid.csv")
    for source in (run, run / "checkpoints" / "small_head.ckpt", run / "model.safetensors"):
        predictor = Predictor.load(source)
        assert isinstance(predictor.model.heads, KernelHead)
        predictions, _ = predictor.predict([shared_root / row["path"] for row in rows], n_aug=0)
        explained = list(predictor.explain(predictions.first(2)))
        assert all(0 <= explanation.heat.min() <= explanation.heat.max() <= 1 for explanation in explained)
    metrics = read_json(run / "metrics.json")
    accuracy = (predictions.predicted == torch.tensor([int(row["label"] == "dogs") for row in rows])).double().mean()
    assert accuracy.item() == pytest.approx(metrics["final"]["valid_acc"])
    assert metrics["final"]["valid_loss"] == pytest.approx(metrics["stages"]["kernel"]["valid_loss"], rel=1e-4)
    assert predictor.reliability is not None
    assert predictor.reliability.plain.temperature == 1


def test_a_second_run_reuses_the_cache_and_gives_the_same_bits(
    small: tuple[Path, str], run_command: Run, tmp_path: Path
) -> None:
    run, _ = small
    arguments = [f"data.root={run.parent / 'photos'}", *SMALL, f"activations.dir={run.parent / 'cache'}"]
    result = run_command("train.py", *arguments, f"load={run / 'checkpoints' / 'last.ckpt'}", "hydra.run.dir=again")
    assert result.returncode == 0, result.stderr
    assert "Reusing activations of train" in result.stdout
    first, second = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (run, tmp_path / "again")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_kernel_head_is_refused_by_a_recipe_that_trains_heads(small: tuple[Path, str], run_command: Run) -> None:
    run, _ = small
    settings = [f"data.root={run.parent / 'photos'}", *TINY, "model.features=all", "recipe=head_only"]
    result = run_command("train.py", *settings, f"load={run / 'checkpoints' / 'last.ckpt'}", "hydra.run.dir=other")
    assert "it was saved with heads=a kernel head, but this run has 1." in result.stderr


def test_noise_and_blank_photos_are_none(run_command: Run, tmp_path: Path) -> None:
    settings = [f"data.root={draw_root(tmp_path / 'photos', train=20, valid=20)}", *SMALL, "callbacks.reports=null"]
    assert run_command("train.py", *settings, "hydra.run.dir=run").returncode == 0
    rng, odd = np.random.default_rng(0), tmp_path / "odd"
    odd.mkdir()
    Image.fromarray(rng.integers(0, 256, (48, 60, 3), dtype=np.uint8)).save(odd / "noise.png")
    Image.fromarray(rng.integers(0, 256, (375, 500, 3), dtype=np.uint8)).save(odd / "large noise.png")
    Image.linear_gradient("L").save(odd / "gradient.png")
    for color in ("black", "white", "gray", "red"):
        Image.new("RGB", (60, 48), color).save(odd / f"{color}.png")
    predictions, _ = Predictor.load(tmp_path / "run").predict(sorted(odd.iterdir()), n_aug=0)
    decisions = dict(zip([Path(path).name for path in predictions.paths], predictions.decisions, strict=True))
    assert decisions == dict.fromkeys(decisions, "none")


@pytest.mark.parametrize(
    "changed", [{"points": 10**9}, {"components": -1}, {"widths": [10**9]}, {"points": 0}, {"more": 1}]
)
def test_made_up_shapes_are_refused(changed: dict[str, object]) -> None:
    with pytest.raises((TypeError, ValueError)):
        KernelHead(2, **({"widths": [4, 6], "points": 5} | changed))  # type: ignore[arg-type]


def photos(count: int, classes: int = 2) -> Photos:
    return Photos(Path(), [f"{number}.jpg" for number in range(count)], [number % classes for number in range(count)])


def test_groups_and_near_duplicates_are_joined(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    named = [None] * 36 + ["a", "a", "b", "b"]
    groups = left_out_together(photos(40), ["cats", "dogs"], named, [(0, 1), (2, 36)])
    assert groups[0] == groups[1]
    assert groups[2] == groups[36] == groups[37] != groups[38]
    assert len(set(groups)) == 40 - 1 - 2 - 1
    assert not caplog.records


def test_many_near_duplicates_are_named_and_left_out_one_by_one(caplog: pytest.LogCaptureFixture) -> None:
    groups = left_out_together(photos(40), ["cats", "dogs"], [None] * 40, [(0, 2), (2, 4), (5, 7)])
    assert len(set(groups)) == 39
    assert groups[5] == groups[7]
    assert "3 near-duplicates are over a tenth of class cats" in caplog.text
    assert "0.jpg, 2.jpg, 4.jpg" in caplog.text
