"""`model.onnx` for batches of squares and `photo.onnx` for one photo of any size; and both with 8-bit integers."""

import copy
import inspect
import io
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dogscats.base.console import progress_bar
from dogscats.base.errors import UserError, as_user_error
from dogscats.base.files import atomic_path, write_text
from dogscats.base.text import counted, percent
from dogscats.data.photos.layouts import Photos
from dogscats.data.pixels import picture
from dogscats.kernel.kernel_head import KernelHead
from dogscats.lesson.heads import KernelHeads
from dogscats.predict.export.export import Array, Difference, Predict, Reference, whole_photo
from dogscats.predict.export.preprocessing import preprocessing_graph

SCRIPT = "predict_onnx.py"
"""The script that is written beside `photo.onnx`."""

MOST_ACCURACY_LOST = 0.005
"""Largest accepted loss of accuracy."""

QUANTIZED = ["Conv", "Gemm", "MatMul", "Clip", "Relu", "Add"]
"""Operators that compute with integers; the rest takes little time, and normalization layers need the precision."""


def export_onnx(
    network: nn.Module, metadata: Mapping[str, str], folder: Path, reference: Reference
) -> Iterator[tuple[str, Difference]]:
    """Write `model.onnx`, `photo.onnx` and `predict_onnx.py`, and compare the two with PyTorch.

    `model.onnx` maps `images` `(N, 3, size, size)`, RGB, uint8, to `probabilities` `(N, C)`; `photo.onnx` maps `photo`
    `(H, W, 3)`, RGB, uint8, to `probabilities` `(C,)`. Both include normalization, softmax and temperature,
    and `photo.onnx` the evaluation transform. A network with a scorer has a second output, `unlike`,
    `(N,)` or `()`.

    Args:
        network: network from squares to probabilities.
        metadata: metadata of both files: `classes`, a JSON list of names; `size` in pixels; `fit`, how photos become
            square; and `shrink`, the short side to which large photos are reduced first, or 0.
        folder: folder of the files.
        reference: photos for the comparison.

    Yields:
        Name of each file, and its difference from PyTorch on the CPU.

    Raises:
        UserError: if PyTorch cannot export the network, or a file differs; that one is not kept.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before onnxruntime is imported
    import onnx

    exported = _exported(network, reference.squares.shape[-1])
    onnx.helper.set_model_props(exported, dict(metadata))
    with atomic_path(folder / "model.onnx") as temporary:
        onnx.save(exported, temporary)
        difference = reference.check_squares("model.onnx", onnx_predict(temporary))
    yield "model.onnx", difference
    with atomic_path(folder / "photo.onnx") as temporary:
        onnx.save(with_preprocessing(exported, metadata), temporary)
        difference = reference.check_photos("photo.onnx", onnx_predict(temporary))
    yield "photo.onnx", difference
    write_text(folder / SCRIPT, _script())


def _script() -> str:
    """Return the script that predicts, with the module that reads photos in place of its import."""
    text = Path(__file__).with_name(SCRIPT).read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith(f"from {picture.__name__} import"))
    return text.replace(line, inspect.getsource(picture).partition('"""\n\n')[2].strip())


def _exported(network: nn.Module, size: int) -> Any:
    """Export a network as an `onnx.ModelProto`."""
    import onnx

    network = copy.deepcopy(network)
    for layer in network.modules():
        if hasattr(layer, "fused_attn"):  # of timm's; ONNX has no fused attention for all of its shapes
            layer.fused_attn = False  # type: ignore[assignment]
    outputs = ["probabilities", "unlike"] if getattr(network, "scorer", None) is not None else ["probabilities"]
    options: dict[str, Any] = {"input_names": ["images"], "output_names": outputs, "verbose": False}
    options["opset_version"] = 18  # the first one whose `Resize` has antialiasing
    if torch.__version__ >= "2.9":
        options |= {"dynamo": True, "dynamic_shapes": ({0: torch.export.Dim("N")},)}
    else:  # its exporter of that kind does not work with the networks here, nor with today's onnxscript
        options |= {"dynamo": False, "dynamic_axes": {name: {0: "N"} for name in ("images", *outputs)}}
    file = io.BytesIO()
    example = torch.zeros(2, 3, size, size, dtype=torch.uint8)  # a batch size of 1 would become a constant
    with as_user_error("export=onnx", "PyTorch cannot export this network", errors=torch.onnx.OnnxExporterError):
        target = None if options["dynamo"] else file
        program = torch.onnx.export(network, (example,), target, **options)  # type: ignore[arg-type]
    model = program.model_proto if program else onnx.load_from_string(file.getvalue())
    for part in (model.graph, *model.functions):
        part.ClearField("metadata_props")
        for node in (*part.node, *part.value_info):
            node.ClearField("metadata_props")  # stack traces, with this machine's paths
    return model


