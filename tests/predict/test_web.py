"""The page that runs a classifier in the visitor's browser: its files, its runtime and its model."""

import base64
import gzip
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run, TinyNetwork

from dogscats import Classifier, Predictor
from dogscats.base.errors import UserError
from dogscats.base.files import cannot_write, read_json, write_json
from dogscats.base.pages.static_page import SCRIPT, STYLE
from dogscats.data.photos import download
from dogscats.lesson.backbone import Backbone
from dogscats.predict.export.export import export_files
from dogscats.predict.export.onnx_files import onnx_predict
from dogscats.predict.export.web import web_runtime
from dogscats.predict.export.web.web_export import ONE_FILE
from dogscats.predict.export.web.web_model import check_operators, unsupported, with_stored_weights
from dogscats.predict.export.web.web_runtime import SHA256, find_runtime

CLASSES = ["</script><b>", "$5 ${x} {{y}}", "קוף"]

SITE = {"index.html", "photo.onnx", "README.md", "LICENSE", "LICENSE-onnxruntime", *SHA256}


def predictor_of(classes: list[str]) -> Predictor:
    torch.manual_seed(0)
    model = Classifier(Backbone(TinyNetwork(), last_early="first", channels=8), classes=classes)
    return Predictor(model, 32, trained_on={"fit": "crop", "shrink": "auto"})


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of files that stand in for the runtime's."""
    (folder := tmp_path / "runtime").mkdir()
    for name in SHA256:
        (folder / name).write_text(f"{name} </script>")
        monkeypatch.setitem(SHA256, name, hashlib.sha256((folder / name).read_bytes()).hexdigest())
    return folder


@pytest.fixture
def no_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))


def hashes(page: str, tag: str) -> set[str]:
    texts = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    return {f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}" for text in texts}


def test_the_files_of_the_page(runtime: Path, no_node: None, tmp_path: Path, caplog: Any, finished: Path) -> None:
    pytest.importorskip("onnxscript")
    with caplog.at_level("INFO"):
        export_files("web", predictor_of(CLASSES), tmp_path / "out", None, run_dir=finished, runtime=str(runtime))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"web", "classifier.html"}
    assert {path.name for path in (tmp_path / "out" / "web").iterdir()} == SITE
    assert "half weights, which change outputs by up to" in caplog.text
    assert "its operators are those of the browser's runtime" in caplog.text
    index, one_file = ((tmp_path / "out" / name).read_text() for name in ("web/index.html", "classifier.html"))
    assert len(index.encode()) < 40_000
    for page, address in ((index, "'self'"), (one_file, "'none'")):
        (policy,) = re.findall('Content-Security-Policy" content="(.*?)"', page)
        assert policy.startswith("default-src 'none'; ")
        assert f"connect-src {address};" in policy
        assert hashes(page, "script") | hashes(page, "style") == set(re.findall("'(sha256-.*?)'", policy))
        assert not re.search("https?://", page.replace("http://www.w3.org", ""))
        data = json.loads(re.findall('id="data">(.*?)</script>', page)[0])
        assert data["classes"] == CLASSES
        assert data["model"] == "test_resnet"
        assert re.match(
            r"Accuracy [\d.]+ % \(95 % interval [\d.]+ to [\d.]+ %\) on 10 validation photos", data["accuracy"]
        )
        assert any("photos from elsewhere" in text for text in data["limitations"])
        assert str(tmp_path) not in page
        assert str(finished) not in page
    assert page.count("</script><b>") == 0
    packed = re.findall('id="part-model">(.*?)</script>', one_file)[0]
    assert gzip.decompress(base64.b64decode(packed)) == (tmp_path / "out" / "web" / "photo.onnx").read_bytes()
    front = (tmp_path / "out" / "web" / "README.md").read_text().split("---\n")[1]
    settings = dict(line.split(": ", 1) for line in front.splitlines())
    assert json.loads(settings.pop("title")) == f"Photos of {', '.join(CLASSES)}"
    assert settings == {"sdk": "static", "pinned": "false"}


def test_style_and_script_that_pages_share_are_small() -> None:
    assert len(STYLE.read_bytes() + SCRIPT.read_bytes()) < 25_000


