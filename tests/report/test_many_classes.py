"""The report of a run with very many classes, or very large photos: bounded, and useful."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dogscats.data.pixels.images import thumbnail
from dogscats.lesson.predictions import Predictions
from dogscats.report.figures.photo_figures import SIDE, choose_photos
from dogscats.report.figures.prediction_figures import MOST_PAIRS, confusion_matrix
from dogscats.report.summary import RunReport

CLASSES = 300


@pytest.fixture
def predictions(tmp_path: Path) -> Predictions:
    """Two photos of each class; class 7 is always taken for class 8."""
    labels = torch.arange(2 * CLASSES) % CLASSES
    predicted = labels.clone()
    predicted[labels == 7] = 8
    probabilities = torch.full((len(labels), CLASSES), 0.1 / (CLASSES - 1))
    probabilities[torch.arange(len(labels)), predicted] = 0.9
    paths = [f"{number}.jpg" for number in range(len(labels))]
    return Predictions(paths, [f"breed {number}" for number in range(CLASSES)], labels, probabilities, tmp_path)


def test_the_confusion_matrix_lists_pairs_instead_of_numbers(predictions: Predictions) -> None:
    figure = confusion_matrix(predictions)
    assert max(figure.get_size_inches()) < 20
    (pairs,) = figure.axes[1].texts
    assert "breed 7 → breed 8" in pairs.get_text()
    assert not figure.axes[0].texts
    assert len(figure.axes[0].get_xticks()) <= 2 * MOST_PAIRS


def test_console_and_csv_have_the_pairs(
    predictions: Predictions, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    report = RunReport(tmp_path, 0.0, predictions.classes)
    report.finish(predictions, None)
    report.summarise()
    assert max(map(len, caplog.text.splitlines())) < 200
    assert len(caplog.text.splitlines()) < 60
    with (tmp_path / "confused_pairs.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["actual", "predicted", "photos"], ["breed 7", "breed 8", "2"]]
    assert "breed 7" in caplog.text


def test_pictures_are_bounded_and_over_all_classes(predictions: Predictions) -> None:
    chosen = choose_photos(predictions, count=4)
    assert all(len(rows) <= 2 for rows in chosen.values())
    assert [index for row in chosen["most_wrong"].values() for index in row] == [7, 7 + CLASSES]


def test_large_photos_are_drawn_small(tmp_path: Path) -> None:
    pixels = np.zeros((3000, 4000, 3), np.uint8)
    pixels[:, 2000:] = 255
    Image.fromarray(pixels).save(tmp_path / "large.jpg")
    small = np.asarray(thumbnail(tmp_path / "large.jpg", SIDE))
    assert small.shape == (SIDE * 3 // 4, SIDE, 3)
    assert small[:, : SIDE // 2 - 2].max() < 10
    assert small[:, SIDE // 2 + 2 :].min() > 245