def with_preprocessing(network: Any, metadata: Mapping[str, str]) -> Any:
    """Put the evaluation transform before an exported network, and take the batch away from its outputs.

    Args:
        network: `onnx.ModelProto` from `images` to `probabilities`, and to `unlike` if it has a scorer.
        metadata: as in `export_onnx`.
    """
    import onnx

    opset = next(used.version for used in network.opset_import if not used.domain)
    versions = f'<ir_version: {network.ir_version}, opset_import: ["": {opset}]>'
    classes = network.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    shapes = {"probabilities": ("[1, {0}]", "[{0}]"), "unlike": ("[1]", "")}
    names = [output.name for output in network.graph.output]
    settings = int(metadata["size"]), metadata["fit"], int(metadata["shrink"])
    before = onnx.parser.parse_model(preprocessing_graph(*settings, network.ir_version, opset))
    given, found = (
        ", ".join(f"float{shapes[name][side].format(classes)} {prefix}{name}" for name in names)
        for side, prefix in ((0, "batch_"), (1, ""))
    )
    squeezed = " ".join(f"{name} = Squeeze (batch_{name}, axis)" for name in names)
    after = onnx.parser.parse_model(f"{versions} one ({given}) => ({found}) <int64[1] axis = {{0}}> {{ {squeezed} }}")
    network = onnx.compose.add_prefix(network, "network/")
    merged = onnx.compose.merge_models(before, network, [("images", "network/images")])
    merged = onnx.compose.merge_models(merged, after, [(f"network/{name}", f"batch_{name}") for name in names])
    onnx.helper.set_model_props(merged, dict(metadata))
    return merged


def onnx_predict(file: Path, output: str = "probabilities") -> Predict:
    """Return a function of arrays that computes an output of an ONNX file with one input on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda array: session.run([output], {name: array})[0]


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
        kernel_head = isinstance(getattr(network, "heads", None), KernelHead | KernelHeads)
        _quantize(folder / "model.onnx", model, reference, kernel_head)
        quantized = onnx.load(model)
        onnx.helper.set_model_props(quantized, metadata)
        onnx.save(quantized, model)
        onnx.save(with_preprocessing(quantized, metadata), photo)
        files = folder / "photo.onnx", photo
        before, after = accuracies(reference.photos, tuple(onnx_predict(file) for file in files))
        n = len(reference.photos.paths)
        text = f"accuracy {percent(after, n)} with int8, {percent(before, n)} without, on {counted(n, 'photo')}"
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
    `MOST_PHOTOS` photos are compared, evenly spaced.
    """
    first, second = (
        np.array([predict(whole_photo(reference.photos, index)) for index in reference.indices])
        for predict in (onnx_predict(file, "unlike") for file in files)
    )
    count = int((first <= none_above).sum())
    found = np.sort(np.append(second, [0, 1]))  # whose first `count` + 1 values are not none
    return float(found[count] + found[count + 1]) / 2


def _quantize(file: Path, result: Path, reference: Reference, kernel_head: bool) -> None:
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
            if kernel_head:
                excluded += of_kernel_head([node for node in nodes if node.name in kept])
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


def of_kernel_head(nodes: Sequence[Any]) -> list[str]:
    """Return the names of the nodes of kernel heads, which begin with norms of features: their distances need more."""
    last = [node for node in nodes if node.op_type == "ReduceL2"][-1]
    made_by = {name: node for node in nodes for name in node.output}
    first = made_by[last.input[0]]
    while (above := made_by.get(first.input[0])) and above.op_type == first.op_type == "Split":
        first = above  # the features of a depth are split off from those of a member, and these from all
    values = set(first.output)
    names = list[str]()
    for node in nodes:  # in the order of computation
        if values & set(node.input):
            names.append(node.name)
            values |= set(node.output)
    return names


def accuracies(photos: Photos, networks: tuple[Predict, ...]) -> list[float]:
    """Compute the accuracy of networks for whole photos on labelled photos."""
    right = np.zeros(len(networks))
    with progress_bar(photos.labels, "Accuracy of int8", len(photos.paths), "photo") as bar:
        for index, label in enumerate(bar):
            photo = whole_photo(photos, index)
            right += [predict(photo).argmax() == label for predict in networks]
    return list(right / len(photos.paths))
