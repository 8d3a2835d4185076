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
from dogscats.predict.export.preprocessing import center_start, preprocess


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


class TorchImage:
    """An image `(1, 3, H, W)` uint8, whose methods `torch.export` can trace for all sizes; see `OnnxImage`."""

    def __init__(self, pixels: torch.Tensor):
        self.pixels, self.sides = pixels, pixels.shape[-2:]

    def least(self, first: int, second: int) -> int:
        """Return the smaller of two numbers; see `_number`."""
        return _number(torch.minimum(_scalar(first), _scalar(second)), 0)

    def most(self, first: int, second: int) -> int:
        """Return the larger of two numbers; see `_number`."""
        return _number(torch.maximum(_scalar(first), _scalar(second)), 0)

    def center(self, *parts: int) -> "TorchImage":
        """Crop to the height and width in the middle."""
        starts = (center_start(whole, part) for whole, part in zip(self.sides, parts, strict=True))
        return self._picked(*(torch.arange(_side(part)) + start for part, start in zip(parts, starts, strict=True)))

    def resized(self, height: int, width: int, kept: int | None = None, mode: str = "bilinear") -> "TorchImage":
        """Resize, and keep a square of `kept` pixels in the middle."""
        sides = _side(height), _side(width)
        image = TorchImage(nn.functional.interpolate(self.pixels, sides, mode=mode, antialias=True))
        return image if kept is None else image.center(kept, kept)

    def reduced(self, height: int, width: int) -> "TorchImage":
        """Reduce with a cubic filter."""
        # Without this format PyTorch's next resizing would fail for some photos that are one pixel wide.
        pixels = self.resized(height, width, mode="bicubic").pixels
        return TorchImage(pixels.clone(memory_format=torch.channels_last))

    def reflected(self, side: int) -> "TorchImage":
        """Pad to a square, reflected as often as needed: the photo and its reflection repeat with a fixed period."""
        shown = []
        for pixels in self.sides:
            period = 2 * pixels - 2
            wave = (torch.arange(_side(side)) - (side - pixels) // 2) % period
            shown.append(torch.minimum(wave, period - wave))
        return self._picked(*shown)

    def _picked(self, rows: torch.Tensor, columns: torch.Tensor) -> "TorchImage":
        return TorchImage(self.pixels[:, :, rows][:, :, :, columns])


def _side(pixels: int) -> int:
    """Return a side of at least one pixel; see `_number`. A constant stays one."""
    return pixels if isinstance(pixels, int) else _number(_scalar(pixels), 1)


def _scalar(number: int) -> torch.Tensor:
    return torch.scalar_tensor(number, dtype=torch.int64)


def _number(scalar: torch.Tensor, at_least: int) -> int:
    """Return an integer that an exported program computes for each photo.

    Otherwise `torch.export` would carry formulas of height and width from step to step, and guard what it cannot prove
    about them: it took half a minute, and the program did not serve all shapes.
    """
    number: int = scalar.item()  # type: ignore[assignment]  # int() would make it a constant of the program
    torch._check(number >= at_least)
    return number
