"""The task `export=`: write the files of a format, and compare them with what PyTorch predicts for photos on disk."""

import copy
import json
import logging
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from dogscats.base.environment import how_to_install
from dogscats.base.errors import UserError
from dogscats.base.files import WEIGHTS
from dogscats.base.text import counted, shown
from dogscats.data.loading.dataset import PhotoDataset
from dogscats.data.photos.layouts import Photos
from dogscats.data.pixels.images import is_large, read_image
from dogscats.lesson.classifier import Classifier
from dogscats.predict.export.exporters import EXPORTERS, PACKAGES
from dogscats.predict.export.preprocessing import preprocess
from dogscats.predict.export.torch_image import TorchImage
from dogscats.predict.predictor import Predictor
from dogscats.predict.tasks import Job
from dogscats.reliability.strangers import StrangerDetector
from dogscats.runs.directory import checkpoint_of, run_of

log = logging.getLogger(__name__)

MOST_PHOTOS = 200
"""Number of photos to compare."""

BATCH_SIZE = 50
"""Number of photos in a batch."""

SQUARES_TOLERANCE = 1e-4
"""Largest accepted difference of a probability for squares, which PyTorch and the exported file get alike."""

PHOTOS_TOLERANCE = 0.01
"""Largest accepted difference of a probability for whole photos."""

SHAPES = ((1, 1), (1, 1.5), (1.5, 1), (2.3, 2.9), (0.3, 0.4), (4, 1), (1, 20))
"""Height and width of drawn photos, relative to the image size."""

Array = npt.NDArray[np.generic]
Probabilities = npt.NDArray[np.float32]
Predict = Callable[[Array], Probabilities]
"""Images `(N, 3, size, size)` uint8 to probabilities `(N, C)`, or one photo `(H, W, 3)` uint8 to `(C,)`."""


def export_run(job: Job) -> None:
    """Write the files of `export=` and compare them with PyTorch, on photos of the split if available."""
    root, dataset = job.cfg.data.root or job.predictor.trained_on.get("root"), None
    what = f"random photos, as there is no folder data.root={root}"
    if root is not None and Path(root).expanduser().is_dir():
        data = job.data()
        photos = data.labelled(job.split(data), job.predictor.classes)
        dataset = PhotoDataset(photos, data.evaluation, data.seed)
        what = f"photos of {job.split(data)}"
    file = checkpoint_of(job.cfg.run or job.cfg.ckpt)
    final = file.name in ("last.ckpt", WEIGHTS)  # the metrics of a run are not those of an earlier stage
    page = {"run_dir": run_of(file) if final else None, "runtime": job.cfg.web.runtime}
    log.info("(checked on %d %s)", export_files(job.cfg.export, job.predictor, job.run_dir, dataset, **page), what)


def export_files(form: str, predictor: Predictor, folder: Path, dataset: PhotoDataset | None, **page: Any) -> int:
    """Write the files of one format, and log how far they are from PyTorch.

    Args:
        form: one of `EXPORTERS`.
        predictor: the trained classifier; not modified.
        folder: folder of the files.
        dataset: labelled photos for the comparison, with the evaluation transform; `None` to draw random ones.
        page: arguments of formats that are pages; see `Exporter.is_page`.

    Returns:
        Number of photos compared.

    Raises:
        UserError: if a package is missing, the network cannot be exported, or a file differs too much.
    """
    exporter = EXPORTERS[form]
    for package in PACKAGES[exporter.extra]:
        if find_spec(package) is None:
            raise UserError(f"export={form} needs {package}: {how_to_install(exporter.extra)}.")
    write: Write = resolve_name(exporter.function)
    if dataset is None and exporter.needs_photos:
        raise UserError(f"export={form} needs labelled photos. Set data.root=<folder of photos>.")
    plain = predictor.reliability and predictor.reliability.plain
    network = copy.deepcopy(Exported(predictor.model, plain.temperature if plain else 1.0)).cpu().eval()
    data = predictor.data(Path())
    metadata = {
        "classes": json.dumps(predictor.classes),
        "size": str(predictor.size),
        "fit": predictor.trained_on.get("fit", "crop"),
        "shrink": str(data.shrinking.side if data.shrinking else 0),
    }
    if plain:
        thresholds = {"unsure_below": plain.thresholds.unsure_below, "none_above": plain.thresholds.none_above}
        metadata |= {name: repr(value) for name, value in (thresholds | {"temperature": plain.temperature}).items()}
    with tempfile.TemporaryDirectory() as drawn:
        if dataset is None:
            dataset = draw_photos(Path(drawn), predictor.size, data.evaluation, predictor.seed)
        reference = Reference(torch_predict(network), dataset, metadata["fit"])
        for file, result in write(network, metadata, folder, reference, **page if exporter.is_page else {}):
            log.info("%-11s %s", file, result)
    return len(reference.indices)


