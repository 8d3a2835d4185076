"""The task `export=`: write the files of a format, with the one network that all formats contain."""

import copy
import json
import logging
import tempfile
from pathlib import Path

import torch
from torch import nn

from dogscats.base.errors import UserError
from dogscats.data.loading.dataset import PhotoDataset
from dogscats.lesson.classifier import Classifier
from dogscats.predict.export.exporters import EXPORTERS, load_exporter
from dogscats.predict.export.reference import Reference, draw_photos, torch_predict
from dogscats.predict.predictor import Predictor
from dogscats.predict.tasks import Job
from dogscats.reliability.strangers import StrangerDetector

log = logging.getLogger(__name__)


def export_run(job: Job) -> None:
    """Write the files of `export=` and compare them with PyTorch, on photos of the split if available."""
    root, dataset = job.cfg.data.root or job.predictor.trained_on.get("root"), None
    what = f"random photos, as there is no folder data.root={root}"
    if root is not None and Path(root).expanduser().is_dir():
        data = job.data()
        photos = data.labelled(job.cfg.split, job.predictor.classes)
        dataset = PhotoDataset(photos, data.evaluation, data.seed)
        what = f"photos of {job.cfg.split}"
    log.info("(checked on %d %s)", export_files(job.cfg.export, job.predictor, job.run_dir, dataset), what)


def export_files(form: str, predictor: Predictor, folder: Path, dataset: PhotoDataset | None) -> int:
    """Write the files of one format, and log how far they are from PyTorch.

    Args:
        form: one of `EXPORTERS`.
        predictor: the trained classifier; not modified.
        folder: folder of the files.
        dataset: labelled photos for the comparison, with the evaluation transform; `None` to draw random ones.

    Returns:
        Number of photos compared.

    Raises:
        UserError: if a package is missing, the network cannot be exported, or a file differs too much.
    """
    write = load_exporter(form)
    if dataset is None and EXPORTERS[form].needs_photos:
        raise UserError(f"export={form} needs labelled photos. Set data.root=<folder of photos>.")
    plain = predictor.reliability and predictor.reliability.plain
    network = exported_network(predictor.model, plain.temperature if plain else 1.0)
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
        reference = Reference(torch_predict(network), dataset)
        for file, result in write(network, metadata, folder, reference):
            log.info("%-11s %s", file, result)
    return len(reference.indices)


class Exported(nn.Module):
    """Images `(B, 3, size, size)` uint8 to calibrated probabilities `(B, C)` and, with a scorer, `unlike` `(B,)`."""

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


def exported_network(model: Classifier, temperature: float = 1.0) -> Exported:
    """Copy a classifier for inference on the CPU.

    Whatever turns the heads' log-probabilities into the final probabilities belongs here, once for all formats.
    """
    return copy.deepcopy(Exported(model, temperature)).cpu().eval()
