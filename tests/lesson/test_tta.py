import csv
import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from pytorch_lightning import Callback, Trainer

from dogscats import DogsCatsDataModule
from dogscats.base.content import stable_seed
from dogscats.data.loading.dataset import PhotoDataset
from dogscats.data.photos.layouts import Photos
from dogscats.lesson.backbone import Backbone
from dogscats.lesson.classifier import Classifier
from dogscats.lesson.predictions import Predictions
from dogscats.lesson.tta import TTA, predict, tta_loaders
from dogscats.report.figure_table import Pictures, Report
from dogscats.report.figures.photo_figures import choose_photos, draw_photos, overlay
from dogscats.report.gradcam import Explanation, grad_cam
from dogscats.report.verdict import augmented_accuracy


@pytest.fixture
def data(shared_root: Path) -> DogsCatsDataModule:
    data = DogsCatsDataModule(shared_root, size=24, batch_size=4, num_workers=0)
    data.setup()
    return data


@pytest.fixture
def classifier(tiny_body: Backbone) -> Classifier:
    torch.manual_seed(0)
    return Classifier(tiny_body, classes=["cats", "dogs"])


def predicted(classifier: Classifier, data: DogsCatsDataModule, n_aug: int, folder: Path, *reports: Callback) -> TTA:
    make_trainer = partial(
        Trainer, accelerator="cpu", default_root_dir=folder, enable_progress_bar=False, enable_model_summary=False
    )
    return predict(classifier, tta_loaders(data, data.valid, n_aug), make_trainer, reports)


def test_the_mean_of_probabilities_over_all_versions_in_order(
    classifier: Classifier, data: DogsCatsDataModule, tmp_path: Path
) -> None:
    tta = predicted(classifier, data, 4, tmp_path)
    plain = PhotoDataset(data.valid, data.evaluation, data.seed)
    versions = [
        PhotoDataset(data.valid, data.augmentation, stable_seed(data.seed, "tta", version)) for version in range(4)
    ]
    classifier.eval()
    with torch.no_grad():
        expected = torch.stack(
            [
                torch.stack([classifier(dataset[index, 0][0][None]).exp()[0] for index in range(10)])
                for dataset in (plain, *versions)
            ]
        )
    torch.testing.assert_close(tta.plain.probabilities, expected[0])
    assert tta.averaged is not None
    torch.testing.assert_close(tta.averaged.probabilities, expected.mean(0))
    assert not torch.equal(expected[1], expected[2])
    assert torch.equal(tta.best.probabilities, tta.averaged.probabilities)
    assert tta.averaged.paths == data.valid.paths
    assert tta.averaged.labels.tolist() == list(data.valid.labels)
    assert tta.averaged.classes == ["cats", "dogs"]


def test_without_augmented_versions_there_is_only_the_plain_one(
    classifier: Classifier, data: DogsCatsDataModule, tmp_path: Path
) -> None:
    tta = predicted(classifier, data, 0, tmp_path)
    assert tta.averaged is None
    assert len(tta.plain.probabilities) == 10
    assert torch.equal(tta.best.probabilities, tta.plain.probabilities)


def predictions(shared_root: Path) -> Predictions:
    cats = [0.9, 0.8, 0.45, 0.6, 0.1, 0.2, 0.05, 0.7, 0.52, 0.3]
    paths = [f"valid/{name}s/{name}.{n}.jpg" for name in ("cat", "dog") for n in range(5)]
    labels = torch.tensor([0] * 5 + [1] * 5)
    return Predictions(paths, ["cats", "dogs"], labels, torch.tensor([[p, 1 - p] for p in cats]))


