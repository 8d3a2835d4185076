"""`predictions.csv` grows while photos are predicted; after a kill at any moment, the same command continues it."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from dogscats.base.files import append_csv, cell, csv_rows, read_json, write_json
from dogscats.lesson.predictions import Predictions
from dogscats.reliability.thresholds import words
from dogscats.runs.directory import PREDICTIONS, UNFINISHED

ROWS_AT_ONCE = 256
"""Rows in memory at once when they are read."""

BELOW_PRECISION = 1e-9
"""Probability that breaks a tie between classes, too small to be written."""


class GrowingPredictions:
    """Predictions of any number of photos in a run directory. Iterating reads them back, a part at a time.

    Beside an unfinished `predictions.csv` is `.unfinished`: the classifier, and the reason for each unreadable photo.

    Args:
        run_dir: run directory.
        names: paths of the photos.
        classes: names of the `C` classes.
        classifier: identifies the classifier; with another one, all photos are predicted anew.

    Attributes:
        unreadable: reason for each photo that was found to be unreadable.
    """

    def __init__(self, run_dir: Path, names: Sequence[str], classes: Sequence[str], classifier: str):
        self.file, self.state, self.names, self.classes = run_dir / PREDICTIONS, run_dir / UNFINISHED, names, classes
        self.classifier, self.unreadable = classifier, dict[str, str]()

    def resume(self, batch_size: int | None) -> int:
        """Keep the whole batches that an interrupted process has written, as far as the photos are the same.

        Args:
            batch_size: photos per batch; `None` to begin anew.

        Returns:
            Number of photos that are done, from the first on.
        """
        saved = read_json(self.state) or {}
        if batch_size is None or saved.get("classifier") != self.classifier or not self.file.is_file():
            self.file.unlink(missing_ok=True)
            return 0
        bad = saved["unreadable"]
        expected = [(place, name) for place, name in enumerate(self.names, start=1) if name not in bad]
        with self.file.open("rb+") as content:
            ends = [len(content.readline())]
            for line, (_, name) in zip(content, expected, strict=False):
                if not line.endswith(b"\n") or _first(line) != cell(name):
                    break
                ends.append(ends[-1] + len(line))
            whole = len(ends) - 1
            kept = whole if whole == len(expected) else whole - whole % batch_size
            content.truncate(ends[kept])
        done = len(self.names) if kept == len(expected) else expected[kept - 1][0] if kept else 0
        self.unreadable = {name: bad[name] for name in self.names[:done] if name in bad}
        return done

    def append(self, predictions: Predictions | None, unreadable: Mapping[str, str]) -> None:
        """Add predictions for the next photos, if any of them can be read, and the reason for each that cannot."""
        self.unreadable |= unreadable
        if predictions is not None:
            write_json(self.state, {"classifier": self.classifier, "unreadable": self.unreadable})
            append_csv(self.file, *predictions.table())

    def finish(self) -> None:
        """Mark the predictions as finished."""
        self.state.unlink(missing_ok=True)

    def decided(self) -> Iterator[tuple[str, str]]:
        """Yield the path of each photo and its decision, or its class where decisions could not be made."""
        for part in self:
            yield from zip(part.paths, part.decisions or part.predicted_classes, strict=True)

    def __iter__(self) -> Iterator[Predictions]:
        readable = (name for name in self.names if name not in self.unreadable)
        rows = zip(readable, csv_rows(self.file), strict=False)  # `trainer.limit_predict_batches` leaves out some
        known = {cell(word): word for word in (*self.classes, *words(self.classes))}
        numbers = {name: number for number, name in enumerate(self.classes)}
        while part := list(islice(rows, ROWS_AT_ONCE)):
            table = [row for _, row in part]
            values = np.array([[*row.values()][-len(self.classes) :] for row in table], np.float64)
            for value, row in zip(values, table, strict=True):
                value[numbers[known[row["predicted"]]]] += BELOW_PRECISION
            yield Predictions(
                [name for name, _ in part],
                self.classes,
                torch.empty(0, dtype=torch.long),
                torch.from_numpy(values),
                unlike=torch.tensor([float(row["unlike"]) for row in table]) if "unlike" in table[0] else None,
                decisions=[known[row["decision"]] for row in table if "decision" in row],
            )


def _first(line: bytes) -> str:
    """Return the first cell of a line of a CSV file."""
    return next(csv.reader([line.decode("utf-8", "replace")]))[0]
