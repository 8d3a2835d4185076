"""Names of any kind: text everywhere, never mathematics, commands or numbers."""

import csv
import json
import logging
import shlex
from pathlib import Path

import pytest
from conftest import FAST, HEAD, Run, draw_photo, draw_root
from hydra.core.override_parser.overrides_parser import OverridesParser
from matplotlib.figure import Figure
from PIL import Image

from dogscats.base.files import read_csv, write_csv
from dogscats.base.text import setting, shown, without_password
from dogscats.report.figures.drawing import as_name, drawable

ODD = ("$5_$", "${oc.env:HOME}", "=HYPERLINK(1)", "a\x1b[31mb\nc", "猫")


@pytest.fixture
def odd_root(tmp_path: Path) -> Path:
    """Classes and photos of odd names."""
    root = tmp_path / "my photos (1), = é"
    for split in ("train", "valid"):
        for label, name in enumerate(ODD):
            for number in range(2):
                draw_photo(root / split / name / f"\x1b]0;x\x07${number}_$.jpg", label % 2, number + 10 * label)
    return root


@pytest.mark.fault("classes and photos named `$5_$`, `=HYPERLINK(1)`, 猫, with terminal escapes: text everywhere")
@pytest.mark.draws
def test_a_run_and_an_evaluation_with_odd_names(
    odd_root: Path, run_command: Run, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    quoted = shlex.split(setting("data.root", odd_root))[0]
    result = run_command("train.py", quoted, *HEAD, 'hydra.run.dir="run (1)"')
    plain = ["callbacks.reports.pictures=null", "callbacks.tta.n_aug=0"]  # the run has drawn the same pictures
    evaluated = run_command("evaluate.py", 'run="run (1)"', "hydra.run.dir=evaluated", *plain)
    for end in (result, evaluated):
        assert end.returncode == 0, end.stderr
        assert not set("\x1b\x07") & set(end.stdout + end.stderr)
    run_dir = tmp_path / "run (1)"
    assert "\x1b" not in (run_dir / "train.log").read_text()
    pictures = [file.name for file in run_dir.glob("*.png")]
    assert {"confusion_matrix.png", "most_wrong.png", "most_right.png"} <= set(pictures)
    assert "could not be drawn" not in result.stdout
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]
    assert json.loads((run_dir / "metrics.json").read_text())["classes"] == sorted(ODD)
    with (run_dir / "predictions_valid.csv").open(newline="") as file:
        predictions = list(csv.DictReader(file))
    assert {row["label"] for row in predictions} == {
        "$5_$",
        "${oc.env:HOME}",
        "'=HYPERLINK(1)",
        "a\\x1b[31mb\\nc",
        "猫",
    }


