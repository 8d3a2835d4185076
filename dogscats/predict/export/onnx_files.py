"""`model.onnx` for batches of squares and `photo.onnx` for one photo of any size."""

import copy
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dogscats.base.errors import UserError, first_line
from dogscats.base.files import atomic_path, write_text
from dogscats.predict.export.preprocessing_graph import preprocessing_graph
from dogscats.predict.export.reference import Difference, Predict, Reference

OPSET = 18
"""Version of the operators: the first one whose `Resize` has antialiasing."""

SCRIPT = "predict_onnx.py"
"""The script that is written beside `photo.onnx`."""


def export_onnx(
    network: nn.Module, metadata: Mapping[str, str], folder: Path, reference: Reference
) -> Iterator[tuple[str, Difference]]:
    """Write `model.onnx`, `photo.onnx` and `predict_onnx.py`, and compare the two with PyTorch.

    `model.onnx` maps `images` `(N, 3, size, size)`, RGB, uint8, to `probabilities` `(N, C)`; `photo.onnx` maps `photo`
    `(H, W, 3)`, RGB, uint8, to `probabilities` `(C,)`. Both include normalisation, softmax and temperature,
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
    write_text(folder / SCRIPT, Path(__file__).with_name(SCRIPT).read_text(encoding="utf-8"))


def _exported(network: nn.Module, size: int) -> Any:
    """Export a network as an `onnx.ModelProto`."""
    import onnx

    network = copy.deepcopy(network)
    for layer in network.modules():
        if hasattr(layer, "fused_attn"):  # of timm's; ONNX has no fused attention for all of its shapes
            layer.fused_attn = False  # type: ignore[assignment]
    outputs = ["probabilities", "unlike"] if getattr(network, "scorer", None) is not None else ["probabilities"]
    options: dict[str, Any] = {"input_names": ["images"], "output_names": outputs, "verbose": False}
    options["opset_version"] = OPSET
    if torch.__version__ >= "2.9":
        options |= {"dynamo": True, "dynamic_shapes": ({0: torch.export.Dim("N")},)}
    else:  # its exporter of that kind does not work with the networks here, nor with today's onnxscript
        options |= {"dynamo": False, "dynamic_axes": {name: {0: "N"} for name in ("images", *outputs)}}
    file = io.BytesIO()
    try:  # a batch size of 1 would become a constant
        example, target = torch.zeros(2, 3, size, size, dtype=torch.uint8), None if options["dynamo"] else file
        program = torch.onnx.export(network, (example,), target, **options)  # type: ignore[arg-type]
    except torch.onnx.OnnxExporterError as error:
        raise UserError(f"export=onnx: PyTorch cannot export this network ({first_line(error)}).") from error
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
