"""`report.html`: a run on one page, in one file that needs neither network nor scripts."""

import io
import re
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from dogscats.base.environment import command, command_of
from dogscats.base.errors import optional
from dogscats.base.files import WEIGHTS, csv_rows, write_text
from dogscats.base.pages.static_page import STYLE, image_url, jpeg_url
from dogscats.base.text import setting, shown, shown_lines
from dogscats.reliability.kept import thresholds_text
from dogscats.report.facts import SPLITS, Facts
from dogscats.report.figure_table import FIGURES, RunFigure
from dogscats.report.figures.drawing import by_name
from dogscats.report.figures.prediction_figures import MOST_NUMBERS
from dogscats.report.templates import template
from dogscats.report.verdict import verdict
from dogscats.suspects.search import KINDS, LIKELY_SCORE

FILE = "report.html"

MAX_PNG_BYTES = 60_000
"""PNG files up to this size are embedded as they are; larger ones, which show photos, as JPEG."""

MAX_JPEG_WIDTH = 1600
"""Largest width of a JPEG, in pixels."""

MAX_UNSCROLLED_WIDTH = 6
"""Wider figures, in inches, keep their width on a phone, and scroll sideways."""

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
        verdict=verdict(facts),
        title=f"{facts.model_name} on {facts.data_name}",
        splits=SPLITS,
        most=MOST_ROWS,
        most_in_matrix=MOST_NUMBERS,
        style=Markup(STYLE.read_text(encoding="utf-8")),
        figures=_figures(facts),
        suspects=_suspects(suspects),
        suspects_page=suspects and suspects.absolute() / "suspects.html",
        commands=_commands(run_dir),
        headings={kind: row.heading for kind, row in KINDS.items()},
        thresholds_text=thresholds_text,
        config_text=escape(shown_lines((run_dir / "config.yaml").read_text(encoding="utf-8"))),
    )
    before, _, after = page.rpartition("{size}")
    write_text(run_dir / FILE, f"{before}{len(page.encode()) / 1e6:.1f} MB{after}")
    return run_dir / FILE


def _text(value: Any) -> Any:
    """Show control characters in names of files and classes escaped; autoescaping does the rest."""
    return value if isinstance(value, Markup | int | float) else shown(value)


class Shown(NamedTuple):
    """A figure on the page: its row in `FIGURES`, its element `<svg>` or `<img>`, and whether it scrolls sideways."""

    row: RunFigure
    element: Markup
    wide: bool


def _figures(facts: Facts) -> dict[str, Shown]:
    """Draw the curves of the run, and read its pictures, by name; those that fail are named in the log.

    Only files that the table names are read: a run directory may have others, if it is the user's own folder.
    """
    found = dict[str, Shown]()
    for row in FIGURES:
        file = facts.run_dir / f"{row.name}.png"
        if "svg" in row.formats:
            with optional(row.name):
                for name, figure in by_name(row.draw(facts), row.name).items():
                    found[name] = Shown(row, svg(figure, row.alt), figure.get_figwidth() > MAX_UNSCROLLED_WIDTH)
        elif file.is_file():
            with optional(file.name, "embedded"):
                element = Markup('<img src="{}" alt="{}">').format(data_url(file), row.alt)
                found[row.name] = Shown(row, element, row.drawn_from == "photos")
    return found


def data_url(file: Path) -> Markup:
    """Return a PNG file as a data URL."""
    content = file.read_bytes()
    if len(content) <= MAX_PNG_BYTES:
        return Markup(image_url(content, "png"))
    with Image.open(io.BytesIO(content)) as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((MAX_JPEG_WIDTH, 100 * MAX_JPEG_WIDTH))
    return Markup(jpeg_url(picture, 80, optimize=True))


def svg(figure: Figure, description: str) -> Markup:
    """Return a figure as an SVG element, black lines and text in the colour of the page's text.

    Args:
        figure: figure, without names that could be taken for code.
        description: what it shows, for those who cannot see it.
    """
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": description}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' id="[\w.]*_\d+"', "", text)  # the same in every figure
    text = text.replace("#000000", "currentColor").replace("fill: #ffffff", "fill: none")
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{Markup.escape(description)}"', 1))


def _suspects(folder: Path | None) -> dict[str, list[dict[str, str]]]:
    """Return the worst suspects of each kind that has any."""
    found: dict[str, list[dict[str, str]]] = {kind: [] for kind in KINDS}
    for row in csv_rows(folder / "suspects.csv") if folder else ():
        of_kind = found.get(row["kind"], [])
        if float(row["score"]) > LIKELY_SCORE and len(of_kind) < MOST_SUSPECTS:
            of_kind.append(row)
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
        "Resume it if it was interrupted": f"{command('train')} {setting('resume', folder)}",
    }
