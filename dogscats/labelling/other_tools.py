"""Tables of photos in the formats of other tools: `python -m dogscats.convert labels.csv --format=fiftyone`.

A table is `labels.csv`, `label.csv`, `predictions.csv` or `suspects.csv`. What a tool exports is read as `data.labels`:
the JSON of Label Studio, or a table.
"""

import argparse
import csv
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from dogscats.base.errors import UserError, user_errors_exit
from dogscats.base.files import FORMULA_STARTS, atomic_path, check_exists, csv_rows, write_json, write_text
from dogscats.base.text import counted, shown

LABELS = ("suggested", "predicted", "proposed", "label")
"""Columns of tables with the class of a photo; the first that has one is used."""


class LabelledPhoto(NamedTuple):
    """A photo, its class, and how probable that is, or how likely a suspect; `None` if unknown."""

    path: Path
    label: str
    score: float | None


def read_photos(table: Path, root: Path | None = None) -> list[LabelledPhoto]:
    """Read the photos of a table.

    Args:
        table: CSV file.
        root: folder that paths are relative to; `None` for that in the column `folder`, or the working directory.

    Raises:
        UserError: if there is no such table, it has no paths and labels, or a photo is not there.
    """
    check_exists(table)
    photos = []
    for row in csv_rows(table):
        label = next((_text(row[name]) for name in LABELS if row.get(name)), "")
        path = Path(root or _text(row.get("folder") or ""), _text(row.get("path") or ""))
        if not row.get("path") or not label:
            raise UserError(f"{shown(table)}: a row has no path, or none of the columns {', '.join(LABELS)}.")
        photos.append(LabelledPhoto(path.expanduser().absolute(), label, _score(row)))
    if missing := [photo.path for photo in photos if not photo.path.is_file()]:
        if escaped := next((path for path in missing if "\\" in str(path)), None):
            why = "Tables have odd characters of names escaped, and other tools would not find such a file"
            raise UserError(f"{shown(table)}: {escaped} is not found. {why}: rename it, and write the table again.")
        raise UserError(
            f"{shown(table)}: {counted(len(missing), 'photo')} not found, such as {shown(missing[0])}. "
            "Name the folder that the paths are relative to: --root=<folder>."
        )
    return photos


def _text(cell: str) -> str:
    """Return a text as it was before `dogscats.base.files.cell` protected it from spreadsheets."""
    return cell[1:] if cell[:1] == "'" and cell[1:].startswith(FORMULA_STARTS) else cell


def _score(row: Mapping[str, str]) -> float | None:
    values = [row[name] for name in row if name in ("probability", "score") or name.startswith("prob_")]
    return max(map(float, values)) if values else None


def write_label_studio(folder: Path, root: Path, photos: Sequence[LabelledPhoto]) -> None:
    """Write tasks with predictions, and the labelling interface that they need.

    https://labelstud.io/guide/predictions. Photos are served as local files of the folder that `root` is in.
    """
    tasks = []
    for path, label, score in photos:
        result = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [label]}}
        prediction = {"model_version": "dogscats", "result": [result]} | ({} if score is None else {"score": score})
        image = f"/data/local-files/?d={quote(path.relative_to(root.parent).as_posix())}"
        tasks.append({"data": {"image": image, "path": str(path)}, "predictions": [prediction]})
    write_json(folder / "label_studio.json", tasks)
    choices = "".join(f"<Choice value={quoteattr(name)}/>" for name in _classes(photos))
    image = '<Image name="image" value="$image"/>'
    interface = f'<View>{image}<Choices name="label" toName="image" required="true">{choices}</Choices></View>\n'
    write_text(folder / "label_studio.xml", interface)


def write_fiftyone(folder: Path, root: Path, photos: Sequence[LabelledPhoto]) -> None:
    """Write a `FiftyOneImageClassificationDataset`, whose photos stay where they are.

    https://docs.voxel51.com/user_guide/import_datasets.html: `data.json` has the file of each photo.
    """
    classes, width = _classes(photos), len(str(len(photos)))
    numbers, places = {name: index for index, name in enumerate(classes)}, range(len(photos))
    names = [f"{place:0{width}d}" for place in places]
    labels = {name: numbers[photo.label] for name, photo in zip(names, photos, strict=True)}
    write_json(folder / "data.json", {name: str(photo.path) for name, photo in zip(names, photos, strict=True)})
    write_json(folder / "labels.json", {"classes": classes, "labels": labels})


def write_huggingface(folder: Path, root: Path, photos: Sequence[LabelledPhoto]) -> None:
    """Write `metadata.csv` of an `imagefolder`, to be put into the folder of the photos.

    https://huggingface.co/docs/datasets/image_dataset
    """
    with atomic_path(folder / "metadata.csv") as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)  # names as they are: protected from spreadsheets, they would not be found
        rows.writerow(["file_name", "label"])
        rows.writerows([photo.path.relative_to(root).as_posix(), photo.label] for photo in photos)


FORMATS: dict[str, Callable[[Path, Path, Sequence[LabelledPhoto]], None]] = {
    "label_studio": write_label_studio,
    "fiftyone": write_fiftyone,
    "huggingface": write_huggingface,
}
"""Formats, and the function that writes each to a folder, given the folder that all photos are in."""


def _classes(photos: Iterable[LabelledPhoto]) -> list[str]:
    return sorted({photo.label for photo in photos})


def main() -> None:
    """Convert a table."""
    parser = argparse.ArgumentParser("python -m dogscats.convert", description="Write a table for another tool.")
    parser.add_argument("table", type=Path, help="labels.csv, label.csv, predictions.csv or suspects.csv")
    parser.add_argument("--format", choices=FORMATS, required=True, help="tool to write for")
    parser.add_argument("--root", type=Path, help="folder that paths are relative to; by default, as in the table")
    parser.add_argument("--output", type=Path, help="folder to write to; by default <format>/ beside the table")
    options = parser.parse_args()
    with user_errors_exit():
        photos = read_photos(options.table, options.root)
        if not photos:
            raise UserError(f"{options.table}: it has no rows.")
        common = Path(os.path.commonpath([photo.path.parent for photo in photos]))
        root = options.root.expanduser().absolute() if options.root else common
        folder = options.output or options.table.parent / options.format
        FORMATS[options.format](folder, root, photos)
        print(f"{counted(len(photos), 'photo')} below {shown(root)} written to {shown(folder)}", file=sys.stdout)
