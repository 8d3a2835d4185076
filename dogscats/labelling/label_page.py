"""A page to label photos, those most worth it first, and to accept what is proposed for the others."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from dogscats.base.text import form, shown
from dogscats.suspects.photo_page import named, write_photo_page

TEMPLATE = Path(__file__).with_suffix(".html")

SURE = 0.95
"""Least probability of photos that can be accepted together."""

NONE = "none"
"""Label of a photo of none of the classes."""

LISTS = {"margin": "Uncertain", "diversity": "Diverse", "none": "Perhaps none"}
"""Heading of each list on the page, by why its photos are shown."""


class Proposal(NamedTuple):
    """A photo to be labelled.

    Attributes:
        path: path of the photo, relative to the folder.
        asked: why it is shown; one of `LISTS`.
        label: class that is proposed, or `NONE`; empty if nothing is.
        text: probabilities in a few words; empty without any.
    """

    path: str
    asked: str
    label: str = ""
    text: str = ""


class Sure(NamedTuple):
    """A photo that can be accepted with others: its path, the index of its class, and the probability."""

    path: str
    label: int
    probability: float


def write_page(
    file: Path,
    folder: Path,
    classes: Sequence[str],
    proposals: Sequence[Proposal],
    sure: Iterable[Sure],
    warnings: Sequence[str] = (),
) -> None:
    """Write the page. It saves `labels.csv`: path, label, by (`you` or `proposed`), asked, and folder.

    Paths and labels in that file are as in all CSV files of this project; see `dogscats.base.files.cell`.

    Args:
        file: HTML file to write.
        folder: folder of the photos.
        classes: class names; one called `none` is labelled as photos of no class are.
        proposals: photos to be labelled, those of a list in order.
        sure: photos that can be accepted together, shown from their own files; some may be in `proposals`, too. Those
            of the class `none` cannot.
        warnings: why many of these proposals may be wrong, in sentences; with one, no class is checked at first.

    Raises:
        UserError: if the page cannot be written.
    """
    folder, of_class = folder.absolute(), [name for name in classes if form(name) != NONE]
    names, places = [named(name) for name in of_class], {name: place for place, name in enumerate(of_class)}
    cells = dict.fromkeys(classes, NONE) | {NONE: NONE, "": None} | {name: named(name)["cell"] for name in of_class}
    rest = [each._replace(label=places[name]) for each in sure if (name := classes[each.label]) in places]
    counts = Counter(each.asked for each in proposals)
    content = {
        "classes": names,
        "items": [{"asked": p.asked, "proposed": cells[p.label], "text": shown(p.text)} for p in proposals],
        "lists": [{"asked": key, "heading": LISTS[key], "count": counts[key]} for key in LISTS if counts[key]],
        "folder": {**named(str(folder)), "url": folder.as_uri().rstrip("/")},
        "rest": _packed(sorted(rest)),
        "warning": " ".join(map(shown, warnings)),
    }
    title = f"Label photos of {folder.name}"
    write_photo_page(TEMPLATE, file, title, folder, [each.path for each in proposals], content)


def _packed(sure: Sequence[Sure]) -> dict[str, list[Any]]:
    """Return sorted photos in little room: each path without what it has in common with the one before."""
    before, paths = "", []
    for path, _, _ in sure:
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, path, strict=False)))
        units = len(path[:common].encode("utf-16-le", "surrogatepass")) // 2  # as JavaScript counts
        paths.append([units, path[common:]])
        before = path
    permille = [int(1000 * each.probability) for each in sure]
    return {"paths": paths, "classes": [each.label for each in sure], "permille": permille}
