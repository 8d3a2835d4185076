"""`photo.onnx` for the web: smaller, where that changes nothing to speak of, and checked by the browser's runtime."""

import copy
import json
import logging
import subprocess
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from dogscats.base.console import progress_bar
from dogscats.base.errors import UserError
from dogscats.predict.export.export import PHOTOS_TOLERANCE, Array, Predict, Reference, whole_photo
from dogscats.predict.export.onnx_files import needed, with_preprocessing
from dogscats.predict.export.web.web_runtime import SCRIPT, WASM

log = logging.getLogger(__name__)

LEAST_VALUES = 1000
"""Smaller tensors, such as biases, stay as they are: they take no room to speak of."""

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

    network, expected = onnx.load(file.with_name("model.onnx")), dict[int, Array]()
    for precision, bits in (("int8", 8), ("half", 16)):
        smaller = file.with_name(f"photo-{precision}.onnx")
        onnx.save(with_preprocessing(with_stored_weights(network, bits), {**metadata, "precision": precision}), smaller)
        largest = 0.0
        for index in progress_bar(reference.indices, f"Comparing {precision}", len(reference.indices), "photo"):
            photo = whole_photo(reference.photos, index)
            if index not in expected:
                expected[index] = outputs(file)(photo)
            largest = max(largest, np.abs(outputs(smaller)(photo) - expected[index]).max())
            if not largest <= PHOTOS_TOLERANCE:  # also for NaN
                break
        else:
            return smaller, f"{precision} weights, which change outputs by up to {largest:.2g}"
        log.info("%-11s not used: %s weights change outputs by %.2g and more", "photo.onnx", precision, largest)
    return file, "weights in full precision"


@lru_cache(maxsize=2)
def outputs(file: Path) -> Predict:
    """Return a function of a photo that computes all outputs of a file: `(C,)`, or `(C + 1,)` with `unlike`."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda photo: np.concatenate([np.atleast_1d(value) for value in session.run(None, {"photo": photo})])


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
    kept, nodes = [], []
    for tensor in graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        stored, node = None, None
        if values.dtype == np.float32 and values.size >= LEAST_VALUES:
            if bits == 8 and values.ndim > 1 and tensor.name not in distances:
                stored, node = _integers(values, tensor.name)
            else:
                stored, node = _halves(values, tensor.name)
        if node is None:
            kept.append(tensor)
        else:
            kept.extend(stored)
            nodes.append(node)
    del graph.initializer[:]
    graph.initializer.extend(kept)
    ordered = [*nodes, *graph.node]
    del graph.node[:]
    graph.node.extend(ordered)
    return network


def _halves(values: Array, name: str) -> tuple[list[Any], Any]:
    """Return a tensor in half precision and the node that restores it; `None` if it is not to be had so."""
    import onnx

    with np.errstate(over="ignore"):
        halves = values.astype(np.float16)
        error = np.linalg.norm(halves.astype(np.float32) - values) / max(np.linalg.norm(values), 1e-30)
    if not error <= MAX_ROUNDING:
        return [], None
    stored = onnx.numpy_helper.from_array(halves, f"{name}/half")
    return [stored], onnx.helper.make_node("Cast", [stored.name], [name], to=onnx.TensorProto.FLOAT)


def _integers(values: Array, name: str) -> tuple[list[Any], Any]:
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
    return stored, onnx.helper.make_node("DequantizeLinear", [each.name for each in stored], [name], axis=0)


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
        command = ["node", program, (runtime / SCRIPT).as_uri(), runtime / WASM, file]
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
