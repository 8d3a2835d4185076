"""The evaluation transform without branches, for photos of any size: its steps, and as an ONNX graph.

It computes what `data.pixels.transforms.fitted(transforms.none(size), size, fit)` does, whose branches depend on the
photo's shape. Here all sizes are integer formulas. torchvision's `int(size * long / short)` is a whole-number division,
and its `round(gap / 2)` rounds half to even. `torch_image.TorchImage` takes the same steps in PyTorch.

Large photos are reduced first, as predictions read them (`data.shrink`), in two steps like the decoder and Pillow. For
photos of 12 megapixels, probabilities differed by up to .08 without these steps, and by .03 with one of them.

In ONNX, resizing is PyTorch's to the bit, apart from sums close to a half and the first reduction of large photos.
ONNX's own `Resize` has weights of more bits: up to a tenth of a photo's values differed by 1, and some networks'
probabilities by .02.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from dogscats.data.pixels.images import LARGE

ASPECT = 16
"""Longest side that is resized, relative to the short one, as in `transforms.LimitAspect` and `images.is_large`."""

FLOAT, UINT8, INT64, DOUBLE = 1, 2, 7, 11
"""Types of elements in ONNX."""

CUBIC = {"mode": "cubic", "cubic_coeff_a": -0.5, "antialias": 1, "exclude_outside": 1}
"""PyTorch's cubic filter with antialiasing. Pixels outside have no weight: otherwise the borders differ by up to 13 of
255."""

POWERS = [2.0**power for power in range(23)]
"""Factors that turn the weights of a resizing into integers."""


def preprocess(image: Any, size: int, fit: str, shrink: int) -> Any:
    """Resize, crop and pad an image as the evaluation transform does.

    Args:
        image: `OnnxImage` or `TorchImage`, which have the same methods; sides are numbers or stand for them.
        size: side of the square image, in pixels.
        fit: how photos become square: `crop`, `pad` or `squash`.
        shrink: short side in pixels that large photos are reduced to; 0 to leave them as they are.
    """
    least, most = image.least, image.most
    if shrink:
        image = _shrunken(image, shrink)
    height, width = image.sides
    short = least(height, width)
    image = image.center(least(height, short * ASPECT), least(width, short * ASPECT))
    if fit == "squash":
        side = least(short, 2 * size)
        image = image.resized(side, side)
    if fit == "pad":
        height, width = image.sides
        long = most(height, width)
        side = least(long, 2 * size)
        # At least two equal rows of a single one: a program of `torch.export` would not serve a dimension of 1.
        height, width = (most(pixels * side // long, 2) for pixels in (height, width))
        image = image.resized(height, width).reflected(most(side, 2))
    height, width = image.sides
    short = least(height, width)
    return image.resized(height * size // short, width * size // short, size)


def _shrunken(image: Any, side: int) -> Any:
    """Reduce the short side to `side` pixels if the image is large as in `images.is_large`."""
    least, (height, width) = image.least, image.sides
    short, long = least(height, width), image.most(height, width)
    large = least(short // (2 * side), 1) * least(height * width // LARGE, 1) * least(short * ASPECT // long, 1)
    # The decoder's reduction, to at least `side`: 2, 4 or 8.
    halved = [least(short // (2 * power * side), 1) * power for power in (1, 2, 4)]
    factor = large * (halved[0] + halved[1] + halved[2]) + 1
    image = image.reduced(*((pixels + factor - 1) // factor for pixels in (height, width)))
    return image.reduced(
        *(pixels + large * ((pixels * (2 * side) + short) // (short * 2) - pixels) for pixels in (height, width))
    )


def center_start(whole: Any, part: Any) -> Any:
    """Return where `part` pixels in the middle of `whole` begin: `round((whole - part) / 2)`, half to even."""
    gap = whole - part
    return (gap + gap // 2 % 2) // 2


class Graph:
    """Nodes in ONNX's text format, one a line."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def node(self, operator: str, *inputs: Any, **attributes: Any) -> Value:
        """Append a node and return its output.

        Args:
            operator: ONNX operator.
            inputs: values, `None`, or numbers: a whole number becomes a vector of one int64, a list of them a vector,
                and a fraction a double scalar.
            attributes: attributes of the operator.
        """
        names = [self._name(value) for value in inputs]
        given = ", ".join(f"{key} = {json.dumps(value)}" for key, value in attributes.items())
        return self._append(f"{operator} {f'<{given}> ' if given else ''}({', '.join(names)})")

    def _name(self, value: Any) -> str:
        if value is None or isinstance(value, Value):
            return value.name if value else ""
        numbers = value if isinstance(value, list) else [value]
        text = ", ".join(map(repr, numbers))
        if isinstance(numbers[0], int):
            return self._append(f"Constant <value_ints = [{text}]> ()").name
        shape = f"[{len(value)}]" if isinstance(value, list) else ""
        return self._append(f"Constant <value = double{shape} {{{text}}}> ()").name

    def _append(self, text: str) -> Value:
        value = Value(self, f"value_{len(self.lines)}")
        self.lines.append(f"    {value.name} = {text}")
        return value