def test_metrics_of_predictions(shared_root: Path, tmp_path: Path) -> None:
    found = predictions(shared_root)
    assert found.accuracy == pytest.approx(0.6)
    assert found.confusion_matrix == [[3, 2], [2, 3]]
    of_label = torch.tensor([0.9, 0.8, 0.45, 0.6, 0.1, 0.8, 0.95, 0.3, 0.48, 0.7], dtype=torch.double)
    assert found.log_loss == pytest.approx(-of_label.log().mean().item(), rel=1e-6)
    found.write(tmp_path / "predictions.csv")
    with (tmp_path / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[7] == {
        "path": "valid/dogs/dog.2.jpg", "label": "dogs", "predicted": "cats",
        "prob_cats": "0.7", "prob_dogs": "0.3",
    }  # fmt: skip


def test_a_probability_of_zero_gives_a_finite_loss() -> None:
    found = Predictions(["a"], ["cats", "dogs"], torch.tensor([0]), torch.tensor([[0.0, 1.0]]))
    assert 80 < found.log_loss < 100


def test_the_pictures_show_the_photos_they_name(shared_root: Path) -> None:
    chosen = choose_photos(predictions(shared_root), 2)
    assert chosen["most_right"] == {"Most right cats": [0, 1], "Most right dogs": [6, 5]}
    assert chosen["most_wrong"] == {"Most wrong cats": [4, 2], "Most wrong dogs": [7, 8]}
    assert chosen["most_uncertain"] == {"Most uncertain": [8, 2]}
    right, wrong = chosen["random_right"]["Right, at random"], chosen["random_wrong"]["Wrong, at random"]
    assert set(right) < {0, 1, 3, 5, 6, 9}
    assert set(wrong) < {2, 4, 7, 8}
    assert len(right) == len(wrong) == 2


def test_reports_are_drawn_when_predicting_ends(
    classifier: Classifier, data: DogsCatsDataModule, tmp_path: Path
) -> None:
    predicted(classifier, data, 1, tmp_path, Report("confusion_matrix"), Pictures())
    names = {path.name for path in tmp_path.glob("*.png")}
    assert names == {
        "confusion_matrix.png", "most_right.png", "most_uncertain.png", "most_wrong.png",
        "random_right.png", "random_wrong.png",
    }  # fmt: skip
    for name in names:
        with Image.open(tmp_path / name) as picture:
            assert picture.convert("L").getextrema()[0] < 100  # something dark is drawn on the white


@pytest.mark.fault("TTA, pictures, confusion matrix: weights, buffers, modes and generators as before")
def test_predicting_and_its_reports_change_nothing_of_the_run(
    classifier: Classifier, data: DogsCatsDataModule, tmp_path: Path
) -> None:
    classifier.freeze_to(1)
    weights = {key: value.clone() for key, value in classifier.state_dict().items()}
    modes = [module.training for module in classifier.modules()]
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[union-attr]
    predicted(classifier, data, 2, tmp_path, Report("confusion_matrix"), Pictures())
    assert all(torch.equal(weights[key], value) for key, value in classifier.state_dict().items())
    assert modes == [module.training for module in classifier.modules()]
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # type: ignore[union-attr]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_what_was_most_wrong_and_most_uncertain_is_explained(
    classifier: Classifier, data: DogsCatsDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = {}

    def draw(predictions: Predictions, rows: dict[str, list[int]], count: int, overlays: Any) -> Figure:
        drawn[next(iter(rows)).rpartition(" ")[0]] = {index for row in rows.values() for index in row}, overlays
        return draw_photos(predictions, rows, count, overlays)

    monkeypatch.setattr("dogscats.report.figures.photo_figures.draw_photos", draw)
    found = predicted(classifier, data, 1, tmp_path, Pictures(count=2)).best
    plain = PhotoDataset(data.valid, data.evaluation, data.seed)
    for name, (indices, overlays) in drawn.items():
        assert set(overlays) == (indices if name in ("Most wrong", "Most") else set()), name
        for index, picture in overlays.items():
            image = plain[index, 0][0]
            heat = grad_cam(classifier, image[None], found.predicted[index, None])[0]
            assert np.array_equal(picture, overlay(Explanation(image, heat))), (name, index)
    assert drawn["Most wrong"][0]
    heights = {}
    for name in ("most_wrong", "most_right"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            heights[name] = picture.height
    assert heights["most_wrong"] > 1.5 * heights["most_right"]


def test_an_explanation_that_fails_costs_no_picture(
    classifier: Classifier,
    data: DogsCatsDataModule,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("dogscats.report.gradcam.grad_cam", lambda *_: 1 / 0)
    predicted(classifier, data, 0, tmp_path, Pictures())
    assert "overlays could not be drawn: ZeroDivisionError" in caplog.text
    assert len(list(tmp_path.glob("*.png"))) == 5


def test_accuracy_on_augmented_versions_and_its_error(shared_root: Path) -> None:
    tta = TTA(2)
    tta.photos = Photos(shared_root, ["a", "b", "c", "d"], [0, 0, 1, 1])
    plain, worse, half = [0, 0, 1, 1], [1, 1, 1, 1], [1, 0, 1, 0]
    tta.probabilities = torch.nn.functional.one_hot(torch.tensor([plain, worse, half]), 2).float()
    assert augmented_accuracy(tta) == (0.5, pytest.approx(np.std([-1, -0.5, 0, -0.5]) / 2))
    tta.probabilities = tta.probabilities[:1]
    assert augmented_accuracy(tta) is None
