"""The decisions of a run, `decisions.csv` in its directory: a copy, which is what the run means.

The file that `data.decisions` names goes on being edited. The run is resumed, and evaluated on its own photos, with the
copy, so that an edited original changes nothing: decisions are settings of the run, as the learning rate is.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dogscats.base.errors import UserError
from dogscats.base.files import atomic_path
from dogscats.base.text import shown
from dogscats.data.photos.decisions import Decisions
from dogscats.data.photos.tables import is_own_root

log = logging.getLogger(__name__)

FILE = "decisions.csv"


def with_own_decisions(data: Mapping[str, Any], run_dir: Path) -> dict[str, Any]:
    """Return the config of a run's data module, with the run's copy of its decisions if there is one.

    Args:
        data: config, as plain containers.
        run_dir: run directory, which may have been moved since.
    """
    copy = run_dir / FILE
    return {**data} | ({"decisions": str(copy)} if data.get("decisions") and copy.is_file() else {})


def keep_decisions(decisions: Decisions | None, run_dir: Path, given: str | None, resumed: bool) -> bool:
    """Write the copy, exactly as read, unless it is there; say if the original has changed since.

    Args:
        decisions: decisions that the run has read.
        run_dir: run directory.
        given: the original: value of `data.decisions`.
        resumed: whether the run is resumed.

    Returns:
        Whether the copy was written.

    Raises:
        UserError: if there is another file in its place, such as the user's own with `hydra.run.dir=.`.
    """
    if decisions is None or given is None:
        return False
    copy, original = run_dir / FILE, Path(given).expanduser()
    if original.is_file() and original.read_bytes() != decisions.content:
        log.warning(
            "Decisions %s has changed since the run began, which goes on with its own copy, %s",
            *(shown(original), shown(copy)),
        )
    if copy.is_file():
        if not resumed and copy.read_bytes() != decisions.content:
            raise UserError(
                f"{copy}: it is in the way of the run's copy of {given}. Move it, or choose another hydra.run.dir."
            )
        return False
    with atomic_path(copy) as temporary:
        temporary.write_bytes(decisions.content)
    return True


def decisions_at(root: str | Path | None, trained_on: Mapping[str, Any]) -> str | None:
    """Return the file of a run's decisions, for photos in `root`: `None` for any but its own, which have others.

    Args:
        root: folder of photos; `None` for the run's own.
        trained_on: config of the run's data module.
    """
    return trained_on.get("decisions") if is_own_root(root, trained_on.get("root")) else None