def _operator(name: str) -> Callable[[Value, Any], Value]:
    def apply(self: Value, other: Any) -> Value:
        return self.node(name, other)

    return apply


class Value:
    """A value in a graph; arithmetic appends nodes. Division of whole numbers rounds down: none are negative."""

    def __init__(self, graph: Graph, name: str):
        self.graph, self.name = graph, name

    def node(self, operator: str, *inputs: Any, **attributes: Any) -> Value:
        """Append a node whose first input is this value; see `Graph.node`."""
        return self.graph.node(operator, self, *inputs, **attributes)

    __add__, __sub__, __mul__ = _operator("Add"), _operator("Sub"), _operator("Mul")
    __truediv__, __floordiv__, __mod__ = _operator("Div"), _operator("Div"), _operator("Mod")


def preprocessing_graph(size: int, fit: str, shrink: int, ir_version: int, opset: int) -> str:
    """Write the evaluation transform in ONNX's text format, `photo` to `images`, for `onnx.parser.parse_model`.

    Args:
        size: side of the square image, in pixels.
        fit: how photos become square: `crop`, `pad` or `squash`.
        shrink: short side in pixels that large photos are reduced to; 0 to leave them as they are.
        ir_version: version of the file format, that of the network to be merged with.
        opset: version of the operators, at least 18 for `antialias`.
    """
    graph = Graph()
    photo = Value(graph, "photo")
    sides = photo.node("Shape", end=1), photo.node("Shape", start=1, end=2)
    images = _planes(preprocess(OnnxImage(photo, *sides), size, fit, shrink).pixels)
    nodes = "\n".join(graph.lines)
    return f"""
<ir_version: {ir_version}, opset_import: ["": {opset}]>
preprocessing (uint8[H, W, 3] photo) => (uint8[1, 3, {size}, {size}] images)
{{
{nodes}
    images = Identity ({images.name})
}}"""


