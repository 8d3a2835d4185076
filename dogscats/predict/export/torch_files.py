"""`model.pt2` for batches of squares and `photo.pt2` for one photo: programs of `torch.export`."""

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim

from dogscats.base.errors import as_user_error
from dogscats.base.files import atomic_path
from dogscats.predict.export.export import Difference, Reference, torch_predict
from dogscats.predict.export.preprocessing import preprocess
from dogscats.predict.export.torch_image import TorchImage


def export_torch(
    network: nn.Module, metadata: Mapping[str, str], folder: Path, reference: Reference
) -> Iterator[tuple[str, Difference]]:
    """Write `model.pt2` and `photo.pt2`, and compare them with PyTorch.

    Inputs and outputs are those of `onnx_files.export_onnx`. Both programs need torch alone:
    `torch.export.load("photo.pt2").module()(photo)`.

    Args:
        network: network from squares to probabilities.
        metadata: metadata of both files, as in `export_onnx`; `torch.export.load` returns it as extra files.
        folder: folder of the files.
        reference: photos for the comparison.

    Yields:
        Name of each file, and its difference from PyTorch on the CPU.

    Raises:
        UserError: if PyTorch cannot export the network, or a file differs; that one is not kept.
    """
    size = reference.squares.shape[-1]
    squares = torch.zeros(2, 3, size, size, dtype=torch.uint8)  # a batch size of 1 would become a constant
    with atomic_path(folder / "model.pt2") as temporary:
        _save(network, squares, {0: Dim("N", min=1)}, metadata, temporary)
        difference = reference.check_squares("model.pt2", _loaded(temporary))
    yield "model.pt2", difference
    photo, sides = torch.zeros(size + 3, size + 5, 3, dtype=torch.uint8), ("height", "width")
    with atomic_path(folder / "photo.pt2") as temporary:
        program = PhotoClassifier(network, size, metadata["fit"], int(metadata["shrink"])).eval()
        _save(program, photo, {axis: Dim(side, min=1) for axis, side in enumerate(sides)}, metadata, temporary)
        difference = reference.check_photos("photo.pt2", _loaded(temporary))
    yield "photo.pt2", difference


def _save(
    module: nn.Module, example: torch.Tensor, sides: dict[int, Any], metadata: Mapping[str, str], file: Path
) -> None:
    with as_user_error("export=torch", "PyTorch cannot export this network"):  # tracing runs arbitrary network code
        program = torch.export.export(module, (example,), dynamic_shapes=(sides,), strict=False)
    for graph in program.graph_module.modules():
        for node in graph.graph.nodes if isinstance(graph, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # with this machine's paths
    with warnings.catch_warnings(action="ignore"):  # about copies of weights, of PyTorch's own making
        torch.export.save(program, file, extra_files=dict(metadata))


def _loaded(file: Path) -> Any:
    with warnings.catch_warnings(action="ignore"):
        return torch_predict(torch.export.load(file).module())


class PhotoClassifier(nn.Module):
    """Preprocessing and network: a photo `(H, W, 3)` uint8 to probabilities `(C,)` and, with a scorer, `unlike`.

    Args:
        network: network from squares to probabilities.
        size: side of the square image, in pixels.
        fit: how photos become square: `crop`, `pad` or `squash`.
        shrink: short side in pixels that large photos are reduced to; 0 to leave them as they are.
    """

    def __init__(self, network: nn.Module, size: int, fit: str, shrink: int):
        super().__init__()
        self.network, self.settings = network, (size, fit, shrink)

    def forward(self, photo: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Compute the outputs of one photo."""
        outputs = self.network(preprocess(TorchImage(photo.permute(2, 0, 1)[None]), *self.settings).pixels)
        return outputs[0] if isinstance(outputs, torch.Tensor) else tuple(output[0] for output in outputs)
