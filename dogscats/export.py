"""ONNX export, verified against PyTorch."""

import copy
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dogscats.classifier import Classifier
from dogscats.runs.errors import UserError, first_line
from dogscats.runs.files import atomic_path
from dogscats.runs.install import how_to_install

TOLERANCE = 1e-4
"""Largest accepted difference of a probability from PyTorch's."""


def export_onnx(
    model: Classifier, classes: Sequence[str], path: Path, images: torch.Tensor, fit: str = "crop"
) -> float:
    """Write one ONNX file that includes normalisation and softmax, and compare it with PyTorch.

    Input: `images`, RGB `(N, 3, size, size)`, uint8, for any `N`. Output: `probabilities`, `(N, C)`. Metadata:
    `classes`, a JSON list of names; `size` in pixels; and `fit`, how photos become square.

    Args:
        model: the trained classifier; not modified.
        classes: class names.
        path: output file.
        images: images for the comparison, `(B, 3, size, size)`, uint8.
        fit: how the photos become square: `crop`, `pad` or `squash`.

    Returns:
        Largest difference of a probability from PyTorch's on the CPU.

    Raises:
        UserError: if a package is missing, or the difference exceeds `TOLERANCE`. No file is written then.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  # what torch.onnx.export works with
    except ImportError as error:
        raise UserError(f"export=onnx needs {error.name}: {how_to_install('onnx')}.") from error

    network = copy.deepcopy(nn.Sequential(model.body, model.heads, nn.Softmax(dim=1))).cpu().eval()
    for layer in network.modules():
        if hasattr(layer, "fused_attn"):  # of timm's; ONNX has no fused attention for all of its shapes
            layer.fused_attn = False  # type: ignore[assignment]
    images, file = images.contiguous(), io.BytesIO()
    options: dict[str, Any] = {"input_names": ["images"], "output_names": ["probabilities"], "verbose": False}
    if torch.__version__ >= "2.9":
        options |= {"dynamo": True, "dynamic_shapes": ({0: torch.export.Dim("N")},)}
    else:  # its exporter of that kind does not work with the networks here, nor with today's onnxscript
        options |= {"dynamo": False, "dynamic_axes": {name: {0: "N"} for name in ("images", "probabilities")}}
    try:  # a batch size of 1 would become a constant
        example, target = images[:1].repeat(2, 1, 1, 1), None if options["dynamo"] else file
        program = torch.onnx.export(network, (example,), target, **options)  # type: ignore[arg-type]
    except torch.onnx.OnnxExporterError as error:
        raise UserError(f"export=onnx: PyTorch cannot export this network ({first_line(error)}).") from error
    exported = program.model_proto if program else onnx.load_from_string(file.getvalue())
    metadata = {"classes": json.dumps(list(classes)), "size": str(images.shape[-1]), "fit": fit}
    onnx.helper.set_model_props(exported, metadata)
    with torch.inference_mode():
        expected = network(images)
    with atomic_path(path) as temporary:
        onnx.save(exported, temporary)
        session = onnxruntime.InferenceSession(temporary, providers=["CPUExecutionProvider"])
        difference = max(
            float(abs(session.run(None, {"images": part.numpy()})[0] - right.numpy()).max())
            for part, right in ((images, expected), (images[:1], expected[:1]))
        )
        if not difference <= TOLERANCE:  # also catches NaN
            raise UserError(
                f"{path.name}: its probabilities differ from PyTorch's by up to {difference:.2g}, more than the "
                f"tolerance of {TOLERANCE:g}. The file was not kept."
            )
    return difference