class Exported(nn.Module):
    """Images `(B, 3, size, size)` uint8 to calibrated probabilities `(B, C)` and, with a scorer, `unlike` `(B,)`.

    Whatever turns the heads' log-probabilities into the final probabilities belongs here, once for all formats.
    """

    def __init__(self, model: Classifier, temperature: float):
        super().__init__()
        self.body, self.heads, self.scorer, self.temperature = model.body, model.heads, model.scorer, temperature

    def forward(self, images: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Compute the outputs."""
        if not isinstance(self.scorer, StrangerDetector):
            return self.probabilities(self.heads.each(self.body(images)))
        computed = self.scorer.compute(self.body, self.heads, images)
        return self.probabilities(computed.logits), self.scorer.unlike(self.scorer.scores(computed))

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Compute calibrated probabilities `(B, C)` of the logits of each head `(heads, B, C)`."""
        return (self.heads.mean(logits) / self.temperature).softmax(dim=1)


@dataclass(frozen=True)
class Difference:
    """How far an exported file is from PyTorch.

    Attributes:
        largest: largest difference of a probability.
        photos: number of photos compared.
        scaled: number of photos among them that predictions decode at a fraction of their size (`data.shrink`).
        decoder: largest difference from predictions that is due to the decoder, for those.
    """

    largest: float
    photos: int
    scaled: int = 0
    decoder: float = 0.0

    def __str__(self) -> str:
        text = (
            f"largest difference from PyTorch's probabilities: {self.largest:.2g}, on {counted(self.photos, 'photo')}"
        )
        if self.scaled:
            large = counted(self.scaled, "large one")
            text += f"; {self.decoder:.2g} on {large}, which predict= decodes scaled"
        return text


class Reference:
    """Photos on disk, as predictions read them, and their probabilities.

    Args:
        predict: what to compare with, for batches.
        dataset: photos with the evaluation transform; `MOST_PHOTOS` of them are used, evenly spaced. Large ones are
            read without their shrunken copies, whose compression changes probabilities, too.
        fit: how photos become square: `crop`, `pad` or `squash`.
    """

    def __init__(self, predict: Predict, dataset: PhotoDataset, fit: str = "crop"):
        self.predict, self.fit = predict, fit
        shrink = dataset.photos.shrink and replace(dataset.photos.shrink, folder=None)
        self.photos = replace(dataset.photos, shrink=shrink)
        dataset = PhotoDataset(self.photos, dataset.transform, dataset.seed)
        # Evenly spaced, so that all classes appear.
        self.indices = range(0, len(dataset), -(-len(dataset) // MOST_PHOTOS))
        self.squares = np.stack([dataset[index, 0][0].numpy() for index in self.indices])
        self.expected = np.concatenate([predict(part) for part in self.batches()])

    def batches(self) -> Iterator[Array]:
        """Yield batches `(B, 3, size, size)`, uint8, of the photos."""
        for start in range(0, len(self.squares), BATCH_SIZE):
            yield self.squares[start : start + BATCH_SIZE]

    def check_squares(self, file: str, predict: Predict) -> Difference:
        """Compare a file for batches of squares, also with a batch of one.

        Raises:
            UserError: if a probability differs by more than `SQUARES_TOLERANCE`, or a class.
        """
        found = np.concatenate([predict(part) for part in self.batches()])
        self._compare(file, found, self.expected, SQUARES_TOLERANCE)
        found[0] = predict(self.squares[:1])[0]
        return Difference(self._compare(file, found, self.expected, SQUARES_TOLERANCE), len(found))

    def check_photos(self, file: str, predict: Predict) -> Difference:
        """Compare a file for whole photos, which are decoded in full.

        So are large ones for PyTorch, too: predictions decode them at a fraction of their size, which changes pixels by
        a quarter of a grey level, and probabilities of a sensitive network by more than any reduction of the full photo
        could make up for (.02 for a photo of 9 megapixels).

        Raises:
            UserError: if a probability differs by more than `PHOTOS_TOLERANCE`, or a class.
        """
        found, expected, scaled = [], self.expected.copy(), list[int]()
        for row, index in enumerate(self.indices):
            photo = whole_photo(self.photos, index)
            found.append(predict(photo))
            shrink, (height, width, _) = self.photos.shrink, photo.shape
            if shrink is not None and is_large((width, height), shrink.side):
                scaled.append(row)
                image = TorchImage(torch.from_numpy(photo).permute(2, 0, 1)[None])
                square = preprocess(image, self.squares.shape[-1], self.fit, shrink.side).pixels
                expected[row] = self.predict(square.numpy())[0]
        outputs = np.stack(found)
        largest = self._compare(file, outputs, expected, PHOTOS_TOLERANCE)
        decoder = float(np.abs(outputs - self.expected)[scaled].max(initial=0))
        return Difference(largest, len(found), len(scaled), decoder)

    def _compare(self, file: str, found: Probabilities, expected: Probabilities, tolerance: float) -> float:
        """Return the largest difference from `expected` `(N, C)`, given the largest accepted one."""
        differences = np.abs(found - expected).max(axis=1)
        rows = np.arange(len(found))
        gaps = expected.max(axis=1) - expected[rows, found.argmax(axis=1)]
        for what, bad in (  # the comparisons are also false for NaN
            ("its probabilities differ from PyTorch's by up to {:.2g}, more than {:g}", ~(differences <= tolerance)),
            ("it predicts another class than PyTorch; probabilities differ by {:.2g}", ~(gaps <= SQUARES_TOLERANCE)),
        ):
            if bad.any():
                worst = np.where(bad, differences, -1).argmax()
                path = shown(self.photos.paths[self.indices[worst]])
                message = (
                    f"{file}: {what.format(differences[worst], tolerance)}, for {path} and {bad.sum() - 1} "
                    "more photos. The file was not kept."
                )
                if file == "photo.onnx":
                    message += (
                        " Try export=torch, whose photo.pt2 resizes with PyTorch itself, or use model.onnx with your "
                        "own resizing."
                    )
                raise UserError(message)
        return float(differences.max())


Write = Callable[..., Iterator[tuple[str, object]]]
"""Function that writes the files of a format; see `Exporter.function`."""


def whole_photo(photos: Photos, index: int) -> Array:
    """Decode a photo `(H, W, 3)`, uint8, in full."""
    path = photos.paths[index]
    return read_image(photos.root / path, path in photos.odd).permute(1, 2, 0).contiguous().numpy()


def draw_photos(folder: Path, size: int, transform: v2.Transform, seed: int) -> PhotoDataset:
    """Draw random photos of many shapes into a folder, for a comparison without real ones."""
    rng, paths = np.random.default_rng(seed), []
    for number, (height, width) in enumerate(shape for shape in SHAPES for _ in range(8)):
        pixels = rng.integers(0, 256, (max(1, round(height * size)), max(1, round(width * size)), 3), dtype=np.uint8)
        paths.append(f"{number}.png")
        Image.fromarray(pixels).save(folder / paths[-1])
    return PhotoDataset(Photos(folder, paths, []), transform, seed)


def torch_predict(network: nn.Module) -> Predict:
    """Return a function of arrays that computes the probabilities of a network, its first or only output."""

    def predict(images: Array) -> Probabilities:
        with torch.inference_mode():
            outputs = network(torch.from_numpy(images))
            probabilities: Probabilities = (outputs if isinstance(outputs, torch.Tensor) else outputs[0]).numpy()
            return probabilities

    return predict
