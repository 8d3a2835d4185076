"""`space/`: a folder that is a Hugging Face Space, a page to try the classifier without PyTorch."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import nn

from dogscats.base.files import write_text
from dogscats.base.text import listed
from dogscats.predict.export.export import Difference, Reference
from dogscats.predict.export.onnx_files import SCRIPT, export_onnx

GRADIO = "6.31.0"
"""Version of Gradio that the Space runs with: the lowest one of the extra `demo`."""

REQUIREMENTS = f"""\
gradio>={GRADIO}
numpy>=1.26
onnxruntime>=1.20
pillow>=10.1
"""

README = """\
---
title: {title}
sdk: gradio
sdk_version: {gradio}
app_file: app.py
pinned: false
---

A page to try a classifier of photos, `photo.onnx`. Photos are not kept.

On your own machine: `pip install -r requirements.txt`, then `python app.py`.
"""

PAGE = Path(__file__).parent.parent / "demo"


def export_space(
    network: nn.Module, metadata: Mapping[str, str], folder: Path, reference: Reference
) -> Iterator[tuple[str, Difference]]:
    """Write `space/` with `app.py`, `photo.onnx`, the page of `python -m dogscats.demo`, and what a Space needs.

    Args:
        network: network from squares to probabilities.
        metadata: as in `export_onnx`.
        folder: folder for `space/`.
        reference: photos for the comparison.

    Yields:
        `photo.onnx` and its difference from PyTorch.

    Raises:
        UserError: as `export_onnx` does.
    """
    space = folder / "space"
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".onnx-", dir=folder) as scratch:
        differences = dict(export_onnx(network, metadata, Path(scratch), reference))
        space.mkdir(exist_ok=True)  # no empty folder is left if the export is refused
        for name in ("photo.onnx", SCRIPT):
            (Path(scratch) / name).replace(space / name)
    for name, source in {
        "app.py": Path(__file__).with_name("space_app.py"),
        "page.py": PAGE / "demo_page.py",
        "page.css": PAGE / "demo_page.css",
    }.items():
        write_text(space / name, source.read_text(encoding="utf-8"))
    title = json.dumps(f"Photos of {listed(json.loads(metadata['classes']), 5)}", ensure_ascii=False)  # JSON is YAML
    write_text(space / "README.md", README.format(title=title, gradio=GRADIO))
    write_text(space / "requirements.txt", REQUIREMENTS)
    yield "photo.onnx", differences["photo.onnx"]
