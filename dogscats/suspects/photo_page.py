"""A page of photos to decide about: one HTML file with thumbnails, which needs no network.

`photo_page.js` and `.css` have what such pages share: cards in a grid, keys, full size, undo, and what is remembered.
"""

import hashlib
import html
import io
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dogscats.base.console import in_threads
from dogscats.base.errors import Failure
from dogscats.base.files import atomic_path, cell
from dogscats.base.pages.static_page import embedded_json, jpeg_url, static_page
from dogscats.base.text import counted, shown
from dogscats.data.pixels.images import UnreadableImageError, thumbnail

log = logging.getLogger(__name__)

STYLE, SCRIPT = (Path(__file__).with_suffix(f".{ending}") for ending in ("css", "js"))

POLICY = (
    "default-src 'none'; img-src data: file:; script-src '{script}'; style-src '{style}'; base-uri 'none'; "
    "form-action 'none'"
)

PHOTOS = "<photos>"
"""Stands for the photos, which are written one by one; no text of the page has it, as `<` is escaped in names."""

SIDE = 200
"""Longest side of a photo on the page, in pixels."""


def write_photo_page(
    template: Path, file: Path, title: str, root: Path, paths: Sequence[str], content: Mapping[str, Any]
) -> None:
    """Write a page. Its script finds the photos as `photos`, and remembers decisions by `key`.

    Args:
        template: HTML of the page, with its style sheet and script beside it.
        file: HTML file to write.
        title: title of the page.
        root: folder that `paths` are relative to.
        paths: paths of the photos.
        content: what else the script reads, as JSON.

    Raises:
        UserError: if the page cannot be written.
    """
    content = {"photos": [named(path) for path in paths], **content}
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    values = {"title": html.escape(shown(title)), "photos": PHOTOS}
    styles, scripts = [STYLE, template.with_suffix(".css")], [SCRIPT, template.with_suffix(".js")]
    text = static_page(template, styles, scripts, POLICY, content | {"key": key}, values)
    head, _, tail = text.partition(PHOTOS)
    with atomic_path(file) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as page:
        page.write(head)
        _write_photos(page, root, paths)
        page.write(tail)


def named(name: str) -> dict[str, str]:
    """Return a name as it is shown, and as CSV files have it."""
    return {"name": shown(name), "cell": str(cell(name))}


def _write_photos(page: io.TextIOBase, root: Path, paths: Sequence[str]) -> None:
    """Write each photo as an element of its own, so that the page need not parse them before it can be used."""
    unreadable = 0
    for number, photo in enumerate(in_threads(_photo, [root / path for path in paths], "Writing the page")):
        page.write(f'<script type="application/json" id="photo-{number}">{embedded_json(photo)}</script>\n')
        unreadable += "unreadable" in photo
    if unreadable:
        log.warning("%d of the %s on the page cannot be read.", unreadable, counted(len(paths), "photo"))


def _photo(path: Path) -> dict[str, str]:
    """Return a photo as a JPEG in a data URL, `src`, and its file as a URL; or why it cannot be read: `unreadable`."""
    try:
        picture = thumbnail(path, SIDE)
    except (UnreadableImageError, Failure) as error:  # the others can still be decided about
        return {"unreadable": shown(error)}
    return {"src": jpeg_url(picture, 80), "file": path.absolute().as_uri()}
