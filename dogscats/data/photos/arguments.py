"""Arguments of `DogsCatsDataModule`, checked without torch: `train.py` does so before it imports torch."""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from dogscats.base.errors import ArgumentError
from dogscats.base.rules import SWITCH, Rule, check_values, is_number, one_of, or_none, whole
from dogscats.data.photos.split import group_pattern
from dogscats.data.photos.tables.columns import COLUMNS

FITS = ("crop", "pad", "squash")
"""How photos become square; see `dogscats.data.pixels.transforms.fitted`."""

MOST_PIXELS = 4096
"""Largest accepted side of the images, in pixels: a larger one is more likely a mistake."""

HOW_TO_GET_DATA = """\
Put photos of two or more classes into <data.root>/train/<class>/ and <data.root>/valid/<class>/, or into
<data.root>/<class>/ alone: part of them is set aside for validation. Kaggle's file names, <class>.<number>.jpg, and
tables (data.labels=<file>) are also supported; see docs/how-to/photos.md.
The lesson's photos are Kaggle's "Dogs vs. Cats" (https://www.kaggle.com/c/dogs-vs-cats). data.download=true
downloads them (857 MB) from http://files.fast.ai/data/dogscats.zip.
To try it without data, use data=sample: synthetic cats and dogs."""


def _path(expected: str) -> Rule:
    return lambda value: isinstance(value, str | Path) and value != "", expected


def _is_columns(value: Any) -> bool:
    return (
        isinstance(value, Mapping) and {*value} <= {*COLUMNS} and all(name not in (None, "") for name in value.values())
    )


AUTO: Rule = (
    lambda value: isinstance(value, str | bool) and value in ("auto", True, False),
    "auto, true or false",
)

RULES: dict[str, Rule] = {
    "size": whole(1, MOST_PIXELS),
    "batch_size": whole(2),  # BatchNorm cannot train on one photo
    "num_workers": or_none(whole(0, 512)),
    "limit": or_none(whole(1)),
    "seed": (whole(0)[0], "a whole number, 0 or more"),
    "valid_fraction": (lambda value: is_number(value) and 0 <= value < 1, "a number from 0 to below 1"),
    "fit": one_of(*FITS),
    "root": _path("a folder"),
    "download": SWITCH,
    "changed": one_of("refuse", "accept"),
    "on_bad_image": one_of("error", "skip"),
    "sha256": or_none((lambda value: bool(re.fullmatch("[0-9a-fA-F]{64}", str(value))), "64 hexadecimal digits")),
    "shrink": AUTO,
    "resident": AUTO,
    "labels": or_none(_path("a table, such as labels.csv")),
    "columns": or_none((_is_columns, "names of columns: {path: ..., label: ..., split: ...}, or some of them")),
    "extension": or_none(
        (lambda value: bool(re.fullmatch(r"\.?\w+", str(value))), "the ending of the photos, such as jpg")
    ),
    "decisions": or_none(_path("a file: decisions.csv")),
    "strangers": or_none(_path("a folder")),
    "add": or_none(_path("a table, such as labels.csv")),
}
"""Rule of each argument that is checked: a test, and the expected value in words."""


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse bad values; missing arguments have good defaults.

    Raises:
        ArgumentError: naming the argument, its value and the expected values.
    """
    check_values(RULES, arguments, raises=partial(ArgumentError, "data"))
    group_pattern(arguments.get("group"))


def root_of(root: str | Path, labels: str | Path | None) -> Path:
    """Return the folder of a dataset; that of the table, if there is no other and it names the folders of its photos.

    Args:
        root: the setting `data.root`.
        labels: the setting `data.labels`.
    """
    folder, table = Path(root).expanduser(), Path(labels or "").expanduser()
    if folder.exists() or not table.is_file() or table.suffix.lower() != ".csv":
        return folder
    with table.open(encoding="utf-8-sig", errors="replace") as lines:
        return table.absolute().parent if "folder" in lines.readline().strip().split(",") else folder


def check_root(root: Path) -> None:
    """Refuse a root that is not a folder.

    Raises:
        ArgumentError: with how to get data.
    """
    if not root.is_dir():
        raise ArgumentError("data", f"root={root}: there is no such folder.\n{HOW_TO_GET_DATA}")


def check_decisions(file: str) -> None:
    """Refuse a file of decisions that does not exist.

    Raises:
        ArgumentError: naming the columns that it should have.
    """
    if not Path(file).expanduser().is_file():
        raise ArgumentError(
            "data",
            f"decisions={file}: there is no such file. Give a CSV file with the columns path, decision and label, or "
            "none to use all photos as they are.",
        )
