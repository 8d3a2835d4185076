"""The benchmarks run at tiny size; how long anything takes is not tested."""

import csv
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, command_runner

from benchmarks import (
    cross_validation,
    device,
    domains,
    growth,
    labelling,
    lesson_at_scale,
    limit,
    million,
    ours,
    results,
    run,
)
from benchmarks.settings import Settings, from_command_line
from dogscats.base.errors import UserError
from dogscats.lesson.stage import Stage


@pytest.fixture
def tiny(shared_root: Path) -> Iterator[Settings]:
    threads = torch.get_num_threads()
    yield Settings(str(shared_root), size=32, batch_size=8)
    torch.set_num_threads(threads)


def epochs(folder: Path) -> list[str]:
    with (folder / "history.csv").open(newline="") as file:
        return [row["epoch"] for row in csv.DictReader(file)]


@pytest.mark.slow
def test_a_cached_row_trains_twice_on_activations_computed_once(tiny: Settings, tmp_path: Path) -> None:
    assert ours.ROWS["head_cached"](tiny, tmp_path) > 0
    assert epochs(tmp_path)[-2:] == ["0", "1"]
    assert len(list(tmp_path.glob("activations/activations-*.npy"))) == 2
    assert not list(tmp_path.glob("most_wrong.png"))


@pytest.mark.parametrize("row", ["tta", "load_augmented"])
def test_our_rows_without_training(tiny: Settings, tmp_path: Path, row: str) -> None:
    assert ours.ROWS[row](tiny, tmp_path) > 0
    assert not (tmp_path / "history.csv").exists()


needs_fastai = pytest.mark.skipif(
    importlib.util.find_spec("fastai") is None,
    reason="fastai is not installed: pip install '.[bench]'",
)


@needs_fastai
def test_fastai_has_our_body(tiny: Settings) -> None:
    from benchmarks import with_fastai

    learner = with_fastai.make_learner(tiny, augment=True, num_workers=0)
    images = torch.randn(2, 3, 32, 32)
    body = with_fastai.our_resnet34("none")
    body.network.load_state_dict(
        dict(zip(body.network.state_dict(), learner.model[0].state_dict().values(), strict=True))
    )
    with torch.no_grad():
        features, expected = body.network.eval()(images), learner.model[0].eval()(images)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)
    assert set(with_fastai.ROWS) == {row.name for row in results.COMPARED if len(row.sides) == 2} - {"start"}


@pytest.mark.slow
@needs_fastai
def test_fastai_fine_tunes_by_its_seed(shared_root: Path) -> None:
    from benchmarks import fine_tune

    settings = fine_tune.FineTune(str(shared_root), size=32, batch_size=8, epochs=1)
    metrics = fine_tune.measure(settings)
    assert metrics["accuracy"] == 1 - metrics["wrong"] / 10
    assert metrics["log_loss"] != metrics["log_loss_tta"]
    again = fine_tune.measure(settings)
    assert again["log_loss"] == metrics["log_loss"]
    with pytest.raises(UserError, match=r"photos=nowhere: .* train/"):
        fine_tune.measure(fine_tune.FineTune("nowhere"))


@pytest.mark.slow
def test_the_limit_counts_resnet34s_operations(tiny: Settings) -> None:
    metrics = limit.measure(tiny, rounds=1)
    # 3.6 billion multiplications with additions at 224 pixels, as in He et al., table 1
    assert metrics["flop_per_image"] * (224 / 32) ** 2 == pytest.approx(2 * 3.6e9, rel=0.03)
    assert metrics["folded_error"] < 1e-5
    assert metrics["plain_images_per_s"] > 0


def test_growth_computes_as_many_photos_as_it_says(shared_root: Path) -> None:
    metrics = growth.measure(growth.Growth(str(shared_root), count=40, files=60, size=32))
    assert metrics["count"] == 40
    assert metrics["images_per_s"] > 0
    assert metrics["files"] == 60


def test_the_start_with_many_photos_has_all_steps() -> None:
    metrics = million.measure(million.Million(files=60, classes=3))
    assert {"listing_seconds", "repeated_seconds", "peak_rss_mb"} <= metrics.keys()
    assert "## Start with 60 photos" in results.million({"million": metrics})


@pytest.mark.slow
def test_the_lesson_at_scale_reports_every_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_here(command: list[str], check: bool) -> None:
        assert command[0] == sys.executable
        result = command_runner(tmp_path)(*command[1:])
        assert result.returncode == 0, result.stderr

    monkeypatch.setattr(lesson_at_scale.subprocess, "run", run_here)  # type: ignore[attr-defined]
    scale = lesson_at_scale.Scale(
        train=8, valid=4, width=60, height=45,
        overrides=[
            "model=timm", "model.name=test_resnet", "data.size=32", "data.batch_size=4", "data.num_workers=0",
            "callbacks.lr_finder.before=none", "recipe.augmented.cycles=1", "recipe.finetune.cycles=1",
        ],
    )  # fmt: skip
    lesson_at_scale.draw_root(tmp_path, scale)
    assert len(list(tmp_path.glob("train/*/*.jpg"))) == 8
    metrics: dict[str, Any] = lesson_at_scale.measure(scale, tmp_path)
    assert list(metrics["stages"]) == ["precompute", "augmented", "finetune"]
    stage = metrics["stages"]["finetune"]
    assert stage["images_per_s"] == pytest.approx(12 / stage["seconds"])
    assert metrics["seconds"] > metrics["rest_seconds"] > 0


