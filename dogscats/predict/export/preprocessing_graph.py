"""The evaluation transform of `export.preprocessing` as an ONNX graph.

Resizing is PyTorch's to the bit, apart from sums close to a half and the first reduction of large photos. ONNX's own
`Resize` has weights of more bits: up to a tenth of a photo's values differed by 1, and some networks' probabilities by
.02.
"""

from __future__ import annotations

import json
from typing import Any

from dogscats.data.pixels.images import LARGE
from dogscats.predict.export.preprocessing import ASPECT

FLOAT, UINT8, INT64, DOUBLE = 1, 2, 7, 11
"""Types of elements in ONNX."""

CUBIC = {"mode": "cubic", "cubic_coeff_a": -0.5, "antialias": 1, "exclude_outside": 1}
"""PyTorch's cubic filter with antialiasing. Pixels outside have no weight: otherwise the borders differ by up to 13 of
255."""

POWERS = [2.0**power for power in range(23)]
"""Factors that turn the weights of a resizing into integers."""


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


class Value:
    """A value in a graph; arithmetic appends nodes. Division of whole numbers rounds down: none are negative."""

    def __init__(self, graph: Graph, name: str):
        self.graph, self.name = graph, name

    def node(self, operator: str, *inputs: Any, **attributes: Any) -> Value:
        """Append a node whose first input is this value; see `Graph.node`."""
        return self.graph.node(operator, self, *inputs, **attributes)

    def __add__(self, other: Any) -> Value:
        return self.node("Add", other)

    def __sub__(self, other: Any) -> Value:
        return self.node("Sub", other)

    def __mul__(self, other: Any) -> Value:
        return self.node("Mul", other)

    def __truediv__(self, other: Any) -> Value:
        return self.node("Div", other)

    def __mod__(self, other: Any) -> Value:
        return self.node("Mod", other)


def preprocessing_graph(size: int, fit: str, shrink: int, ir_version: int, opset: int) -> str:
    """Write `Preprocessing` in ONNX's text format, `photo` to `images`, for `onnx.parser.parse_model`.

    In vectors of two the height comes first; images are `(H, W, 3)`.

    Args:
        size: side of the square image, in pixels.
        fit: how photos become square: `crop`, `pad` or `squash`.
        shrink: short side in pixels that large photos are reduced to; 0 to leave them as they are.
        ir_version: version of the file format, that of the network to be merged with.
        opset: version of the operators, at least 18 for `antialias`.
    """
    graph = Graph()
    image = Value(graph, "photo")
    pixels = image.node("Shape", end=2)
    if shrink:
        image, pixels = _reduced(image, pixels, shrink)
    kept = pixels.node("Min", _short(pixels) * ASPECT)
    image, pixels = image.node("Slice", *_center(pixels, kept), [0, 1]), kept
    if fit == "squash":
        side = _short(pixels).node("Min", 2 * size)
        pixels = side.node("Concat", side, axis=0)
        image = _resized(image, pixels, graph.node("Mul", pixels, 0), pixels)
    if fit == "pad":
        image, pixels = _padded(image, pixels, 2 * size)
    pixels = pixels * size / _short(pixels)
    image = _resized(image, pixels, *_center(pixels, size))
    images = image.node("Transpose", perm=[2, 0, 1]).node("Unsqueeze", 0)
    nodes = "\n".join(graph.lines)
    return f"""
<ir_version: {ir_version}, opset_import: ["": {opset}]>
preprocessing (uint8[H, W, 3] photo) => (uint8[1, 3, {size}, {size}] images)
{{
{nodes}
    images = Identity ({images.name})
}}"""


def _short(pixels: Value) -> Value:
    return pixels.node("ReduceMin", keepdims=1)


def _long(pixels: Value) -> Value:
    return pixels.node("ReduceMax", keepdims=1)


def _center(pixels: Value, kept: Value | int) -> tuple[Value, Value]:
    """Return start and end of the `kept` pixels in the middle."""
    gap = pixels - kept
    start = (gap + gap / 2 % 2) / 2
    return start, start + kept


def _reduced(photo: Value, pixels: Value, side: int) -> tuple[Value, Value]:
    """Return a photo whose short side is `side` if it is large, and its pixels; see `preprocessing._reduce`."""
    graph, short = photo.graph, _short(pixels)
    ratios = short / (2 * side), short * _long(pixels) / LARGE, short * ASPECT / _long(pixels)
    large = graph.node("Min", 1, *ratios)
    halved = [(short / (2 * power * side)).node("Min", 1) * power for power in (1, 2, 4)]
    more = (halved[0] + halved[1] + halved[2]) * large
    decoded_pixels = (pixels + more) / (more + 1)
    whole = photo.node("Transpose", perm=[2, 0, 1]).node("Unsqueeze", 0)
    decoded = whole.node("Resize", None, None, graph.node("Concat", [1, 3], decoded_pixels, axis=0), **CUBIC)
    target = (pixels * (2 * side) + short) / (short * 2)
    pixels = pixels + large * (target - pixels)
    reduced = decoded.node("Resize", None, None, graph.node("Concat", [1, 3], pixels, axis=0), **CUBIC)
    return reduced.node("Squeeze", 0).node("Transpose", perm=[1, 2, 0]), pixels


def _padded(image: Value, pixels: Value, most: int) -> tuple[Value, Value]:
    """Return a square of at most `most` pixels, padded with reflections, and its pixels."""
    graph, long = image.graph, _long(pixels)
    side = long.node("Min", most)
    reduced = pixels * side / long
    image = _resized(image, reduced, graph.node("Mul", reduced, 0), reduced)
    before = ((side - reduced) / 2).node("Unsqueeze", 1)
    numbers = graph.node("Range", graph.node("Squeeze", 0), side.node("Squeeze"), graph.node("Squeeze", 1))
    period = graph.node("Max", reduced * 2 - 2, 1).node("Unsqueeze", 1)
    wave = (numbers - before) % period
    reflected = wave.node("Min", period - wave)
    for axis in (0, 1):
        image = image.node("Gather", reflected.node("Gather", graph.node("Squeeze", axis), axis=0), axis=axis)
    return image, side.node("Concat", side, axis=0)


def _resized(image: Value, size: Value, start: Value, end: Value) -> Value:
    """Resize to `size` as PyTorch does for uint8 (`upsample_avx_bilinear_bicubic_uint8`), and keep `start` to `end`.

    Columns come first, then rows, and the values between are whole numbers, too.
    """
    for axis, perm in ((1, [1, 2, 0]), (0, [2, 0, 1])):
        wanted = [value.node("Slice", [axis], [axis + 1], [0]) for value in (size, start, end)]
        image = _rows_resized(image.node("Transpose", perm=perm), *wanted)
    return image


def _rows_resized(image: Value, size: Value, start: Value, end: Value) -> Value:
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
