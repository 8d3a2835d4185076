"""`photo.onnx` for the web: smaller, where that changes nothing to speak of, and checked by the browser's runtime."""

import copy
import json
import logging
import subprocess
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from dogscats.base.console import progress_bar
from dogscats.base.errors import UserError
from dogscats.predict.export.export import PHOTOS_TOLERANCE, Reference, whole_photo
from dogscats.predict.export.onnx_files import needed, with_preprocessing
from dogscats.predict.export.web.web_runtime import SCRIPT, WASM

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]

LEAST_VALUES = 20_000
"""Smaller tensors, such as biases and depthwise convolutions, stay as they are. That makes EfficientNet-Lite0 with a
kernel head 2 % larger; half precision then changes outputs by .004 instead of .013 (digits), .001 instead of .0025
(waste)."""

MAX_ROUNDING = 1e-3
"""Largest relative error (RMS) of a tensor in half precision; others, whose numbers are too large or small, stay."""

UNSUPPORTED = {"ImageDecoder"}
"""Operators of ONNX that the runtime lacks, of those up to opset 21: it was asked for each of them."""

NODE_SECONDS = 300
"""Time limit for running the network in Node."""

NODE_PROGRAM = """
import {readFileSync} from "node:fs";
const [script, wasm, model] = process.argv.slice(2);
const ort = await import(script);
Object.assign(ort.env.wasm, {numThreads: 1, wasmBinary: readFileSync(wasm)});
ort.env.logLevel = "fatal";
try {
  const session = await ort.InferenceSession.create(new Uint8Array(readFileSync(model)));
  const photo = new ort.Tensor("uint8", new Uint8Array(90 * 70 * 3).fill(128), [90, 70, 3]);
  const {probabilities} = await session.run({photo});
  console.log(JSON.stringify({probabilities: [...probabilities.data]}));
} catch (error) {
  console.log(JSON.stringify({error: String(error.message ?? error)}));
}
process.exit(0);
"""
"""Runs a model on a grey photo in Node, with the files of the runtime."""


def smallest(file: Path, reference: Reference, metadata: Mapping[str, str]) -> tuple[Path, str]:
    """Choose the smallest of 8-bit integers, half precision and full precision that predicts alike.

    Only how weights are stored differs: the runtime turns them into floats.

    Args:
        file: `photo.onnx` in full precision, with `model.onnx` beside it.
        reference: photos to compare by.
        metadata: metadata of the file.

    Returns:
        The chosen file, and how it was chosen, in words.
    """
    import onnx

    network, exact = onnx.load(file.with_name("model.onnx")), cache(outputs(file, reference))
    # `unlike` of drawn photos is close to 1, whatever the weights: that is no comparison for integers.
    for precision, bits in (("int8", 8), ("half", 16))[0 if reference.photos.labels else 1 :]:
        smaller = file.with_name(f"photo-{precision}.onnx")
        onnx.save(with_preprocessing(with_stored_weights(network, bits), {**metadata, "precision": precision}), smaller)
        predict, largest = outputs(smaller, reference), 0.0
        for index in progress_bar(reference.indices, f"Comparing {precision}", len(reference.indices), "photo"):
            difference = float(np.abs(predict(index) - exact(index)).max())
            largest = max(largest, difference)
            if not difference <= PHOTOS_TOLERANCE:  # also for NaN
                break
        else:
            return smaller, f"{precision} weights, which change outputs by up to {largest:.2g}"
        log.info("%-11s not used: %s weights change outputs by %.2g and more", "photo.onnx", precision, largest)
    return file, "weights in full precision"


