"""A page to look through suspects and decide about them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dogscats.base.files import cell
from dogscats.base.text import shown
from dogscats.data.photos.decisions import Decision
from dogscats.suspects.photo_page import named, write_photo_page
from dogscats.suspects.search import KINDS, LIKELY_SCORE, Suspect, by_kind

TEMPLATE = Path(__file__).with_suffix(".html")


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
        "kinds": [_kind(kind, group) for kind, group in groups.items() if group],
        "classes": [named(name) for name in dict.fromkeys([*classes, *suggested])],
        "suspects": [
            {
                "kind": suspect.kind,
                "photo": numbers[suspect.path],
                "twin": numbers.get(suspect.twin),
                "label": shown(suspect.label),
                "suggested": str(cell(suspect.suggested)),
                "score": f"{suspect.score:.3f}",
                "likely": suspect.score > LIKELY_SCORE,
                "reason": shown(suspect.reason),
            }
            for suspect in listed
        ],
        "decided": [
            (row.path, {"decision": row.kind, "label": row.label if row.kind == "relabel" else ""}) for row in decisions
        ],
    }
    write_photo_page(TEMPLATE, file, title, root, paths, content)


def _kind(kind: str, found: Sequence[Suspect]) -> dict[str, Any]:
    """Return a kind of suspects, and how many of it are likely."""
    return {"kind": kind, **KINDS[kind]._asdict(), "likely": sum(each.score > LIKELY_SCORE for each in found)}
