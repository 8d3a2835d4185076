"""Columns of tables, found by their names: path, label and split."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dogscats.base.errors import UserError
from dogscats.base.text import listed, shown
from dogscats.data.photos.split import IS_VALID

PATHS = ("path", "file", "filename", "file_name", "image", "image_id", "id", "name")
"""Names of a column of paths, in any case."""

COLUMNS = {
    "path": PATHS,
    "label": ("label", "labels", "class", "category", "breed", "species", "target"),
    "split": ("split", "set", "subset", IS_VALID),
}
"""Usual names of each column, in any case, with or without spaces; the first that a table has is used."""

_FILE = "image|img|photo|picture|pic|file|path|scan|isic"

_CLASS = "class|label|category|target|species|breed|diagnosis|dx|disease|variety|condition|finding|scientific"

LIKELY = {
    "path": re.compile(
        rf"(?=.*(?:{_FILE}|idcode))(?:{_FILE}|names?|ids?|code|key|index|stem|relative|rel|full|jpe?g)+"
    ),
    "label": re.compile(rf"(?=.*(?:{_CLASS}))(?:{_CLASS}|names?|s|id|text|true|final|main|image|photo|common|of|the)+"),
}
"""Other names of such columns, without spaces: `Image Name`, `file_id`, `Class Label`, `diagnosis`."""

LAST = ("id", "name")
"""Names of columns that often have something else: they are used if no other fits."""


def plain(column: str) -> str:
    """Return the name of a column without case, spaces and punctuation."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFC", column).casefold())


@dataclass(frozen=True)
class LabelTable:
    """A table of labels, as the settings of the data name it.

    Attributes:
        file: its path: `data.labels`.
        columns: names of its columns by what they have, `path`, `label` or `split`: `data.columns`.
        extension: ending of the photos among files of the same name: `data.extension`.
    """

    file: str
    columns: Mapping[str, str] = field(default_factory=dict)
    extension: str | None = None


def find_columns(
    name: str,
    header: Sequence[str],
    needed: Sequence[str] = ("path", "label"),
    usual_names: Mapping[str, Sequence[str]] = COLUMNS,
    chosen: Mapping[str, str] | None = None,
) -> dict[str, int]:
    """Find the columns of a table by their names.

    Args:
        name: name of the table in messages.
        header: names of its columns.
        needed: kinds of columns that it must have.
        usual_names: names of each kind of column; the first that a table has is used.
        chosen: names of columns by kind, as `data.columns` chooses them; `None` where it does not apply.

    Raises:
        UserError: if one is missing, there twice, or one of several.
    """
    found = {}
    for kind, usual in usual_names.items():
        if kind not in needed and kind not in (chosen or {}) and kind == "path":
            continue  # of photos that are in the table
        if (column := _find_column(name, header, kind, usual, (chosen or {}).get(kind))) is not None:
            found[kind] = column
        elif kind in needed:
            setting = "" if chosen is None else f", or name it: data.columns={{{kind}: <column>}}"
            raise UserError(
                f"{name}: it has no column for the {kind}. Its columns are {listed(header) or 'none'}; expected one of "
                f"{', '.join(usual)}. Rename the column{setting}."
            )
    return found


def _find_column(name: str, header: Sequence[str], kind: str, usual: Sequence[str], chosen: str | None) -> int | None:
    """Find one column: the chosen one, that of the first usual name, or the only one with a likely name."""
    if chosen is not None:
        same = [n for n, column in enumerate(header) if column.strip() == chosen.strip()]
        same = same or [n for n, column in enumerate(header) if plain(column) == plain(chosen)]
        if len(same) != 1:
            raise UserError(
                f"{name}: it has {len(same) or 'no'} columns {shown(chosen)!r}, which data.columns names for the "
                f"{kind}. Its columns are {listed(header) or 'none'}."
            )
        return same[0]
    names = [column.strip().casefold() for column in header]
    first, last = [n for n in usual if n not in LAST], [n for n in usual if n in LAST]
    for number in (column for each in first for column in _named(names, each)):
        return _once(name, names, number)
    likely = LIKELY.get(kind)
    found = [n for n, column in enumerate(header) if likely and likely.fullmatch(plain(column))]
    found = [n for n in found if not plain(header[n]).endswith("id")] or found
    if len(found) > 1:
        raise UserError(
            f"{name}: several columns may have the {kind}: {listed([header[n] for n in found])}. Say which: "
            f"data.columns={{{kind}: {header[found[0]]}}}."
        )
    return found[0] if found else next((_once(name, names, n) for each in last for n in _named(names, each)), None)


def _named(names: Sequence[str], usual: str) -> list[int]:
    """Return the numbers of the columns of a usual name, those that are spelled in the same way first."""
    return sorted((n for n, each in enumerate(names) if plain(each) == plain(usual)), key=lambda n: names[n] != usual)


def _once(name: str, names: Sequence[str], number: int) -> int:
    if names.count(names[number]) > 1:
        raise UserError(f"{name}: it has the column {names[number]!r} twice. Rename or remove one.")
    return number
