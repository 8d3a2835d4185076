"""What the settings add to the photos of a dataset: strangers, `data.strangers`, and new labels, `data.add`."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from dogscats.data.added.added_rows import AddedRow, join_rows, read_rows
from dogscats.data.added.stranger_photos import NONE, StrangerPhotos, list_strangers, with_kinds
from dogscats.data.photos.decisions import STRANGER, NewLabels
from dogscats.data.photos.layouts import Found, Photos
from dogscats.data.photos.split import split_of

log = logging.getLogger(__name__)


@dataclass
class Additions:
    """Photos besides those of the dataset.

    Attributes:
        root: folder of the dataset.
        limit: maximum number of strangers per kind; `None` for all.
        skip: whether to leave out rows of photos that are gone, instead of an error.
        given: folder of strangers; `None` without any.
        table: table of new labels; `None` without one.
    """

    root: Path
    limit: int | None
    skip: bool
    given: str | Path | None
    table: str | Path | None
    _of_no_class: Sequence[str] = field(default=(), init=False)

    @cached_property
    def rows(self) -> list[AddedRow]:
        """Rows of the table."""
        return read_rows(self.table, self.root) if self.table else []

    @property
    def folders(self) -> list[Path]:
        """Folders that may lie in the root of the dataset, and are no classes: of strangers, and of unsorted photos."""
        unsorted = dict.fromkeys(row.folder for row in self.rows if self._is_apart(row.folder))
        return [*([Path(self.given).expanduser()] if self.given else []), *unsorted]

    def _is_apart(self, folder: Path) -> bool:
        root, folder = self.root.resolve(), folder.resolve()
        return folder != root and folder.is_relative_to(root) and not split_of(folder.relative_to(root).parts[0])

    def join(self, found: Found) -> Found:
        """Add the rows of the table to the training photos of a dataset, and log what was added."""
        if not self.table:
            return found
        joined = join_rows(found, self.rows, str(self.table), self.skip)
        log.info("Added     %s", joined.note)
        self._of_no_class = joined.strangers
        return joined.found

    def listed(self, root: Path) -> dict[str, str]:
        """List the strangers in the folder and in rows of the table: the kind of each, by its path.

        Args:
            root: folder that paths are relative to.

        Raises:
            UserError: if the folder has none.
        """
        folder = list_strangers(Path(self.given).expanduser(), root, self.limit) if self.given else {}
        return folder | dict.fromkeys(self._of_no_class, NONE)

    def strangers(self, root: Path, changes: NewLabels) -> StrangerPhotos:
        """Find the strangers that are left after decisions, with those that are strangers by decision.

        Args:
            root: folder that paths are relative to.
            changes: what decisions change.
        """
        kinds = self.listed(root) | {path: NONE for path, label in changes.items() if label == STRANGER}
        return with_kinds(root, {path: kind for path, kind in kinds.items() if changes.get(path, STRANGER) == STRANGER})


def apart(photos: Photos) -> list[Photos]:
    """Part photos from those that were added at their end: more of these do not change the cache of the others."""
    count = sum(path not in photos.added for path in photos.paths)
    parts = [range(count), range(count, len(photos.paths))]
    return [photos.select(rows) for rows in parts] if 0 < count < len(photos.paths) else [photos]
