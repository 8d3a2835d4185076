"""The whole photo: crop, pad and squash."""

import json
from pathlib import Path

import pytest
import torch
from conftest import TINY, Run, draw_photo
from torchvision.transforms import v2

from dogscats import DogsCatsDataModule, Predictor
from dogscats.base.errors import UserError
from dogscats.base.files import read_csv
from dogscats.data.photos.arguments import FITS
from dogscats.data.pixels import transforms
from dogscats.data.pixels.transforms import Square, fitted, pad_to_square


def ends_marked(height: int, width: int) -> torch.Tensor:
    """A grey image whose first and last rows and columns are white."""
    image = torch.full((3, height, width), 90, dtype=torch.uint8)
    border = max(2, min(height, width) // 8)
    image[:, :border] = image[:, -border:] = image[:, :, :border] = image[:, :, -border:] = 255
    return image


@pytest.mark.parametrize("size", [(40, 90), (90, 40), (64, 64), (33, 200), (1, 9), (2, 31)])
def test_padding_keeps_every_pixel_in_the_middle(size: tuple[int, int]) -> None:
    height, width = size
    image = torch.randint(256, (3, height, width), dtype=torch.uint8)
    square = pad_to_square(image)
    side = max(size)
    assert square.shape == (3, side, side)
    top, left = ((side - height) // 2, (side - width) // 2)
    found = [
        torch.equal(square[:, y : y + height, x : x + width], image)
        for y in range(max(0, top - 1), top + 2)
        for x in range(max(0, left - 1), left + 2)
    ]
    assert any(found)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [(40, 90), (90, 40), (300, 700), (64, 64), (10, 400)])
def test_each_fit_gives_squares_and_only_the_crop_cuts_off(fit: str, size: tuple[int, int]) -> None:
    transform = fitted(transforms.none(48), 48, fit)
    square = transform(ends_marked(*size))
    assert square.shape == (3, 48, 48)
    assert square.dtype == torch.uint8
    if max(size) / min(size) > 16:
        return  # the ends of a very long photo are cut off first
    long_ends = square[:, :, [0, -1]] if size[1] > size[0] else square[:, [0, -1]]
    whole = fit != "crop" or size[0] == size[1]
    assert bool(long_ends.float().mean() > 150) == whole


def test_a_large_photo_is_not_padded_at_full_size() -> None:
    assert max(Square(50, "pad")(torch.zeros(3, 400, 900, dtype=torch.uint8)).shape) == 100
    assert Square(50, "squash")(torch.zeros(3, 400, 900, dtype=torch.uint8)).shape == (3, 100, 100)
    assert isinstance(fitted(transforms.none(50), 50, "pad"), v2.Compose)


def test_a_bad_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^fit=stretch: expected crop, pad or squash"):
        DogsCatsDataModule(tmp_path, fit="stretch")


@pytest.mark.slow
@pytest.mark.parametrize("fit", ["pad", "squash"])
def test_training_evaluation_and_export_use_the_same_fit(fit: str, run_command: Run, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    root = tmp_path / "photos"
    for split, count in (("train", 6), ("valid", 3)):
        for label, name in enumerate(("a", "b")):
            for number in range(count):
                draw_photo(root / split / name / f"{number}.jpg", label, number, size=(120, 40))
    settings = [*TINY, f"data.root={root}", f"data.fit={fit}", "recipe=head_only", "callbacks.reports=null"]
    result = run_command("train.py", *settings, "hydra.run.dir=run")
    assert result.returncode == 0, result.stderr
    final = json.loads((tmp_path / "run" / "metrics.json").read_text())["final"]
    assert run_command("evaluate.py", "run=run", "callbacks.tta.n_aug=0", "hydra.run.dir=evaluated").returncode == 0
    again = json.loads((tmp_path / "evaluated" / "metrics.json").read_text())
    assert again["log_loss"] == pytest.approx(final["valid_loss"], rel=1e-5)
    assert run_command("evaluate.py", "run=run", "export=onnx", "hydra.run.dir=exported").returncode == 0
    exported = onnx.load(tmp_path / "exported" / "model.onnx")
    assert {entry.key: entry.value for entry in exported.metadata_props}["fit"] == fit
    predictions, _ = Predictor.load(tmp_path / "run").predict([root / "valid" / "a" / "0.jpg"], n_aug=0)
    row = next(row for row in read_csv(tmp_path / "run" / "predictions_valid.csv") if row["path"] == "valid/a/0.jpg")
    assert predictions.probabilities[0, 0].item() == pytest.approx(float(row["prob_a"]), rel=1e-4)