@pytest.mark.slow
def test_both_ways_of_reading_photos_are_measured(tmp_path: Path) -> None:
    """On 200 photos, as on a machine with a GPU but for the rows of half precision."""
    settings = device.Device(
        train=160, valid=40, part=40, size=32, batch_size=8, precisions=["32-true"],
        output=str(tmp_path / "device.json"),
        overrides=["model=timm", "model.name=test_resnet", "model.weights=none", "callbacks.lr_finder.before=none"],
    )  # fmt: skip
    found = device.measured(settings, tmp_path / "photos", torch.device("cpu"))
    assert json.loads((tmp_path / "device.json").read_text())["rows"].keys() == found["rows"].keys()
    assert {"the lesson, all cores", "one stage, 32-true"} <= found["rows"].keys()
    assert all(ways.keys() == device.WAYS.keys() for ways in found["rows"].values())
    assert min(found["parts"].values()) > 0
    assert "| augment in batches | " in device.table(found)


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The measurements that were asked for, none of which is taken."""
    asked: list[tuple[str, ...]] = []

    def child(*arguments: str) -> dict[str, Any]:
        asked.append(arguments)
        return {
            "seconds": 2.0 if "with_fastai" in "".join(arguments) else 0.5,
            "peak_rss_mb": 1.0,
        }

    monkeypatch.setattr(run, "child", child)
    return asked


def test_fastai_and_ours_are_measured_in_turn(
    children: list[tuple[str, ...]],
    shared_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name == "fastai" else None)
    settings = run.Bench(str(shared_root), train=4, valid=4, output=str(tmp_path), rows="frozen,sweep,head_first")
    monkeypatch.setattr(run, "machine", lambda settings: {"processor": "P", "cores": 2, "work": "W"})
    run.measure(settings)
    frozen = [arguments[1] for arguments in children if arguments[1].endswith("frozen")]
    assert frozen == ["ours.frozen", "with_fastai.frozen"] * 3
    table = (tmp_path / "benchmark.md").read_text()
    assert "| frozen epoch with augmentation | 0.50 | 2.00 | **4.00** | 2 |" in table
    assert "| 8 head learning rates | 0.50 | 16.00 | **32.00** | 25 |" in table
    assert "| unfrozen epoch | - | - | - | 1.3 |" in table


def test_an_interrupted_run_goes_on_and_a_single_row_is_measured_anew(
    children: list[tuple[str, ...]],
    shared_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(run, "GROWTH", ())
    monkeypatch.setattr(run, "machine", lambda settings: {"processor": "P", "cores": 2, "work": "W"})
    for table in ("distance", "million", "large_photos", "startup"):
        monkeypatch.setattr(results, table, lambda taken: [])

    def measure(rows: str) -> int:
        children.clear()
        run.measure(run.Bench(str(shared_root), train=4, valid=4, output=str(tmp_path), rows=rows))
        return len(children)

    assert measure("tta") == 3
    assert "fastai is not installed" in capsys.readouterr().out
    assert measure("tta") == 3
    missing = measure("missing")
    # All but tta; limit, million and startup; large photos with two networks; start's warm-up.
    assert missing == 3 * (len(results.COMPARED) - 1) + 3 + 2 + 1
    assert measure("missing") == 0
    assert len(json.loads((tmp_path / "measurements.json").read_text())) == missing - 1 + 3 + 1


def test_the_subset_has_as_many_photos_of_each_class(shared_root: Path, tmp_path: Path) -> None:
    run.subset(shared_root, tmp_path, train=6, valid=4)
    counts = {path.name: len(list(path.iterdir())) for path in (tmp_path / "train").iterdir()}
    assert counts == {"cats": 3, "dogs": 3}
    assert len(list(tmp_path.glob("valid/*/*"))) == 4


@pytest.mark.parametrize("argument", ["size=large", "colour=red"])
def test_a_mistake_on_the_command_line_is_named(monkeypatch: pytest.MonkeyPatch, argument: str) -> None:
    monkeypatch.setattr(sys, "argv", ["run", argument])
    read: Callable[..., Settings] = from_command_line
    with pytest.raises(SystemExit, match=argument):
        read(Settings("photos"))


@pytest.mark.slow
def test_cross_validation_predicts_each_photo_by_a_head_that_has_not_seen_it() -> None:
    # Labels that are noise can only be learned by heart.
    features, labels = torch.randn(400, 64), torch.randint(2, (400,))
    stage = Stage("precompute", lr=1e-2, cycles=1, cycle_len=10, precompute=True)
    guessed, unseen = cross_validation.cross_validate(
        [features, torch.zeros(400, 64)], labels, stage, batch_size=64, seed=0, count=1
    )
    assert 0.4 < (guessed.argmax(dim=1) == labels).double().mean() < 0.6
    assert len(set(unseen[:, 0].tolist())) == cross_validation.FOLDS
    features[:, 0] += 6 * labels
    (learned,) = cross_validation.cross_validate([features], labels, stage, 64, seed=0, count=2)
    assert (learned.argmax(dim=1) == labels).double().mean() > 0.95


@pytest.mark.slow
def test_cross_validation_of_a_kernel_head_agrees_with_leave_one_out(shared_root: Path, tmp_path: Path) -> None:
    overrides = ["recipe=small", *TINY, f"activations.dir={tmp_path}"]
    found = cross_validation.measure(cross_validation.CrossValidation(str(shared_root), overrides, n_aug=1))
    assert {"loo_acc", "loo_loss", "accuracy_tta"} <= set(found)
    assert found["accuracy"] >= found["loo_acc"] - 2 * found["standard_error"]


@pytest.mark.slow
def test_cross_validation_of_a_recipe(shared_root: Path, tmp_path: Path) -> None:
    overrides = [
        "recipe=heads", "data.size=32", "model=timm", "model.name=test_resnet", "model.weights=none",
        f"activations.dir={tmp_path}",
    ]  # fmt: skip
    settings = cross_validation.CrossValidation(str(shared_root), overrides, seeds=1, n_aug=2)
    pretrained = cross_validation.measure(settings)
    assert set(pretrained) == {"accuracy", "log_loss", "accuracy_tta", "log_loss_tta"}
    assert len(list(tmp_path.glob("activations-*.npy"))) == 3
    settings.new_statistics = True
    assert cross_validation.measure(settings) != pretrained
    assert len(list(tmp_path.glob("activations-*.npy"))) == 6
    for override, named in [("recipe.precompute.precompute=false", r"recipe\.precompute"), ("lrr=1", "lrr")]:
        settings.overrides = [*overrides, override]
        with pytest.raises(UserError, match=named):
            cross_validation.measure(settings)


def tiny_domains(shared_root: Path, results_file: Path, **settings: Any) -> domains.Domains:
    return domains.Domains(
        **{
            "folder": str(shared_root.parent),
            "weights": "",
            "datasets": [f"{shared_root.name}:32"],
            "recipes": ["head_only"],
            "models": ["efficientnet_lite0"],
            "seeds": [0, 1],
            "fastai_epochs": [],
            "overrides": ["callbacks.reports=null", "data.batch_size=8"],
            "results": str(results_file),
            **settings,
        }
    )


@pytest.mark.slow
def test_domains_are_measured_once_and_continued(shared_root: Path, tmp_path: Path) -> None:
    settings = tiny_domains(shared_root, tmp_path / "domains.json", seeds=[0])
    first = domains.measure(settings)
    assert domains.measure(settings) == first
    both = domains.measure(tiny_domains(shared_root, tmp_path / "domains.json"))
    assert {key: both[key] for key in first} == first
    assert len(both) == 2
    (line,) = domains.table(tiny_domains(shared_root, tmp_path / "domains.json"), both).splitlines()[2:]
    assert line.startswith(f"| {shared_root.name}, 32 px | head_only | efficientnet_lite0 | ")


@pytest.mark.slow
def test_the_table_of_domains_has_medians_and_intervals(shared_root: Path, tmp_path: Path) -> None:
    settings = tiny_domains(shared_root, tmp_path / "domains.json", seeds=[0, 1, 2])
    row = {"n": 10, "accuracy": 0.5, "accuracy_tta": 0.9, "log_loss": 1, "log_loss_tta": 0.25, "seconds": 3}
    (cell,) = domains.cells(settings)
    rows = {cell.key(seed): row | {"accuracy_tta": 0.8 + 0.1 * seed} for seed in range(3)}
    assert "| 0.500 | 0.900 | 0.596 - 0.982 | 0.250 | 3 |" in domains.table(settings, rows)
    with pytest.raises(UserError, match=r"there is no nothing/valid/"):
        list(domains.cells(tiny_domains(shared_root, tmp_path / "domains.json", datasets=["nothing:32"])))
    failing = tiny_domains(shared_root, tmp_path / "domains.json", recipes=["nothing"], seeds=[0])
    with pytest.raises(UserError, match=r"recipe=nothing .*failed:\n[^$]*recipe=nothing"):
        domains.measure(failing)


def test_labels_against_accuracy(shared_root: Path, tmp_path: Path) -> None:
    datasets = [f"{shared_root.name}:32"]
    settings = labelling.Labelling(str(shared_root.parent), str(tmp_path), datasets, 2, [4, 6, 12], weights="none")
    header, _, *rows = labelling.table(settings).splitlines()
    assert header == "| photos | chosen by | 4 | 6 | 12 |"
    assert [row.split(" | ")[1] for row in rows] == [*labelling.METHODS, "random labels as good as margin"]
    assert labelling.as_good(torch.tensor([0.5, 0.7, 0.6, 0.9]), 0.8, [20, 50, 100, 150]) == "125"
