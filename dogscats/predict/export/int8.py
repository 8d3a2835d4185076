"""`model-int8.onnx` and `photo-int8.onnx`: networks that compute with 8-bit integers."""

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from dogscats.base.console import progress_bar
from dogscats.base.errors import UserError
from dogscats.base.files import atomic_path
from dogscats.data.photos.layouts import Photos
from dogscats.predict.export.onnx_files import export_onnx, onnx_predict, with_preprocessing
from dogscats.predict.export.reference import Array, Predict, Reference, whole_photo

MOST_ACCURACY_LOST = 0.005
"""Largest accepted loss of accuracy."""

QUANTIZED = ["Conv", "Gemm", "MatMul", "Clip", "Relu", "Add"]
"""Operators that compute with integers; the rest takes little time, and normalization layers need the precision."""


def export_int8(
    network: nn.Module, metadata: Mapping[str, str], folder: Path, reference: Reference
) -> Iterator[tuple[str, object]]:
    """Write the files of `export_onnx`, and `model-int8.onnx` and `photo-int8.onnx`, whose accuracy is compared.

    Weights are quantized by channel, to 7 bits, since processors without VNNI would overflow with 8. The ranges of
    activations are those of the photos of `reference`. The first convolution is left as it is. With EfficientNet-Lite0
    no prediction for 249 cats and dogs changed; with 8 bits, all convolutions, and no activations and sums, 10 % did.

    Args:
        network: network from squares to probabilities.
        metadata: metadata of the files, as in `export_onnx`.
        folder: folder of the files.
        reference: labelled photos, for the comparison, the ranges and the accuracy.

    Yields:
        Name of each file of `export_onnx` and its difference from PyTorch; then the accuracies in one line.

    Raises:
        UserError: as `export_onnx` does, or if more than `MOST_ACCURACY_LOST` of the accuracy is lost; the int8 files
            are not kept then.
    """
    import onnx

    yield from export_onnx(network, metadata, folder, reference)

    metadata = {**metadata, "precision": "int8"}
    with atomic_path(folder / "model-int8.onnx") as model, atomic_path(folder / "photo-int8.onnx") as photo:
        _quantize(folder / "model.onnx", model, reference)
        quantized = onnx.load(model)
        onnx.helper.set_model_props(quantized, metadata)
        onnx.save(quantized, model)
        onnx.save(with_preprocessing(quantized, metadata), photo)
        files = folder / "photo.onnx", photo
        before, after = accuracies(reference.photos, tuple(onnx_predict(file) for file in files))
        text = f"accuracy {after:.4f} with int8, {before:.4f} without, on {len(reference.photos.paths)} photos"
        if before - after > MOST_ACCURACY_LOST:
            raise UserError(
                f"photo-int8.onnx: {text}: it loses more than {MOST_ACCURACY_LOST:g}. The int8 files were not kept. "
                "Use photo.onnx and model.onnx."
            )
        if "none_above" in metadata:
            none_above = same_share(reference, files, float(metadata["none_above"]))
            for file in (model, photo):
                quantized = onnx.load(file)
                onnx.helper.set_model_props(quantized, {**metadata, "none_above": repr(none_above)})
                onnx.save(quantized, file)
    yield "int8", text


def same_share(reference: Reference, files: tuple[Path, Path], none_above: float) -> float:
    """Return the threshold by which the second file calls as many photos `none` as the first one by `none_above`.

    Features of 8-bit integers are farther from those of the training photos, all of them. At most
    `reference.MOST_PHOTOS` photos are compared, evenly spaced.
    """
    first, second = (
        np.array([predict(whole_photo(reference.photos, index)) for index in reference.indices])
        for predict in (onnx_predict(file, "unlike") for file in files)
    )
    count = int((first <= none_above).sum())
    found = np.sort(np.append(second, [0, 1]))  # whose first `count` + 1 values are not none
    return float(found[count] + found[count + 1]) / 2


def _quantize(file: Path, result: Path, reference: Reference) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Photos(CalibrationDataReader):
        """Photos for the ranges of activations, one at a time: the intermediate results of all are kept."""

        def __init__(self) -> None:
            self.squares = iter(reference.squares)

        def get_next(self) -> dict[str, Array] | None:
            square = next(self.squares, None)
            return None if square is None else {"images": square[None]}

    root, level = logging.getLogger(), logging.getLogger().level
    with tempfile.TemporaryDirectory() as scratch:
        prepared = Path(scratch) / "prepared.onnx"
        root.setLevel(logging.ERROR)  # it recommends what has just been done
        try:
            quant_pre_process(file, prepared, skip_symbolic_shape=True)
            nodes = onnx.load(prepared).graph.node
            kept = needed(nodes, "probabilities")
            excluded = [node.name for node in nodes if node.op_type == "Softmax"]
            excluded += [node.name for node in nodes if node.op_type == "Conv"][:1]
            excluded += [node.name for node in nodes if node.name not in kept]
            quantize_static(
                prepared,
                result,
                Photos(),
                per_channel=True,
                # onnxruntime 1.20 wants to know the ranges of softmax, even if it is not quantized.
                op_types_to_quantize=[*QUANTIZED, "Softmax"],
                nodes_to_exclude=excluded,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        finally:
            root.setLevel(level)


def needed(nodes: Sequence[Any], output: str) -> set[str]:
    """Return the names of the nodes that an output depends on: distances in `unlike` need more than 8 bits."""
    values, names = {output}, set()
    for node in reversed(nodes):  # in the order of computation
        if values & set(node.output):
            names.add(node.name)
            values |= set(node.input)
    return names


def accuracies(photos: Photos, networks: tuple[Predict, ...]) -> list[float]:
    """Compute the accuracy of networks for whole photos on labelled photos."""
    right = np.zeros(len(networks))
    with progress_bar(photos.labels, "Accuracy of int8", len(photos.paths), "photo") as bar:
        for index, label in enumerate(bar):
            photo = whole_photo(photos, index)
            right += [predict(photo).argmax() == label for predict in networks]
    return list(right / len(photos.paths))