def test_nothing_is_left_of_an_export_that_is_refused(
    runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript")
    (folder := tmp_path / "bin").mkdir()
    (folder / "node").write_text("""#!/bin/sh\necho '{"error": "Could not find an implementation for Fancy(18)"}'\n""")
    (folder / "node").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")
    with pytest.raises(UserError, match=r"the browser's runtime cannot run this network: .* Fancy\(18\)"):
        export_files("web", predictor_of(["a", "b"]), tmp_path / "out", None, runtime=str(runtime))
    assert not list((tmp_path / "out").iterdir())


def test_nothing_is_left_if_the_disk_is_full(
    runtime: Path, no_node: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript")

    def full(path: Path, text: str) -> None:
        if path.name == ONE_FILE:
            raise cannot_write(path, "No space left on device")

    monkeypatch.setattr("dogscats.predict.export.web.web_export.write_text", full)
    with pytest.raises(UserError, match=r"classifier.html: it cannot be written \(No space left"):
        export_files("web", predictor_of(["a", "b"]), tmp_path / "out", None, runtime=str(runtime))
    assert not list((tmp_path / "out").iterdir())


def model_of(text: str) -> Any:
    onnx = pytest.importorskip("onnx")
    opsets = 'opset_import: ["": 18, "com.mine": 1, "local": 1]'
    return onnx.parser.parse_model(
        f"<ir_version: 8, {opsets}> g (float[2, 3] images) => (float[2, 3] out) {{ {text} }}"
    )


def test_operators_that_the_runtime_lacks_are_named(no_node: None, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    fine, odd = model_of("out = Relu (images)"), model_of("out = com.mine.Fancy (images)")
    assert list(unsupported(fine)) == []
    assert list(unsupported(odd)) == ["com.mine.Fancy"]
    odd.functions.append(onnx.helper.make_function("com.mine", "Fancy", ["a"], ["b"], [], []))
    assert list(unsupported(odd)) == []
    nested = (
        "<then_branch = t () => (float[2, 3] a) { a = ImageDecoder (images) }, else_branch = e () => (float[2, 3] b) "
    )
    choice = model_of(f"yes = Constant <value = bool {{1}}> () out = If {nested}{{ b = Relu (images) }}> (yes)")
    assert list(unsupported(choice)) == ["ImageDecoder"]
    onnx.save(model_of("out = com.mine.Fancy (images)"), tmp_path / "photo.onnx")
    with pytest.raises(UserError, match=r"photo.onnx: .* cannot run this network: com\.mine\.Fancy\."):
        check_operators(tmp_path / "photo.onnx", tmp_path)


def test_weights_of_fewer_bits_are_turned_into_floats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dogscats.predict.export.web.web_model.LEAST_VALUES", 1000)
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    model = model_of("out = MatMul (images, w) unlike = MatMul (images, distances)")
    model.graph.node[0].name, model.graph.node[1].name = "first", "second"
    model.graph.output[0].name = model.graph.node[0].output[0] = "probabilities"
    model.graph.output.append(onnx.helper.make_tensor_value_info("unlike", 1, [2, 999]))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 999
    for name, scale in (("w", 1), ("distances", 1), ("huge", 1e6)):
        values = (scale * rng.standard_normal((3, 999))).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    onnx.save(model, tmp_path / "full.onnx")
    images = rng.standard_normal((2, 3)).astype(np.float32)
    types = {}
    for bits, tolerance in ((16, 5e-3), (8, 0.1)):
        smaller = with_stored_weights(model, bits)
        types[bits] = {tensor.name: tensor.data_type for tensor in smaller.graph.initializer}
        onnx.save(smaller, tmp_path / f"{bits}.onnx")
        for output in ("probabilities", "unlike"):
            found, exact = (onnx_predict(tmp_path / f"{name}.onnx", output)(images) for name in (bits, "full"))
            assert 0 < np.abs(found - exact).max() < tolerance
    half, int8, full = onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8, onnx.TensorProto.FLOAT
    assert types[16] == {"w/half": half, "distances/half": half, "huge": full}
    assert types[8] == {"w/int8": int8, "w/scale": full, "distances/half": half, "huge/int8": int8, "huge/scale": full}


def test_the_runtime_is_taken_from_the_folder_that_is_given(runtime: Path, tmp_path: Path) -> None:
    assert find_runtime(str(runtime)) == runtime
    with pytest.raises(UserError, match=r"^web.runtime=.*empty: there is no ort\.wasm.* npm install onnxruntime-web@"):
        find_runtime(str(tmp_path / "empty"))
    (runtime / web_runtime.WASM).write_text("another version")
    with pytest.raises(UserError, match=r"^web.runtime=.*: ort-wasm.* is not that of version .* npm install"):
        find_runtime(str(runtime))


@pytest.fixture
def served(runtime: Path) -> Iterator[str]:
    """Address of a server of the runtime's files."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=runtime)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_runtime_is_downloaded_once(
    runtime: Path, served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(web_runtime, "ADDRESS", served)
    folder = find_runtime(None)
    assert folder.parent == tmp_path / "cache" / "dogscats"
    assert {path.name for path in folder.iterdir()} == {*SHA256}
    (runtime / web_runtime.WASM).write_text("changed on the way")
    assert find_runtime(None) == folder
    (folder / web_runtime.WASM).write_text("damaged")
    with pytest.raises(UserError, match=r"its SHA-256 is .*, not the expected one\. Run npm install"):
        find_runtime(None)


def test_without_network_one_message_says_how_to_get_the_runtime(
    runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(web_runtime, "ADDRESS", "http://127.0.0.1:9")
    monkeypatch.setattr(download, "PAUSE", 0)
    message = r"cannot be downloaded \(.*\)\.\nRun npm install onnxruntime-web@[\d.]+ .*web\.runtime=node_modules"
    with pytest.raises(UserError, match=message):
        find_runtime(None)


def test_a_space_is_the_same_folder_also_of_a_run_with_damaged_metrics(
    runtime: Path, no_node: None, tmp_path: Path, finished: Path
) -> None:
    pytest.importorskip("onnxscript")
    (run := tmp_path / "run").mkdir()
    (run / "config.yaml").write_text((finished / "config.yaml").read_text())
    write_json(run / "metrics.json", {"classes": read_json(finished / "metrics.json")["classes"]})
    export_files("space", predictor_of(["a", "b"]), tmp_path / "out", None, run_dir=run, runtime=str(runtime))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["space"]
    assert {path.name for path in (tmp_path / "out" / "space").iterdir()} == SITE
    assert '"accuracy":""' in (tmp_path / "out" / "space" / "index.html").read_text()


def test_a_runtime_without_a_page_is_refused(run_command: Run) -> None:
    for export in ([], ["export=onnx"]):
        result = run_command("evaluate.py", "run=nowhere", "web.runtime=dist", *export)
        assert result.stderr == "error: web.runtime=dist: this needs export=web or export=space.\n"
