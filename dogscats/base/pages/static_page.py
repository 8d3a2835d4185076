"""A page in one file: what pages share and its own, allowed by their hashes, and data that cannot end an element."""

import base64
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

STYLE, SCRIPT = (Path(__file__).with_name(f"pages.{ending}") for ending in ("css", "js"))
"""What pages share: colours, cards, bars, thumbnails and keys; and the verdict of a photo."""


def static_page(
    template: Path,
    styles: Sequence[Path],
    scripts: Sequence[Path],
    policy: str,
    data: object,
    values: Mapping[str, str],
) -> str:
    """Put a page together from a template with `{{policy}}`, `{{style}}`, `{{script}}`, `{{data}}` and other names.

    Args:
        template: HTML file.
        styles: the page's own style sheets; the shared one comes first.
        scripts: the page's own scripts; the shared one comes first.
        policy: directives of the Content-Security-Policy; `{script}` and `{style}` stand for the hashes.
        data: what the scripts read, as JSON.
        values: HTML by further names.
    """
    style, script = (
        "".join(file.read_text(encoding="utf-8") for file in (shared, *own))
        for shared, own in ((STYLE, styles), (SCRIPT, scripts))
    )
    texts = {
        "policy": policy.format(style=source_hash(style), script=source_hash(script)),
        "style": style,
        "script": script,
        "data": embedded_json(data),
        **values,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: texts[found[1]], template.read_text(encoding="utf-8"))


def embedded_json(value: object) -> str:
    """Return JSON in ASCII that can stand in an HTML element: nothing in it ends the element."""
    return re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, separators=(",", ":")))


def source_hash(text: str) -> str:
    """Return the source by which a Content-Security-Policy allows a script or style, and no other."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def image_url(content: bytes, kind: str) -> str:
    """Return an image as a data URL.

    Args:
        content: content of its file.
        kind: its format, such as `png`.
    """
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def jpeg_url(picture: Image.Image, quality: int, **options: Any) -> str:
    """Return a picture as a JPEG in a data URL; `options` are those of Pillow."""
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=quality, **options)
    return image_url(content.getvalue(), "jpeg")
