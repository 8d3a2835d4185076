"""The table of figures: a new figure is one row, on the page, in the files and in the loggers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, TINY, Run
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dogscats.base.errors import UserError
from dogscats.lesson.predictions import Predictions
from dogscats.report.facts import Facts
from dogscats.report.figure_table import FIGURES, Report, RunFigure
from dogscats.report.figures.photo_figures import caption


@pytest.fixture
def more_figures() -> Iterator[None]:
    """A row for each kind of figure that a run draws."""

    def photos_by_class(run: Facts) -> Figure:
        figure = Figure()
        figure.subplots().bar(run.classes, [row["photos"] for row in run.per_class])
        return figure

    def doubts(predictions: Predictions) -> Figure:
        figure = Figure()
        figure.subplots().hist(predictions.probabilities.max(dim=1).values.numpy())
        return figure

    rows = [
        RunFigure("by_class", photos_by_class, "run", "results", "Photos of each class", formats=("svg",)),
        RunFigure("by_class_file", photos_by_class, "run", "suspects", "The same in a file", "Photos", "By class."),
        RunFigure("doubts", doubts, "predictions", "calibration", "Probabilities of the predicted classes"),
    ]
    FIGURES.extend(rows)
    yield
    del FIGURES[-len(rows) :]


@pytest.mark.usefixtures("more_figures")
def test_a_new_figure_is_one_row(run_command: Run, shared_root: Path, tmp_path: Path) -> None:
    result = run_command(
        "train.py", f"data.root={shared_root}", *TINY, "recipe=head_only", "callbacks.lr_finder.before=none",
        "callbacks.reports.pictures=null", "callbacks.reports.reliability=null", "hydra.run.dir=run",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "could not be" not in result.stdout
    page = (tmp_path / "run" / "report.html").read_text()
    assert '<svg role="img" aria-label="Photos of each class"' in page
    assert 'alt="Probabilities of the predicted classes"' in page
    assert "<h3>Photos</h3>" in page
    assert "<figcaption>By class.</figcaption>" in page
    files = {file.stem for file in (tmp_path / "run").glob("*.png")}
    assert files == {"accuracy_kept", "augmentation", "by_class_file", "confusion_matrix", "doubts", "lr_schedule"}
    assert set(EventAccumulator(str(tmp_path / "run" / "tensorboard" / "final")).Reload().Tags()["images"]) == files


def test_reports_are_rows_of_the_table() -> None:
    config = yaml.safe_load((REPOSITORY / "conf" / "callbacks" / "reports.yaml").read_text())["reports"]
    named = [node["draw"] for node in config.values() if "draw" in node]
    assert named == [row.name for row in FIGURES if row.has_node]
    for name in named:
        Report(name)
    with pytest.raises(UserError, match="draw=histogram: expected a function, or confusion_matrix or reliability"):
        Report("histogram")


def test_captions_are_sentences() -> None:
    assert caption("a/bee.jpg", "bees", 0.9996, "ants") == "bee.jpg\nants, taken for\nbees (99 %)"
    assert (
        caption("a/bee.jpg", "bees", 0.9996, "bees") == caption("a/bee.jpg", "bees", 0.9996) == "bee.jpg\nbees (99 %)"
    )