class OnnxImage:
    """An image in an ONNX graph.

    Args:
        pixels: image `(H, W, 3)`, uint8.
        sides: height and width: vectors of one int64, or numbers.
    """

    def __init__(self, pixels: Value, *sides: Any):
        self.pixels, self.graph, self.sides = pixels, pixels.graph, sides

    def least(self, first: Any, second: Any) -> Value:
        """Return the smaller of two numbers."""
        return self.graph.node("Min", first, second)

    def most(self, first: Any, second: Any) -> Value:
        """Return the larger of two numbers."""
        return self.graph.node("Max", first, second)

    def center(self, *parts: Any) -> OnnxImage:
        """Crop to the height and width in the middle."""
        pixels = self.pixels
        for axis, (whole, part) in enumerate(zip(self.sides, parts, strict=True)):
            start = center_start(whole, part)
            pixels = pixels.node("Slice", start, start + part, axis)
        return OnnxImage(pixels, *parts)

    def resized(self, height: Value, width: Value, kept: int | None = None) -> OnnxImage:
        """Resize as PyTorch does for uint8 (`upsample_avx_bilinear_bicubic_uint8`).

        Columns come first, then rows, and the values between are whole numbers, too.

        Args:
            height: height in pixels.
            width: width in pixels.
            kept: height and width in the middle that are kept; `None` for all.
        """
        pixels = self.pixels
        for side, perm in ((width, [1, 2, 0]), (height, [2, 0, 1])):
            start = 0 if kept is None else center_start(side, kept)
            end = side if kept is None else start + kept
            pixels = _rows_resized(pixels.node("Transpose", perm=perm), side, start, end)
        return OnnxImage(pixels, *((height, width) if kept is None else (kept, kept)))

    def reduced(self, height: Value, width: Value) -> OnnxImage:
        """Reduce with a cubic filter."""
        shape = self.graph.node("Concat", [1, 3], height, width, axis=0)
        resized = _planes(self.pixels).node("Resize", None, None, shape, **CUBIC)
        return OnnxImage(resized.node("Squeeze", 0).node("Transpose", perm=[1, 2, 0]), height, width)

    def reflected(self, side: Value) -> OnnxImage:
        """Pad to a square, reflected as often as needed: the photo and its reflection repeat with a fixed period."""
        numbers = self.graph.node(
            "Range", self.graph.node("Squeeze", 0), side.node("Squeeze"), self.graph.node("Squeeze", 1)
        )
        pixels = self.pixels
        for axis, given in enumerate(self.sides):
            period = given * 2 - 2
            wave = (numbers - (side - given) // 2) % period
            pixels = pixels.node("Gather", wave.node("Min", period - wave), axis=axis)
        return OnnxImage(pixels, side, side)


def _planes(pixels: Value) -> Value:
    """Turn `(H, W, 3)` into `(1, 3, H, W)`."""
    return pixels.node("Transpose", perm=[2, 0, 1]).node("Unsqueeze", 0)


def _rows_resized(image: Value, size: Value, start: Value | int, end: Value | int) -> Value:
    """Resize along the first axis, and keep `start` to `end` of it.

    Each value is the mean of the `rows` that a triangle reaches, `support` to both sides. The weights are integers of
    16 bits, divided by the largest of `POWERS` that fits all rows, kept or not. Only rows that have a weight are
    multiplied: with a matrix of all weights, photos of 12 megapixels took 4 times as long.
    """
    graph = image.graph
    given = image.node("Shape", end=1).node("Squeeze").node("Cast", to=DOUBLE)
    wanted = size.node("Squeeze").node("Cast", to=DOUBLE)
    scale = given / wanted
    support = scale.node("Max", 1.0)

    centers = graph.node("Range", 0.5, wanted, 1.0).node("Unsqueeze", 1) * scale
    lowest = (centers - support + 0.5).node("Floor").node("Max", 0.0)
    rows = lowest + graph.node("Range", 0.0, support.node("Ceil") * 2.0 + 1.0, 1.0)

    distance = (rows - centers + 0.5).node("Abs") * graph.node("Div", 1.0, support)
    triangle = graph.node("Sub", 1.0, distance).node("Relu")
    raw = graph.node("Where", rows.node("Less", given), triangle, 0.0)
    weights = raw / raw.node("ReduceSum", 1)

    fits = (graph.node("Mul", POWERS, weights.node("ReduceMax", keepdims=0))).node("Less", 32767.5)
    power = graph.node("Where", fits, POWERS, 0.0).node("ReduceMax", keepdims=0)
    fixed_point = (weights * power + 0.5).node("Floor") / power

    vectors = fixed_point.node("Slice", start, end, 0).node("Cast", to=FLOAT).node("Unsqueeze", 1)
    indices = rows.node("Min", given - 1.0).node("Slice", start, end, 0).node("Cast", to=INT64)
    pixels = image.node("Gather", indices, axis=0).node("Reshape", [0, 0, -1]).node("Cast", to=FLOAT)
    means = vectors.node("MatMul", pixels) + graph.node("Cast", 0.5, to=FLOAT)
    shape = graph.node("Concat", -1, image.node("Shape", start=1), axis=0)
    return means.node("Floor").node("Cast", to=UINT8).node("Reshape", shape)
