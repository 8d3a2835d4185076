"""A CSV file with the rows of all stages."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dogscats.base.files import read_csv, write_csv


def named(rows: Sequence[Any], names: Sequence[str]) -> list[dict[str, Any]]:
    """Convert rows of older checkpoints, which are sequences, to dicts."""
    return [row if isinstance(row, dict) else dict(zip(names, row, strict=True)) for row in rows]


class StageTable:
    """Rows of one stage in a CSV file whose first column is the stage name.

    Args:
        path: CSV file; its rows of other stages are kept.
        stage: name of the stage.
    """

    def __init__(self, path: Path, stage: str):
        self.path, self.stage = path, stage
        self.rows: list[dict[str, Any]] = []

    def write(self) -> None:
        """Replace this stage's rows in the file, atomically."""
        others: list[Mapping[str, Any]] = []
        if self.path.exists():
            others = [row for row in read_csv(self.path) if row["stage"] != self.stage]
        rows = [*others, *({"stage": self.stage, **row} for row in self.rows)]
        header = list(dict.fromkeys(key for row in rows for key in row))
        write_csv(self.path, header, ([row.get(key, "") for key in header] for row in rows))
