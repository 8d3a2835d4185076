"""`python train.py` run as a user runs it."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import HEAD, QUIET, REAL_DATA, TINY, Run, draw_root
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

IN_THE_LOOP = ["recipe.precompute.precompute=false", "recipe.precompute.freeze_to=1"]


CLASSWISE = ("valid_balanced_acc", "valid_macro_f1")


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def run_directory(tmp_path: Path) -> Path:
    (found,) = tmp_path.glob("outputs/*/*")
    return found


def test_a_run_writes_its_directory(run_process: Run, shared_root: Path, tmp_path: Path) -> None:
    result = run_process(
        "train.py", f"data.root={shared_root}", *HEAD, "recipe.precompute.epochs=2", "callbacks.reports.pictures=null"
    )
    assert result.returncode == 0, result.stderr
    run = run_directory(tmp_path)

    metrics: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    assert metrics["classes"] == ["cats", "dogs"]
    stage = metrics["stages"]["precompute"]
    assert stage["epochs"] == 2
    assert set(stage) == {"epochs", "train_loss", "valid_loss", "valid_acc", "seconds", *CLASSWISE}
    final = metrics["final"]
    assert final["n"] == 10
    assert final["valid_acc"] == pytest.approx(stage["valid_acc"])
    assert final["valid_loss"] == pytest.approx(stage["valid_loss"], rel=1e-5)
    matrix = final["confusion_matrix"]
    assert [sum(row) for row in matrix] == [5, 5]
    assert matrix[0][0] + matrix[1][1] == pytest.approx(10 * final["valid_acc"])
    assert metrics["peak_rss_mb"] > 50

    history = table(run / "history.csv")
    assert [(row["stage"], row["epoch"]) for row in history] == [("precompute", "0"), ("precompute", "1")]
    assert float(history[1]["valid_loss"]) == stage["valid_loss"]
    trace = table(run / "lr_trace.csv")
    assert [row["step"] for row in trace] == [str(step) for step in range(10)]
    assert {(row["early"], row["late"], row["head"]) for row in trace} == {("0.0001", "0.001", "0.01")}

    predictions = table(run / "predictions_valid.csv")
    assert [row["path"] for row in predictions] == [
        f"valid/{name}s/{name}.{n}.jpg" for name in ("cat", "dog") for n in range(5)
    ]
    for row in predictions:
        assert float(row["prob_cats"]) + float(row["prob_dogs"]) == pytest.approx(1, abs=1e-5)
        assert row["predicted"] == ("cats" if float(row["prob_cats"]) > 0.5 else "dogs")
    right = sum(row["label"] == row["predicted"] for row in predictions)
    assert right == round(10 * final["valid_acc"])

    with Image.open(run / "augmentation.png") as picture:
        assert picture.size == (3 * 36 + 4, 2 * 36 + 4)
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["model"]["name"] == "test_resnet"
    assert {key.split(".")[0] for key in checkpoint["state_dict"]} == {"body", "heads"}
    assert "recipe:" in (run / "config.yaml").read_text()

    events = EventAccumulator(str(run / "tensorboard" / "precompute")).Reload()
    tags = events.Tags()["scalars"]
    assert {"train_loss", "valid_loss", "valid_acc"} <= set(tags)
    assert [event.step for event in events.Scalars("lr-SGD/head")] == list(range(10))
    assert events.Scalars("lr-SGD/late")[0].value == pytest.approx(1e-3)
    final_events = EventAccumulator(str(run / "tensorboard" / "final")).Reload()
    assert "augmentation" in final_events.Tags()["images"]

    for shown in ("Device    CPU", "epoch  train_loss", "valid_acc", str(run), "predictions_valid.csv"):
        assert shown in result.stdout
    assert "Warning" not in result.stdout + result.stderr
    assert "epoch  train_loss" in (run / "train.log").read_text()


@pytest.mark.slow
def test_the_same_seed_gives_equal_weights(run_command: Run, shared_root: Path, tmp_path: Path) -> None:
    """With another number of workers, and after the LR finder, too; the body is trained on augmented photos."""

    def weights(*arguments: str) -> dict[str, torch.Tensor]:
        result = run_command(
            "train.py", f"data.root={shared_root}", "recipe=head_only", *TINY, *IN_THE_LOOP,
            "recipe.precompute.augment=true", "callbacks.reports=null", *arguments,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        state = torch.load(tmp_path / arguments[0].split("=")[1] / "checkpoints" / "last.ckpt")
        return dict(state["state_dict"])

    without = "callbacks.lr_finder.before=none"
    first = weights("hydra.run.dir=first", "seed=3", "data.num_workers=0", without)
    again = weights("hydra.run.dir=again", "seed=3", "data.num_workers=2")
    other = weights("hydra.run.dir=other", "seed=4", "data.num_workers=0", without)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def broken_root(tmp_path: Path) -> Path:
    root = draw_root(tmp_path / "broken")
    (root / "train" / "cats" / "cat.1.jpg").write_bytes(b"no photo")
    return root


@pytest.mark.parametrize(
    ("arguments", "culprit", "advice"),
    [
        (["data.root=ROOT", *TINY, "data.size=0"], "error: data.size=0: expected", "at least 1"),
        (["data.root=ROOT", "model=resnet34"], "model.weights=imagenet", "model=efficientnet_lite0"),
        (["data.root=BROKEN", *TINY], "train/cats/cat.1.jpg", "Remove or replace"),
        (
            ["data.root=ROOT", *TINY, "recipe.precompute.lr=-1"],
            "recipe.precompute.lr=-1",
            "a positive number",
        ),
        (["data.root=ROOT", *TINY, "heads=0"], "heads=0", "at least 1"),
        (["data.root=ROOT", "model=resnet99"], "model=resnet99", "resnet34"),
        (["data.root=ROOT", "recipe=lesson99"], "recipe=lesson99", "head_only"),
        (["data.root=ROOT", "model=timm"], "model.name", "issing"),
        (
            ["data.root=ROOT", *TINY, "recipe=head_only", *QUIET, "optimized_metric=final.beauty"],
            "final.beauty",
            "final.valid_acc",
        ),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_a_mistake_gets_one_message_and_exit_code_1(
    run_command: Run, shared_root: Path, tmp_path: Path, arguments: list[str], culprit: str, advice: str
) -> None:
    roots = {"ROOT": str(shared_root)}
    if "data.root=BROKEN" in arguments:
        roots["BROKEN"] = str(broken_root(tmp_path))
    for name, root in roots.items():
        arguments = [argument.replace(name, root) for argument in arguments]
    result = run_command("train.py", *arguments)
    assert result.returncode == 1
    assert culprit in result.stderr
    assert advice in result.stderr
    assert "Traceback" not in result.stderr + result.stdout


def test_a_mistake_ends_the_process_with_one_message_and_exit_code_1(run_process: Run) -> None:
    result = run_process("train.py", "data.root=nowhere")
    assert result.returncode == 1
    assert result.stderr.startswith("error: data.root=nowhere: there is no such folder")
    assert "dogscats.zip" in result.stderr
    assert "Traceback" not in result.stderr + result.stdout


RESNET34 = ["model=resnet34", f"model.weights={REAL_DATA / 'weights' / 'resnet34-grown.pth'}"]


@pytest.mark.real
@pytest.mark.parametrize(
    ("model", "photos", "least"),
    [
        pytest.param(["model=efficientnet_lite0"], 50, 0.95, id="efficientnet_lite0-few", marks=pytest.mark.slow),
        pytest.param(["model=efficientnet_lite0"], 100, 0.95, id="efficientnet_lite0", marks=pytest.mark.slow),
        pytest.param(RESNET34, 100, 0.94, id="resnet34", marks=pytest.mark.slow),
    ],
)
def test_real_photos(run_command: Run, tmp_path: Path, model: list[str], photos: int, least: float) -> None:
    root = REAL_DATA / "dogscats"
    if not root.exists():
        pytest.skip(f"no photos at {root}")
    result = run_command(
        "train.py", f"data.root={root}", *model, "recipe=head_only", f"data.limit={photos}",
        "recipe.precompute.epochs=4", "callbacks.lr_finder.before=none",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    metrics = json.loads((run_directory(tmp_path) / "metrics.json").read_text())
    assert metrics["final"]["valid_acc"] >= least
