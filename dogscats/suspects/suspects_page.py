"""A page to look through suspects and decide about them: one HTML file with its photos, which needs no network."""

import base64
import hashlib
import html
import io
import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path

from dogscats.base.console import in_threads
from dogscats.base.errors import Failure
from dogscats.base.files import atomic_path, cell
from dogscats.base.pages.static_page import embedded_json, source_hash
from dogscats.base.text import counted, shown
from dogscats.data.photos.decisions import Decision
from dogscats.data.pixels.images import UnreadableImageError, thumbnail
from dogscats.suspects.search import KINDS, Suspect, by_kind

log = logging.getLogger(__name__)

TEMPLATE = Path(__file__).with_name("suspects_page.html")

SIDE = 200
"""Longest side of a photo on the page, in pixels."""


def write_page(
    file: Path,
    title: str,
    root: Path,
    suspects: Sequence[Suspect],
    classes: Sequence[str],
    decisions: Sequence[Decision] = (),
    per_kind: int = 200,
) -> None:
    """Write the page. It saves what was decided as a CSV file with the columns path, decision and label.

    Paths and labels in that file are as in all CSV files of this project; see `dogscats.base.files.cell`.

    Args:
        file: HTML file to write.
        title: title of the page.
        root: folder that the paths of the photos are relative to.
        suspects: suspects, worst first within a kind.
        classes: class names, which photos can be relabeled to.
        decisions: earlier decisions, also about photos that are no suspects, with which the page begins.
        per_kind: largest number of suspects of each kind on the page.

    Raises:
        UserError: if the page cannot be written.
    """
    groups = by_kind(suspects)
    listed = [suspect for group in groups.values() for suspect in group[:per_kind]]
    paths = list(dict.fromkeys(path for suspect in listed for path in (suspect.path, suspect.twin) if path))
    numbers = {path: number for number, path in enumerate(paths)}
    suggested = [suspect.suggested for suspect in listed if suspect.suggested]
    content = {
        "kinds": [{"kind": k, "heading": KINDS[k], "found": len(group)} for k, group in groups.items() if group],
        "classes": [_named(name) for name in dict.fromkeys([*classes, *suggested])],
        "photos": [_named(path) for path in paths],
        "suspects": [
            {
                "kind": suspect.kind,
                "photo": numbers[suspect.path],
                "twin": numbers.get(suspect.twin),
                "label": shown(suspect.label),
                "suggested": str(cell(suspect.suggested)),
                "score": f"{suspect.score:.3f}",
                "reason": shown(suspect.reason),
            }
            for suspect in listed
        ],
        "decided": [
            (row.path, {"decision": row.kind, "label": row.label if row.kind == "relabel" else ""}) for row in decisions
        ],
    }
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    template = TEMPLATE.read_text(encoding="utf-8")
    values = {
        "title": html.escape(shown(title)),
        "data": embedded_json(content | {"key": key}),
        **{f"{tag}_hash": _hash_of(tag, template) for tag in ("script", "style")},
    }
    head, tail = (
        re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], part) for part in template.split("{{photos}}")
    )
    with atomic_path(file) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as page:
        page.write(head)
        _write_photos(page, root, paths)
        page.write(tail)


def _write_photos(page: io.TextIOBase, root: Path, paths: Sequence[str]) -> None:
    """Write each photo as an element of its own, so that the page need not parse them before it can be used."""
    unreadable = 0
    for number, photo in enumerate(in_threads(_photo, [root / path for path in paths], "Writing the page")):
        page.write(f'<script type="application/json" id="photo-{number}">{embedded_json(photo)}</script>\n')
        unreadable += "unreadable" in photo
    if unreadable:
        log.warning("%d of the %s on the page cannot be read.", unreadable, counted(len(paths), "photo"))


def _photo(path: Path) -> dict[str, str]:
    """Return a photo as a JPEG in a data URL: `src`; or why it cannot be read: `unreadable`."""
    try:
        picture = thumbnail(path, SIDE)
    except (UnreadableImageError, Failure) as error:  # the others can still be decided about
        return {"unreadable": shown(error)}
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=80)
    return {"src": f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"}


def _named(name: str) -> dict[str, str]:
    """Return a name as it is shown, and as CSV files have it."""
    return {"name": shown(name), "cell": str(cell(name))}


def _hash_of(tag: str, template: str) -> str:
    """Return the hash by which the page's policy allows its own script or style, and no other."""
    found = re.search(f"<{tag}>(.*?)</{tag}>", template, re.DOTALL)
    assert found
    return source_hash(found[1])
