"""The metrics of an evaluation, against numbers worked out by hand and by other libraries, and their table."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import TINY, Run
from torchmetrics.functional.classification import multiclass_calibration_error

from dogscats import evaluation_metrics
from dogscats.base.files import read_csv
from dogscats.lesson.metrics import (
    METRICS,
    GatheredMetric,
    Metric,
    epoch_metrics,
    roc_auc,
    wilson_interval,
)
from dogscats.lesson.predictions import Predictions, calibration_bins
from dogscats.report.figures.prediction_figures import reliability
from dogscats.report.optimized_metric import larger_is_better


def made(labels: list[int], rows: list[list[float]], classes: str = "ab") -> Predictions:
    return Predictions([str(i) for i in range(len(labels))], list(classes), torch.tensor(labels), torch.tensor(rows))


def test_metrics_of_four_photos() -> None:
    """Photo 2 is wrong, and surely so."""
    found = evaluation_metrics(made([0, 0, 1, 1], [[0.9, 0.1], [0.6, 0.4], [1.0, 0.0], [0.2, 0.8]]))
    assert found["n"] == 4
    assert found["accuracy"] == 0.75
    assert found["confusion_matrix"] == [[2, 0], [1, 1]]
    clipped = -(math.log(0.9) + math.log(0.6) + math.log(0.005) + math.log(0.8)) / 4
    assert found["log_loss_clipped"] == pytest.approx(clipped, rel=1e-6)
    assert found["log_loss"] > 20
    # Of the four pairs of an a and a b, the b has more b in two: .8 against .1 and .4.
    assert found["roc_auc"] == pytest.approx(0.5)
    # Each photo is alone in its bin: |1 - .9|, |1 - .6|, |0 - 1|, |1 - .8|.
    assert found["ece"] == pytest.approx((0.1 + 0.4 + 1 + 0.2) / 4)
    assert found["per_class"]["a"] == {"photos": 2, "precision": pytest.approx(2 / 3), "recall": 1.0}
    assert found["per_class"]["b"] == {"photos": 2, "precision": 1.0, "recall": 0.5}


@pytest.mark.parametrize(
    ("right", "n", "expected"),
    [
        # Newcombe, "Two-sided confidence intervals for the single proportion" (1998), table I, method 3.
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (29, 29, (1 - 0.1170, 1.0)),
    ],
)
def test_wilson_interval_as_published(right: int, n: int, expected: tuple[float, float]) -> None:
    assert wilson_interval(right, n) == pytest.approx(expected, abs=5e-5)


def test_three_classes_average_the_areas_of_each_against_the_rest() -> None:
    rows = [[0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]
    # a: 1 of 1 * 3 pairs in order -> 1. b: .4 and .3 against .2 and .1 -> 1. c: 1.
    assert roc_auc(made([0, 1, 1, 2], rows, "abc")) == pytest.approx(1)
    # Now photo 0 is a c: a has photo 2 alone (.5 below .7 only: 2/3), b photos 1 (1), c photos 0, 3:
    # .1 against .3 and .2 (0), .8 against both (1) -> 1/2.
    assert roc_auc(made([2, 1, 0, 2], rows, "abc")) == pytest.approx((2 / 3 + 1 + 1 / 2) / 3)


def test_a_class_without_photos_is_left_out() -> None:
    found = evaluation_metrics(made([0, 0, 1], [[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.4, 0.6, 0.0]], "abc"))
    assert found["per_class"]["c"] == {"photos": 0, "precision": None, "recall": None}
    assert found["roc_auc"] == pytest.approx(1)
    assert evaluation_metrics(made([0], [[0.7, 0.3]]))["roc_auc"] is None


def test_calibration_error_equals_that_of_torchmetrics() -> None:
    torch.manual_seed(0)
    probabilities = (2 * torch.randn(500, 3)).softmax(1)
    labels = torch.randint(3, (500,))
    found = Predictions(["x"] * len(labels), ["a", "b", "c"], labels, probabilities).ece
    expected = multiclass_calibration_error(probabilities, labels, 3, n_bins=15, norm="l1").item()
    assert found == pytest.approx(expected, abs=1e-6)
    assert found > 0.1


def test_probabilities_of_one_belong_to_the_last_bin() -> None:
    sure = made([0, 0, 1], [[1.0, 0.0], [0.95, 0.05], [0.97, 0.03]])
    counts, accuracy, confidence = calibration_bins(sure.probabilities, sure.labels)
    assert counts.tolist() == [0] * 14 + [3]
    assert accuracy[-1].item() == pytest.approx(2 / 3)
    assert confidence[-1].item() == pytest.approx((1 + 0.95 + 0.97) / 3)


def test_the_diagram_has_a_bar_for_each_bin() -> None:
    figure = reliability(made([0, 1, 1], [[0.9, 0.1], [0.58, 0.42], [0.0, 1.0]]))
    accuracy, photos = ({round(bar.get_x() * 15): bar.get_height() for bar in axes.patches} for axes in figure.axes)
    assert {number: height for number, height in photos.items() if height} == {8: 1, 13: 1, 14: 1}
    assert (accuracy[8], accuracy[13], accuracy[14]) == (0, 1, 1)


def test_functions_of_predictions_agree_with_the_metrics_of_an_epoch() -> None:
    torch.manual_seed(0)
    metrics, scores, labels = epoch_metrics(3), torch.randn(20, 3).log_softmax(1), torch.randint(3, (20,))
    gathered = {metric.key: GatheredMetric(metric.compute, 3) for metric in METRICS}
    for batch in range(0, 20, 8):
        for metric in (metrics, *gathered.values()):
            metric.update(scores[batch : batch + 8], labels[batch : batch + 8])
    found = metrics.compute()
    assert list(found) == ["acc", "balanced_acc", "macro_f1"]
    for key, value in found.items():
        assert value.item() == pytest.approx(gathered[key].compute().item())
    undefined = GatheredMetric(lambda predictions: None, 3)
    undefined.update(scores, labels)
    assert undefined.compute().isnan()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        *(("final.valid_acc", True), ("final.valid_macro_f1_tta", True), ("final.valid_ece_tta", False)),
        *(("stages.finetune.train_loss", False), ("stages.finetune.valid_my_loss", False), ("final.n", True)),
    ],
)
def test_a_sweep_knows_which_value_is_best(path: str, expected: bool) -> None:
    assert larger_is_better(path) == expected


@pytest.fixture
def doubt() -> Iterator[Metric]:
    """A further row of the table."""

    def compute(predictions: Predictions) -> float:
        return 1 - predictions.probabilities.max(dim=1).values.mean().item()

    row = Metric("doubt", "mean doubt", compute, larger_is_better=False, tile="Mean doubt")
    METRICS.append(row)
    yield row
    METRICS.remove(row)


@pytest.mark.usefixtures("doubt")
def test_a_new_metric_is_one_row(run_command: Run, shared_root: Path, tmp_path: Path) -> None:
    stop = "+callbacks.stop={_target_: pytorch_lightning.callbacks.EarlyStopping, monitor: valid_doubt}"
    result = run_command(
        "train.py", "-m", "lr=1e-5,1e-1", f"data.root={shared_root}", *TINY, "recipe=head_only", stop,
        "optimized_metric=final.valid_doubt", "callbacks.lr_finder.before=none", "callbacks.reports=null",
        f"activations.dir={tmp_path / 'cache'}",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "mean doubt" in result.stdout
    (folder,) = tmp_path.glob("multirun/*/*")
    best, other = (float(job["metric"]) for job in read_csv(folder / "sweep.csv"))
    assert best < other
    for run in folder.glob("[01]"):
        final, last = json.loads((run / "metrics.json").read_text())["final"], read_csv(run / "history.csv")[-1]
        assert list(last)[-3:] == ["valid_macro_f1", "valid_doubt", "seconds"]
        assert final["valid_doubt"] == pytest.approx(float(last["valid_doubt"]), abs=1e-6)
        text = f"{final['valid_doubt']:#.3g}"
        assert f"<dt>Mean doubt</dt><dd>{text}" in (run / "report.html").read_text()
        card = (run / "MODEL_CARD.md").read_text()
        assert "- type: doubt" in card
        assert "| mean doubt |" in card
    evaluated = run_command("evaluate.py", f"run={run}", "callbacks.reports=null", "hydra.run.dir=evaluated")
    assert "mean doubt" in evaluated.stdout
    found = json.loads((tmp_path / "evaluated" / "metrics.json").read_text())
    assert found["doubt"] == pytest.approx(final["valid_doubt"], abs=1e-6)