def outputs(file: Path, reference: Reference) -> Callable[[int], Floats]:
    """Return a function of a photo's index that computes all outputs of a file: `(C,)`, or `(C + 1,)` with `unlike`."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def predict(index: int) -> Floats:
        found = session.run(None, {"photo": whole_photo(reference.photos, index)})
        return np.concatenate([np.atleast_1d(value) for value in found])

    return predict


def with_stored_weights(network: Any, bits: int) -> Any:
    """Return an exported network whose large weights are stored with fewer bits, and turned into floats when it is run.

    Args:
        network: `onnx.ModelProto` from `images` to `probabilities`; not modified.
        bits: 16 for half precision; 8 for integers with a scale for each row, where `probabilities` alone need them,
            and half precision elsewhere: distances in `unlike` need it.
    """
    import onnx

    network = copy.deepcopy(network)
    graph = network.graph
    judging = needed(graph.node, "unlike") - needed(graph.node, "probabilities")
    distances = {name for node in graph.node if node.name in judging for name in node.input}
    tensors, nodes = [], []
    for tensor in graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < LEAST_VALUES:
            tensors.append(tensor)
            continue
        integers = bits == 8 and values.ndim > 1 and tensor.name not in distances
        stored, restoring = (_integers if integers else _halves)(values, tensor.name)
        tensors += stored or [tensor]
        nodes += restoring
    nodes += graph.node
    for field, content in ((graph.initializer, tensors), (graph.node, nodes)):
        del field[:]
        field.extend(content)
    return network


def _halves(values: Floats, name: str) -> tuple[list[Any], list[Any]]:
    """Return a tensor in half precision and the node that restores it; nothing if that loses too much."""
    import onnx

    with np.errstate(over="ignore"):
        halves = values.astype(np.float16)
        error, size = (float(np.linalg.norm(part)) for part in (halves.astype(np.float32) - values, values))
    if not error <= MAX_ROUNDING * size:
        return [], []
    stored = onnx.numpy_helper.from_array(halves, f"{name}/half")
    return [stored], [onnx.helper.make_node("Cast", [stored.name], [name], to=onnx.TensorProto.FLOAT)]


def _integers(values: Floats, name: str) -> tuple[list[Any], list[Any]]:
    """Return a tensor in 8-bit integers with a scale for each row of its first axis, and the node that restores it."""
    import onnx

    most = np.abs(values).max(axis=tuple(range(1, values.ndim)))
    scales = np.maximum(most / 127, 1e-30).astype(np.float32)
    shape = (-1, *(1 for _ in values.shape[1:]))
    integers = np.rint(values / scales.reshape(shape)).astype(np.int8)
    stored = [
        onnx.numpy_helper.from_array(integers, f"{name}/int8"),
        onnx.numpy_helper.from_array(scales, f"{name}/scale"),
    ]
    return stored, [onnx.helper.make_node("DequantizeLinear", [each.name for each in stored], [name], axis=0)]


def check_operators(file: Path, runtime: Path) -> str:
    """Check that the browser's runtime can run a file: by running it in Node, or else by its operators.

    Returns:
        How it was checked, in words.

    Raises:
        UserError: if it cannot, naming the operator.
    """
    import onnx

    reason, how = None, "run by the browser's runtime in Node"
    try:
        reason = error_in_node(file, runtime)
    except (OSError, subprocess.SubprocessError, ValueError, LookupError):  # no Node, or an old one
        reason, how = next(unsupported(onnx.load(file)), None), "its operators are those of the browser's runtime"
    if reason is not None:
        raise UserError(f"{file.name}: the browser's runtime cannot run this network: {reason}. Use export=onnx.")
    return how


def error_in_node(file: Path, runtime: Path) -> str | None:
    """Run a file in Node with the runtime's files; return the error, which names the operator, or `None`.

    Raises:
        Exception: if there is no Node, or it cannot run the program.
    """
    with TemporaryDirectory() as scratch:
        program = Path(scratch) / "run.mjs"
        program.write_text(NODE_PROGRAM, encoding="utf-8")
        command = ["node", str(program), (runtime / SCRIPT).as_uri(), str(runtime / WASM), str(file)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=NODE_SECONDS, check=False)
    found = json.loads(result.stdout.splitlines()[-1])
    return str(found["error"]).splitlines()[0] if "error" in found else None


def unsupported(model: Any) -> Iterator[str]:
    """Yield the operators of a model that the runtime lacks, with their domain unless it is ONNX's own."""
    own = {(function.domain, function.name) for function in model.functions}

    def walk(nodes: Any) -> Iterator[str]:
        for node in nodes:
            if (node.domain, node.op_type) not in own:
                if node.domain not in ("", "ai.onnx"):
                    yield f"{node.domain}.{node.op_type}"
                elif node.op_type in UNSUPPORTED:
                    yield node.op_type
            for attribute in node.attribute:
                yield from walk(attribute.g.node)
                for graph in attribute.graphs:
                    yield from walk(graph.node)

    for part in (model.graph, *model.functions):
        yield from walk(part.node)
