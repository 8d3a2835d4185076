"""The files of each export format."""

import json
import logging
import tempfile
from pathlib import Path

from dogscats.base.errors import UserError
from dogscats.data.loading.dataset import PhotoDataset
from dogscats.predict.export.exported_network import exported_network
from dogscats.predict.export.int8 import export_int8
from dogscats.predict.export.onnx_files import check_packages, export_onnx
from dogscats.predict.export.reference import Reference, draw_photos, torch_predict
from dogscats.predict.export.space import export_space
from dogscats.predict.export.torch_files import export_torch
from dogscats.predict.predictor import Predictor
from dogscats.predict.tasks import Job

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
        form: one of `FORMATS`.
        predictor: the trained classifier; not modified.
        folder: folder of the files.
        dataset: labelled photos for the comparison, with the evaluation transform; `None` to draw random ones.

    Returns:
        Number of photos compared.

    Raises:
        UserError: if a package is missing, the network cannot be exported, or a file differs too much.
    """
    if form != "torch":
        check_packages()
    if form == "onnx-int8" and dataset is None:
        raise UserError("export=onnx-int8 needs labelled photos. Set data.root=<folder of photos>.")
    plain = predictor.reliability and predictor.reliability.plain
    network = exported_network(predictor.model, plain.temperature if plain else 1.0)
    fit = predictor.trained_on.get("fit", "crop")
    data = predictor.data(Path())
    metadata = {"classes": json.dumps(predictor.classes), "size": str(predictor.size), "fit": fit}
    metadata["shrink"] = str(data.shrinking.side if data.shrinking else 0)
    if plain:
        thresholds = {"unsure_below": plain.thresholds.unsure_below, "none_above": plain.thresholds.none_above}
        metadata |= {name: repr(value) for name, value in (thresholds | {"temperature": plain.temperature}).items()}
    with tempfile.TemporaryDirectory() as drawn:
        photos = dataset
        if photos is None:
            photos = draw_photos(Path(drawn), predictor.size, data.evaluation, predictor.seed)
        reference = Reference(torch_predict(network), photos)
        write = {"torch": export_torch, "space": export_space}.get(form, export_onnx)
        for file, difference in write(network, metadata, folder, reference).items():
            log.info("%-11s %s", file, difference)
    if form == "onnx-int8":
        assert dataset is not None
        log.info("%-11s %s", "int8", export_int8(folder, metadata, dataset, reference))
    return len(reference.indices)
