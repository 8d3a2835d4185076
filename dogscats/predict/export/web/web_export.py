"""`web/`, a static page that runs the classifier in the visitor's browser, and `classifier.html`, all in one file."""

import base64
import gzip
import html
import json
import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from dogscats.base.errors import optional
from dogscats.base.files import atomic_path, write_text
from dogscats.base.pages.static_page import embedded_json, static_page
from dogscats.base.text import listed, shown
from dogscats.predict.export.export import Reference
from dogscats.predict.export.onnx_files import export_onnx
from dogscats.predict.export.web.web_model import check_operators, smallest
from dogscats.predict.export.web.web_runtime import SCRIPT, VERSION, WASM, find_runtime
from dogscats.report.facts import Facts

FOLDER = Path(__file__).parent

ONE_FILE = "classifier.html"

MODEL = "photo.onnx"

POLICY = (
    "default-src 'none'; script-src '{script}' 'wasm-unsafe-eval'; style-src '{style}'; img-src blob: data:; "
    "worker-src blob:; connect-src %s; base-uri 'none'; form-action 'none'"
)
"""Content-Security-Policy, with the source of further files: the page neither loads nor sends anything elsewhere."""

MIT = (FOLDER / "mit_license.txt").read_text(encoding="utf-8")

LICENSE_NOTE = """\
The page, index.html, is part of dogscats and under the MIT License. The licence of photo.onnx, the classifier, is for
whoever publishes it to choose: it depends on the pretrained weights and on the photos that it was trained on.

"""

README = """\
---
title: {title}
sdk: static
pinned: false
---

A page that classifies photos in the visitor's browser. Photos are not uploaded: they never leave the visitor's device.

These files are a static site as they are: `photo.onnx`, the classifier; `ort.wasm.bundle.min.mjs` and
`ort-wasm-simd-threaded.wasm`, ONNX Runtime Web {version}; and the page, `index.html`. To try them, run
`python -m http.server` in this folder and open http://localhost:8000.

A Hugging Face Space (make a new one with the SDK "Static" first):

    pip install huggingface_hub
    hf auth login
    hf upload <user>/<space> . --repo-type=space

GitHub Pages (make a new repository first; afterwards: Settings, Pages, Deploy from a branch, main):

    git init -b main && git add . && git commit -m "Classifier"
    git remote add origin https://github.com/<user>/<repository>.git
    git push -u origin main

A web server of your own:

    scp -r . <user>@<server>:/var/www/html/classifier
    ssh <user>@<server> chmod -R a+rX /var/www/html/classifier
    curl -I https://<server>/classifier/photo.onnx
"""


