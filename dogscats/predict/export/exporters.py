"""The formats of exported files: a table, which `export=`, its help, its errors and the table in docs/ are made from.

Nothing here imports torch, which takes seconds: wrong settings are refused before. A further format is a row, and a
module with the function that writes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Exporter:
    """A format, one value of `export=`.

    Attributes:
        function: ``module:name`` of the function that writes the files. It is given the network from squares to
            probabilities, the metadata of `onnx_files.export_onnx`, the folder, and a `Reference` that each file is
            compared with before it is kept; it yields the name of each file, and what to print about the comparison.
        help: what is written, in one line.
        files: files, and what they take as input: the rows of that table.
        extra: extra of this project whose packages are needed; see `PACKAGES`.
        needs_photos: whether labelled photos are needed; otherwise random ones are also supported.
        is_page: whether the function also takes `run_dir`, the run that the page describes, and `runtime`, the setting
            `web.runtime`.
    """

    function: str
    help: str
    files: Sequence[tuple[str, str]]
    extra: str = ""
    needs_photos: bool = False
    is_page: bool = False


PACKAGES = {"": (), "onnx": ("onnx", "onnxruntime", "onnxscript")}
"""Packages of each extra; `torch.onnx.export` works with onnxscript."""

EXPORTERS = {
    "onnx": Exporter(
        "dogscats.predict.export.onnx_files:export_onnx",
        "photo.onnx, model.onnx, and a script that needs no torch",
        files=[
            ("`photo.onnx`, `predict_onnx.py`", "one photo `(H, W, 3)`, upright"),
            ("`model.onnx`", "`images` `(N, 3, size, size)`, resized and cropped"),
        ],
        extra="onnx",
    ),
    "onnx-int8": Exporter(
        "dogscats.predict.export.onnx_files:export_int8",
        "the same, also with 8-bit integers",
        files=[("the same, and `photo-int8.onnx`, `model-int8.onnx`", "")],
        extra="onnx",
        needs_photos=True,
    ),
    "torch": Exporter(
        "dogscats.predict.export.torch_files:export_torch",
        "photo.pt2, model.pt2, which need torch alone",
        files=[
            ("`photo.pt2`, `model.pt2`", '`torch.export.load("photo.pt2").module()(photo)` needs torch alone'),
        ],
    ),
    "web": Exporter(
        "dogscats.predict.export.web.web_export:export_web",
        "web/ and classifier.html, a page that runs in the browser",
        files=[("`web/`, `classifier.html`", "a static page that runs in the visitor's browser; the same in one file")],
        extra="onnx",
        is_page=True,
    ),
    "space": Exporter(
        "dogscats.predict.export.web.web_export:export_space",
        "space/, the same page for Hugging Face",
        files=[("`space/`", "the same page, for a static Hugging Face Space")],
        extra="onnx",
        is_page=True,
    ),
}
"""Formats by the value of `export=`."""


def export_help() -> str:
    """Return the lines of `python evaluate.py --help` about the formats, one each."""
    return "\n".join(f"python evaluate.py run=<run> {'export=' + key:<24} {row.help}" for key, row in EXPORTERS.items())
