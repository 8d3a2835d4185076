"""What a search for suspects writes and prints."""

import logging
from collections.abc import Sequence
from pathlib import Path

from dogscats.base.errors import optional
from dogscats.base.install import command
from dogscats.base.text import shown, text_table
from dogscats.data.photos.decisions import Decision
from dogscats.report import page as run_page
from dogscats.suspects.search import Labelled
from dogscats.suspects.suspect import CERTAIN, Suspect, by_kind, write_suspects
from dogscats.suspects.suspects_page import write_page

log = logging.getLogger(__name__)


def report_suspects(
    suspects: list[Suspect], labelled: Labelled, folder: Path, decisions: Sequence[Decision], trained_by: str | None
) -> None:
    """Write `suspects.csv` and `suspects.html`, a page to decide about them, and print their numbers.

    Args:
        suspects: what was found.
        labelled: the photos searched.
        folder: folder of the two files.
        decisions: decisions that the photos were found with.
        trained_by: command that trained the run; `None` if unknown.
    """
    write_suspects(folder / "suspects.csv", suspects)
    page = folder / "suspects.html"
    write_page(page, f"Suspects of {labelled.root}", labelled.root, suspects, labelled.classes, decisions)
    rows = [[f"suspects among {len(labelled.paths)} photos", "likely", "listed"]]
    for kind, found in by_kind(suspects).items():
        rows.append([kind, str(sum(suspect.score > CERTAIN for suspect in found)), str(len(found))])
    log.info("\n%s", "\n".join(text_table(rows, left=1)))
    log.info("\nOpen %s in a browser, decide, and save decisions.csv. Then:", shown(page))
    log.info("%s data.decisions=<file>", shown(trained_by or command("train")))


def show_in_run(run: Path, folder: Path) -> None:
    """Write the page of a finished run again, with the worst suspects among its photos.

    Args:
        run: run directory.
        folder: folder of `suspects.csv`.
    """
    if (run / run_page.FILE).is_file():
        with optional(run_page.FILE, "updated"):
            log.info("The worst are in %s, too", shown(run_page.write_page(run, folder)))