def export_web(
    network: nn.Module,
    metadata: Mapping[str, str],
    folder: Path,
    reference: Reference,
    run_dir: Path | None = None,
    runtime: str | None = None,
    name: str = "web",
) -> Iterator[tuple[str, object]]:
    """Write `web/` and `classifier.html`.

    Args:
        network: network from squares to probabilities.
        metadata: as in `export_onnx`.
        folder: folder for the files.
        reference: photos for the comparison.
        run_dir: directory of the run, whose accuracy the page shows; `None` without one.
        runtime: folder of the runtime's files; `None` to look in the user's cache, or download them.
        name: name of the static site's folder; `classifier.html` belongs to `web` alone.

    Yields:
        Name of each file, and its comparison or size.

    Raises:
        UserError: as `export_onnx` does, without the runtime, or if the runtime cannot run the network.
    """
    found, site, files = find_runtime(runtime), folder / name, dict[Path, Path]()
    folder.mkdir(parents=True, exist_ok=True)
    # All of it is written before anything is moved to its place, so a full disk leaves no part of a page.
    with TemporaryDirectory(prefix=".web-", dir=folder) as scratch:
        built, full = Path(scratch) / name, Path(scratch) / MODEL
        difference = dict(export_onnx(network, metadata, Path(scratch), reference))[MODEL]
        yield MODEL, difference
        model, precision = smallest(full, reference, metadata)
        yield "", f"{precision}; {check_operators(model, found)}"
        built.mkdir()
        for file, source in ((MODEL, model), (SCRIPT, found / SCRIPT), (WASM, found / WASM)):
            with atomic_path(built / file) as temporary:
                shutil.copyfile(source, temporary)
        facts, title = page_facts(metadata, run_dir), shown(f"Photos of {listed(json.loads(metadata['classes']), 5)}")
        sizes = [(file, (built / file).stat().st_size) for file in (SCRIPT, WASM, MODEL)]
        texts = {
            "index.html": page(title, {**facts, "files": sizes}, "'self'"),
            "README.md": README.format(title=json.dumps(title, ensure_ascii=False), version=VERSION),  # JSON is YAML
            "LICENSE": LICENSE_NOTE + MIT.format(holder="The dogscats authors"),
            "LICENSE-onnxruntime": MIT.format(holder="Microsoft Corporation"),
        }
        for file, text in texts.items():
            write_text(built / file, text)
        files = {site / path.name: path for path in sorted(built.iterdir())}
        if name == "web":
            write_text(Path(scratch) / ONE_FILE, page(title, {**facts, "files": []}, "'none'", built))
            files[folder / ONE_FILE] = Path(scratch) / ONE_FILE
        site.mkdir(exist_ok=True)
        for target, source in files.items():
            source.replace(target)
    for target in files:
        more = ", all in one file: names of classes, but no photos and no paths" if target.name == ONE_FILE else ""
        yield target.relative_to(folder).as_posix(), f"{target.stat().st_size / 1e6:.3f} MB{more}"


export_space = partial(export_web, name="space")
"""Writes `space/`, the same folder."""


def page(title: str, data: Mapping[str, Any], address: str, embedded: Path | None = None) -> str:
    """Make the page.

    Args:
        title: title of the page.
        data: what its script reads.
        address: source of further files, for the Content-Security-Policy.
        embedded: folder of files to put into the page; `None` for a page that loads them.
    """
    parts = ""
    if embedded:
        texts = {"runtime": embedded_json((embedded / SCRIPT).read_text(encoding="utf-8"))}
        texts |= {name: _packed(embedded / file) for name, file in (("wasm", WASM), ("model", MODEL))}
        parts = "".join(f'<script type="text/plain" id="part-{name}">{text}</script>\n' for name, text in texts.items())
    worker = (FOLDER / "worker.js").read_text(encoding="utf-8")
    return static_page(
        FOLDER / "classifier.html",
        [FOLDER / "classifier.css"],
        [FOLDER / "classifier.js"],
        POLICY % address,
        data,
        {"title": html.escape(title), "worker": worker, "parts": parts},
    )


def _packed(file: Path) -> str:
    """Return a file as base64 of gzip."""
    return base64.b64encode(gzip.compress(file.read_bytes(), mtime=0)).decode()


def page_facts(metadata: Mapping[str, str], run_dir: Path | None) -> dict[str, Any]:
    """Return what the page says about the classifier; what the run directory lacks is left out."""
    classes, thresholds, something_else = json.loads(metadata["classes"]), None, "Every photo is assigned a class"
    if "none_above" in metadata:
        thresholds = {name: float(metadata[name]) for name in ("unsure_below", "none_above")}
        something_else = "A photo may be assigned a class"
    found: dict[str, Any] = {"classes": classes, "thresholds": thresholds, "model": "", "accuracy": ""}
    limitations = [f"{something_else} even if it shows something else."]
    if run_dir and all((run_dir / name).is_file() for name in ("config.yaml", "metrics.json")):
        with optional("What the page says of the run", "read"):
            facts = Facts(run_dir)
            found["model"] = facts.model_name
            limitations += facts.limitations
            for result in facts.results:
                if result.split == "valid" and not result.tta:
                    shares = (f"{100 * (share or 0):.1f}" for share in (result.values["acc"], *result.interval))
                    found["accuracy"] = (
                        "Accuracy {} % (95 % interval {} to {} %)".format(*shares)
                        + f" on {result.n} validation photos."
                    )
    return {**found, "limitations": limitations}
