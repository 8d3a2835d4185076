"""A suspect, and the table of suspects."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from dogscats.base.files import write_csv

KINDS = ("label", "duplicate", "leak", "outlier", "quality")
"""Kinds of suspects, in the order in which they are listed."""

CERTAIN = 0.5
"""Score from which a suspect is likely."""


class Suspect(NamedTuple):
    """A photo to be looked at.

    Attributes:
        path: path of the photo, relative to the dataset's root.
        label: class of the photo in the dataset.
        suggested: class that it may belong to; empty if there is none.
        kind: one of `KINDS`.
        score: from 0 to 1; higher is worse.
        twin: path of the photo that it is a duplicate of; empty if there is none.
        reason: why it is suspected, in a few words.
    """

    path: str
    label: str
    suggested: str
    kind: str
    score: float
    twin: str
    reason: str


def by_kind(suspects: Iterable[Suspect]) -> dict[str, list[Suspect]]:
    """Group suspects by kind, in the order of `KINDS`; those of a kind keep their order.

    Raises:
        KeyError: for a kind that is not in `KINDS`.
    """
    groups: dict[str, list[Suspect]] = {kind: [] for kind in KINDS}
    for suspect in suspects:
        groups[suspect.kind].append(suspect)
    return groups


def write_suspects(file: Path, suspects: Iterable[Suspect]) -> None:
    """Write `suspects.csv`: the fields of `Suspect`, kind by kind.

    Args:
        file: CSV file to write.
        suspects: suspects, worst first within a kind.
    """
    rows = (suspect for group in by_kind(suspects).values() for suspect in group)
    write_csv(file, Suspect._fields, (suspect._replace(score=round(float(suspect.score), 6)) for suspect in rows))
