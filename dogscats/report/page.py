"""`report.html`: a run on one page, in one file that needs neither network nor scripts."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape
from matplotlib.figure import Figure

from dogscats.base.environment import command_of
from dogscats.base.errors import optional
from dogscats.base.files import WEIGHTS, csv_rows, read_csv, write_text
from dogscats.base.install import command
from dogscats.base.text import setting, shown, shown_lines
from dogscats.lesson.lr_finder import SKIP, LRCurve
from dogscats.report.embedded import data_url, svg
from dogscats.report.facts import SPLITS, Facts
from dogscats.report.figures.curves import curves
from dogscats.report.figures.learning_rates import lr_curve, lr_schedule
from dogscats.report.templates import template
from dogscats.suspects.search import CERTAIN, KINDS

log = logging.getLogger(__name__)

FILE = "report.html"

PICTURES = (
    *("augmentation", "confusion_matrix", "reliability", "accuracy_kept"),
    *("most_wrong", "most_uncertain", "most_right", "random_wrong", "random_right"),
)
"""Names of the PNG files that the page shows: a run directory may have others, if it is the user's own folder."""

MOST_ROWS = 20
"""Rows of a table; the files of the run have all."""

MOST_SUSPECTS = 10
"""Suspects of each kind."""


def write_page(run_dir: Path, suspects: Path | None = None) -> Path:
    """Write the page of a finished run. What the run directory lacks is left out.

    Args:
        run_dir: run directory.
        suspects: directory of a search for suspects among the photos of the run, with `suspects.csv`.

    Returns:
        The page.
    """
    facts = Facts(run_dir)
    page = template("page.html", _text, autoescape=True).render(
        facts=facts,
        title=f"{facts.model_name} on {facts.data_name}",
        splits=SPLITS,
        most=MOST_ROWS,
        figures=_figures(facts),
        pictures=_pictures(run_dir),
        suspects=_suspects(suspects),
        suspects_page=suspects and suspects.absolute() / "suspects.html",
        commands=_commands(run_dir),
        headings=KINDS,
        config_text=escape(shown_lines((run_dir / "config.yaml").read_text(encoding="utf-8"))),
    )
    before, _, after = page.rpartition("{size}")
    write_text(run_dir / FILE, f"{before}{len(page.encode()) / 1e6:.1f} MB{after}")
    return run_dir / FILE


def _text(value: Any) -> Any:
    """Show control characters in names of files and classes escaped; autoescaping does the rest."""
    return value if isinstance(value, Markup | int | float) else shown(value)


def _figures(facts: Facts) -> dict[str, Markup]:
    """Draw the curves of the run, by name; those that cannot be drawn are named in the log."""
    drawn, run_dir = dict[str, Markup](), facts.run_dir

    def draw(figures: Mapping[str, Figure], description: str) -> None:
        drawn.update((name, svg(figure, description.format(name))) for name, figure in figures.items())

    if (run_dir / "history.csv").is_file():
        with optional("curves"):
            draw(curves(read_csv(run_dir / "history.csv")), "Curve of the {} by epoch")
    if (run_dir / "lr_trace.csv").is_file():
        with optional("lr_schedule"):
            figure = lr_schedule(read_csv(run_dir / "lr_trace.csv"), facts.stages)
            draw({"lr_schedule": figure}, "Learning rate of the head by iteration, for each stage")
    for file in sorted(run_dir.glob("lr_finder*.csv")):
        with optional(file.stem):
            figure = lr_curve(LRCurve.read(file), SKIP)
            draw({file.stem: figure}, "Learning rate by iteration, and smoothed loss by learning rate")
    return drawn


def _pictures(run_dir: Path) -> dict[str, Markup]:
    """Read the pictures of the run as data URLs, by name."""
    found = {}
    for file in (run_dir / f"{name}.png" for name in PICTURES):
        if file.is_file():
            with optional(file.name, "embedded"):
                found[file.stem] = data_url(file)
    return found


def _suspects(folder: Path | None) -> dict[str, list[dict[str, str]]]:
    """Return the worst suspects of each kind that has any."""
    found: dict[str, list[dict[str, str]]] = {kind: [] for kind in KINDS}
    if folder is not None:
        for row in csv_rows(folder / "suspects.csv"):
            likely = row["kind"] in found and float(row["score"]) > CERTAIN
            if likely and len(found[row["kind"]]) < MOST_SUSPECTS:
                found[row["kind"]].append(row)
    return {kind: rows for kind, rows in found.items() if rows}


def _commands(run_dir: Path) -> dict[str, str]:
    """Return commands that use the run, by what they do."""
    run, folder = setting("run", run_dir.absolute()), run_dir.absolute()
    evaluate, trained = command("evaluate"), command_of(run_dir) or command("train")
    return {
        "Evaluate it": f"{evaluate} {run}",
        "Predict photos": f"{evaluate} {run} predict=<file, folder or glob>",
        "Explain a prediction": f"{evaluate} {run} predict=<photo> explain=true",
        "Search for suspects": f"{evaluate} {run} suspects=true",
        "Export it": f"{evaluate} {run} export=onnx",
        "Start another run from its weights": f"{trained} {setting('load', folder / WEIGHTS)}",
        "Resume it, if it had been interrupted": f"{command('train')} {setting('resume', folder)}",
    }
