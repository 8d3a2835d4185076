"""A CSV file with rows of every stage, as each is trained."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dogscats.atomic import atomic_path


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read the rows of all stages by the names of their columns."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class StageTable:
    """The rows of one stage in a CSV file whose first column is the stage's name.

    Args:
        path: the file; rows of other stages in it are kept.
        stage: name of the stage.
        columns: names of the columns after `stage`.
    """

    def __init__(self, path: Path, stage: str, columns: Sequence[str]):
        self.path, self.stage, self.columns = path, stage, columns
        self.rows: list[list[Any]] = []

    def write(self) -> None:
        """Put this stage's rows in place of those of the file; the file is never half-written."""
        others: list[list[str]] = []
        if self.path.exists():
            with self.path.open(newline="") as file:
                others = [row for row in list(csv.reader(file))[1:] if row[0] != self.stage]
        with atomic_path(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["stage", *self.columns])
            writer.writerows(others)
            writer.writerows([self.stage, *row] for row in self.rows)
