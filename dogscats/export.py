"""ONNX export, verified against PyTorch."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path

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
    images = images.contiguous()
    try:
        program = torch.onnx.export(
            network,
            (images[:1].repeat(2, 1, 1, 1),),  # a batch size of 1 would become a constant
            input_names=["images"],
            output_names=["probabilities"],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            dynamo=True,
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        raise UserError(f"export=onnx: PyTorch cannot export this network ({first_line(error)}).") from error
    assert program is not None
    exported = program.model_proto
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