def test_a_picture_that_fails_is_named_and_costs_nothing_else(
    run_command: Run, shared_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dogscats.report.figures.photo_figures.draw_photos", lambda *_: 1 / 0)
    settings = [f"data.root={shared_root}", *HEAD]
    result = run_command("train.py", *settings, "hydra.run.dir=run")
    assert result.returncode == 0
    assert "pictures could not be drawn: ZeroDivisionError" in result.stdout
    for name in ("predictions_valid.csv", "confusion_matrix.png", "augmentation.png"):
        assert (tmp_path / "run" / name).exists()


@pytest.mark.slow
def test_predictions_and_metrics_are_written_before_any_picture(
    run_command: Run, shared_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dogscats.report.figures.drawing.publish", stop)
    assert run_command("train.py", f"data.root={shared_root}", *HEAD, "hydra.run.dir=run").returncode == 1
    assert len(read_csv(tmp_path / "run" / "predictions_valid.csv")) == 10
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["final"]["n"] == 10
    monkeypatch.undo()
    assert run_command("train.py", "resume=run").returncode == 0  # draws them
    assert (tmp_path / "run" / "most_wrong.png").exists()
    assert "is finished" in run_command("train.py", "resume=run").stdout


@pytest.mark.parametrize(
    "name", ["1e3", *(pytest.param(name, marks=pytest.mark.slow) for name in ("2024", "007", "true", "1_000"))]
)
def test_a_folder_whose_name_looks_like_a_number(run_command: Run, tmp_path: Path, name: str) -> None:
    draw_root(tmp_path / name)
    result = run_command("train.py", f"data.root={name}", *FAST, f"hydra.run.dir={name}/run")
    assert result.returncode == 0, result.stderr
    resumed = run_command("train.py", f"resume={name}/run")
    assert "is finished" in resumed.stdout
    for setting_ in (f"resume={name}", f"load={name}", f"model.weights={name}"):
        result = run_command("train.py", *([] if "resume" in setting_ else [f"data.root={name}", *FAST]), setting_)
        assert result.returncode == 1
        assert name in result.stderr
        assert "Traceback" not in result.stderr


VALUES = [
    *("a/b", "photos (1)", "a=b", "é", "~/x", "$5_$", "${oc.env:HOME}", 'say "hi"', "it's", "back\\slash", "tail\\"),
    *('a\\"b', "a,b", "[x]", "{y}", "2024", "true", " sp ", "-x", "a:b", "%d", "a#b", "日本"),
]


@pytest.mark.parametrize("value", VALUES)
def test_a_printed_setting_can_be_pasted(value: str) -> None:
    (argument,) = shlex.split(setting("key", value))
    parsed = OverridesParser.create().parse_override(argument).value()
    assert str(parsed).replace("\\$", "$") == value


@pytest.mark.parametrize("value", ["photos (1)", "a=b", "~/photos", "é"])
def test_an_error_shows_how_to_quote(run_command: Run, value: str) -> None:
    result = run_command("train.py", f"data.root={value}")
    assert result.returncode == 1
    assert setting("data.root", value) in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    (argument,) = shlex.split(setting("data.root", value))
    missing = run_command("train.py", argument)
    assert f"data.root={Path(value).expanduser()}: there is no such folder" in missing.stderr


def test_shown_and_passwords() -> None:
    assert shown("a\x1b[31m\r\n\u202eb\udce9 猫") == "a\\x1b[31m\\r\\n\\u202eb\\udce9 猫"
    assert without_password("https://me:secret@host/x?y=a:b@c") == "https://me:***@host/x?y=a:b@c"
    assert without_password("http://host:80/x@y") == "http://host:80/x@y"


def test_a_password_is_not_stored(run_command: Run, shared_root: Path, tmp_path: Path) -> None:
    url = "data.url='http://me:s3cret@localhost/x.zip'"
    result = run_command("train.py", f"data.root={shared_root}", *FAST, url, "hydra.run.dir=run")
    assert result.returncode == 0, result.stderr
    for file in (tmp_path / "run").rglob("*"):
        assert not file.is_file() or b"s3cret" not in file.read_bytes(), file
    assert "s3cret" not in result.stdout


def test_cells_that_a_spreadsheet_would_run_are_protected(tmp_path: Path) -> None:
    write_csv(tmp_path / "x.csv", ["=a"], [["=1+1"], ["+1"], ["-1.5"], ["-x"], ["@x"], ["a\nb"], [-2]])
    assert (tmp_path / "x.csv").read_text().splitlines() == ["'=a", "'=1+1", "+1", "-1.5", "'-x", "'@x", "a\\nb", "-2"]


def test_characters_without_a_font_are_escaped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    name = "$5_$ é \U000f0000"  # a private character that no font has
    assert drawable(name) == "$5_$ é \\U000f0000"
    figure = Figure()
    as_name([figure.text(0.1, 0.5, drawable(name))], [name])
    with caplog.at_level(logging.WARNING):
        figure.savefig(tmp_path / "x.png")
    assert not caplog.records
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.convert("L").getextrema()[0] < 100  # something is drawn
