"""Pictures inside a page: files as data URLs, and figures as SVG that follows the page's colours."""

import base64
import io
import re
from pathlib import Path

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

KEPT = 60_000
"""PNG files up to this size, in bytes, are embedded as they are; larger ones, which show photos, as JPEG."""

WIDTH = 1600
"""Largest width of a JPEG, in pixels."""


def data_url(file: Path) -> Markup:
    """Return a PNG file as a data URL."""
    content, kind = file.read_bytes(), "png"
    if len(content) > KEPT:
        with Image.open(io.BytesIO(content)) as opened:
            picture = opened.convert("RGB")
        picture.thumbnail((WIDTH, 100 * WIDTH))
        buffer, kind = io.BytesIO(), "jpeg"
        picture.save(buffer, "JPEG", quality=80, optimize=True)
        content = buffer.getvalue()
    return Markup(f"data:image/{kind};base64,{base64.b64encode(content).decode()}")


def svg(figure: Figure, description: str) -> Markup:
    """Return a figure as an SVG element, black lines and text in the colour of the page's text.

    Args:
        figure: figure, without names that could be taken for code.
        description: what it shows, for those who cannot see it.
    """
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": description}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' id="[\w.]*_\d+"', "", text)  # the same in every figure
    text = text.replace("#000000", "currentColor").replace("fill: #ffffff", "fill: none")
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{Markup.escape(description)}"', 1))
