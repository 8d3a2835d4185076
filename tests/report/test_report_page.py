"""The page of a run: what is in it, and what a browser makes of it."""

import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import chromium, cut_off, faults
from conftest import FAST, HEAD, Run
from PIL import Image

from dogscats.base.files import read_csv, write_csv
from dogscats.report.card import write_card
from dogscats.report.facts import Facts
from dogscats.report.page import FILE, MAX_JPEG_WIDTH, MAX_PNG_BYTES, MOST_ROWS, data_url, write_page
from dogscats.suspects.search import Suspect, write_suspects

TAG = "<img src=x onerror=alert(1)>"
CLASSES = ["$5_$ & co", f"</td>{TAG}<script>", "=HYPERLINK(1)", "猫\x1b[31m"]

CONFIG = """
seed: 3
heads: 2
class_weights: none
lr: 0.01
data: {root: "/secret/$5 <b>", size: 32, fit: crop, batch_size: 8, limit: null}
augment: {_target_: dogscats.side_on, _partial_: true}
model: {_target_: dogscats.resnet34, weights: imagenet, features: last}
callbacks: {tta: {_target_: dogscats.TTA, n_aug: 2}}
trainer: {}
recipe:
  first: {lr: 0.01, epochs: 2, precompute: true}
  second: {lr: 0.02, cycles: 1, freeze_to: 0, keep: best}
"""


def draw_run(run_dir: Path, classes: list[str] = CLASSES) -> Path:
    """The directory of a finished run with all files that the page shows, but small ones."""
    run_dir.mkdir(parents=True)
    (run_dir / "config.yaml").write_text(CONFIG)
    counts = np.eye(len(classes), dtype=int) * 9
    counts[0, 1], counts[1, 0] = 2, 1
    counts[-1] = 0  # a class without photos
    n, right = int(counts.sum()), int(counts.trace())
    stage = {"epochs": 2, "train_loss": 0.5, "valid_loss": 0.25, "valid_acc": 0.875, "seconds": 1.5}
    final = {"n": n, "confusion_matrix": counts.tolist()}
    for name, value in (("acc", right / n), ("loss", 0.25), ("balanced_acc", 0.8), ("macro_f1", 0.7), ("ece", 0.0625)):
        final |= {f"valid_{name}": value, f"valid_{name}_tta": value}
    metrics = {"classes": classes, "lr_finder": {"first": 0.0123}, "stages": {"first": stage, "second": stage}}
    (run_dir / "metrics.json").write_text(json.dumps(metrics | {"final": final, "seconds": 9, "peak_rss_mb": 100}))
    pairs = [(classes[0], classes[1], 2), (classes[1], classes[0], 1)]
    write_csv(run_dir / "confused_pairs.csv", ["actual", "predicted", "photos"], pairs)
    rows = [(stage, epoch, 0.5, 0.25, 0.875) for stage in ("first", "second") for epoch in range(2)]
    write_csv(run_dir / "history.csv", ["stage", "epoch", "train_loss", "valid_loss", "valid_acc"], rows)
    trace = [(stage, step, 1e-4, 1e-3, 1e-2) for stage in ("first", "second") for step in range(3)]
    write_csv(run_dir / "lr_trace.csv", ["stage", "step", "early", "late", "head"], trace)
    curve = [(step, 1e-5 * 2**step, 1 + abs(step - 12) / 9, 1 + abs(step - 12) / 9) for step in range(20)]
    write_csv(run_dir / "lr_finder.csv", ["iteration", "lr", "loss", "smoothed_loss"], curve)
    photos = [
        (split, f"{number}.jpg", 1, "0", name) for split in ("train", "valid") for number, name in enumerate(classes)
    ]
    write_csv(run_dir / "photos.csv", ["split", "path", "bytes", "sample", "label"], photos)
    write_csv(run_dir / "decisions.csv", ["path", "decision", "label"], [("a.jpg", "drop", ""), ("b.jpg", "keep", "")])
    start = {
        "date": "2026-11-26T19:07:23+00:00", "command": f"python train.py 'data.root=\"{TAG}\"'",
        "folder": "/secret/$5", "device": "CPU (2 threads)", "precision": "32-true",
        "versions": {"torch": "2.15.0"}, "commit": "1234abcd",
    }  # fmt: skip
    resumed = start | {"command": "python train.py resume=run", "versions": {"torch": "2.16.0"}}
    (run_dir / "environment.json").write_text(json.dumps([start, resumed]))
    for name in ("confusion_matrix", "most_wrong", "most_uncertain", "random_right", "augmentation", "reliability"):
        Image.new("RGB", (40, 30), "teal").save(run_dir / f"{name}.png")
    (run_dir / "holiday.png").write_bytes(b"a file of the user's own")
    return run_dir


class Page(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, file: Path):
        super().__init__()
        self.elements: list[tuple[str, dict[str, Any]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(file.read_text())
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if self.open[-1:] != ["style"] else ""

    def all(self, tag: str) -> list[dict[str, Any]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = draw_run(tmp_path_factory.mktemp("runs") / "run #1")
    write_page(folder)
    return folder


def test_the_page_has_everything(run_dir: Path) -> None:
    page = Page(run_dir / FILE)
    for shown in (
        *(
            "resnet34 on $5 <b>",
            "90 %",
            "0.0625",
            "It suggests 0.012.",
            "2 epochs, training head on precomputed activations",
        ),
        *("keep=best", "1 drop, 1 keep", "torch 2.16.0", "commit 1234abcd", "python train.py resume=run"),
        *("seed: 3", "suspects=true", "run #1", f"python train.py 'data.root=\"{TAG}\"'", "Training loss"),
    ):
        assert shown in page.text, shown
    assert len(page.all("svg")) == 4  # loss, accuracy, schedule, LR finder
    assert len(page.all("img")) == 5  # the confusion matrix is a table
    size = (run_dir / FILE).stat().st_size
    assert f"this page: {size / 1e6:.1f} MB" in page.text


def test_verdict_confusion_and_worst_photos_come_before_losses_and_calibration(run_dir: Path) -> None:
    page = Page(run_dir / FILE)
    sections = [section["id"] for section in page.all("section")]
    assert sections == [
        *("confusion", "errors", "suspects", "results"),
        *("calibration", "stages", "settings", "reproduce"),
    ]
    header = page.text[: page.text.index("rows are the actual class")]
    assert "Right on" in header
    assert "loss" not in header.lower()
    assert "Probabilities are off by 6 % on average; no temperature corrects them." in page.text


@pytest.mark.parametrize("temperature", [1.0, 1.3])
def test_a_run_is_calibrated_only_by_a_temperature(run_dir: Path, tmp_path: Path, temperature: float) -> None:
    copy = Path(shutil.copytree(run_dir, tmp_path / "run"))
    row = {"temperature": temperature, "ece_before": 0.02, "ece_after": None, "unsure_below": 0.5, "none_above": 0.6}
    row |= {"kept": 0.95, "accuracy_kept": 0.97, "accuracy_by_share": [[0.5, 1.0], [1.0, 0.9]]}
    (copy / "reliability.json").write_text(json.dumps({"plain": row}))
    text = Page(write_page(copy)).text
    assert ("a temperature corrects those of new photos" in text) == (temperature != 1)
    assert "95 % of the validation photos are classified, 97 % of these correctly" in text
    assert ("calibrated" in write_card(copy).read_text()) == (temperature != 1)


def test_it_needs_no_network_and_runs_no_code(run_dir: Path) -> None:
    page = Page(run_dir / FILE)
    assert not page.all("script")
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "data:").startswith(("data:", "#")), (tag, attributes)
    (policy,) = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert policy.startswith("default-src 'none'")


def test_names_are_text(run_dir: Path) -> None:
    text = (run_dir / FILE).read_text()
    assert TAG not in text
    assert "\x1b" not in text
    page = Page(run_dir / FILE)
    for name in (*CLASSES[:3], "猫\\x1b[31m"):
        assert page.text.count(name) >= 2  # photos by class, and results by class


def test_it_can_be_read_without_seeing_it(run_dir: Path) -> None:
    page = Page(run_dir / FILE)
    assert all(picture["alt"] for picture in page.all("img"))
    assert all(figure["aria-label"] and figure["role"] == "img" for figure in page.all("svg"))
    assert all(heading["scope"] in ("row", "col") for heading in page.all("th"))
    ids = [attributes["id"] for tag, attributes in page.elements if tag in ("section", "h2") and "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [link["href"] for link in page.all("a")]
    assert [f"#{each}" for each in ids if not each.endswith("-title")] == links
    for section in page.all("section"):
        assert section["aria-labelledby"] in ids


@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.parametrize(
    "file",
    [
        *("history.csv", "lr_trace.csv", "lr_finder.csv", "photos.csv", "decisions.csv", "environment.json"),
        *("most_wrong.png", "most_uncertain.png", "augmentation.png", "reliability.png"),
    ],
)
def test_a_missing_file_leaves_its_section_out(run_dir: Path, tmp_path: Path, file: str, caplog: Any) -> None:
    copy = Path(shutil.copytree(run_dir, tmp_path / "run"))
    before = Page(write_page(copy))
    (copy / file).unlink()
    after = Page(write_page(copy))
    assert not caplog.records
    assert len(after.elements) < len(before.elements)
    assert "Reproduce this run" in after.text


@pytest.mark.usefixtures("blank_pictures")
def test_a_damaged_picture_is_named_and_left_out(run_dir: Path, tmp_path: Path, caplog: Any) -> None:
    copy = Path(shutil.copytree(run_dir, tmp_path / "run"))
    (copy / "most_wrong.png").write_bytes(bytes(MAX_PNG_BYTES + 1))
    (copy / "history.csv").write_text("stage,epoch,train_loss\nfirst,0,x")
    write_page(copy)
    assert "most_wrong.png could not be embedded" in caplog.text
    assert "loss could not be drawn" in caplog.text
    assert len(Page(copy / FILE).all("img")) == 4


@pytest.mark.usefixtures("blank_pictures")
def test_a_data_module_of_ones_own(run_dir: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run_dir, tmp_path / "run"))
    config = re.sub(r"data: .*", "data: {_target_: mine.Photos}", (copy / "config.yaml").read_text())
    (copy / "config.yaml").write_text(config)
    assert "resnet34 on photos" in Page(write_page(copy)).text
    assert "# resnet34 on photos" in write_card(copy).read_text()


@pytest.mark.usefixtures("blank_pictures")
def test_a_run_of_an_older_version(run_dir: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run_dir, tmp_path / "run"))
    metrics = json.loads((copy / "metrics.json").read_text())
    metrics["final"] = {key: value for key, value in metrics["final"].items() if "ece" not in key and "f1" not in key}
    (copy / "metrics.json").write_text(json.dumps(metrics))
    write_csv(copy / "photos.csv", ["split", "path", "bytes", "sample"], [("train", "a.jpg", 1, "0")])
    write_page(copy)
    assert "Probabilities are off by" not in Page(copy / FILE).text


@pytest.mark.slow
def test_a_page_of_thousands_of_classes_is_bounded(tmp_path: Path) -> None:
    run_dir = draw_run(tmp_path / "run", [f"breed {number}" for number in range(3000)])
    page = Page(write_page(run_dir))
    assert len(page.all("tr")) < 10 * MOST_ROWS
    assert f"The {MOST_ROWS} classes with the lowest recall, of 3,000" in page.text
    assert "... and 2980 more" in page.text
    facts = Facts(run_dir)
    assert facts.confused == [("breed 0", "breed 1", 2), ("breed 1", "breed 0", 1)]
    assert facts.per_class[0]["name"] == "breed 0"
    assert facts.per_class[-1]["recall"] is None


@pytest.mark.usefixtures("blank_pictures")
def test_suspects_are_listed_worst_first(run_dir: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run_dir, tmp_path / "run"))
    labels = [Suspect(f"{TAG}{number}.jpg", "$5", "猫", "label", 1 - number / 20, "", "") for number in range(15)]
    write_suspects(tmp_path / "suspects.csv", [*labels, Suspect("a.jpg", "$5", "", "leak", 1, "twin.jpg", "same")])
    write_page(copy, tmp_path)
    text = Page(copy / FILE).text
    assert TAG not in (copy / FILE).read_text()
    assert f"{TAG}9.jpg" in text
    assert f"{TAG}10.jpg" not in text
    assert "twin.jpg" in text
    assert str(tmp_path / "suspects.html") in text


def test_large_pictures_become_small_jpegs(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 2400, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.png")
    url = data_url(tmp_path / "x.png")
    assert url.startswith("data:image/jpeg;base64,")
    assert len(url) < (tmp_path / "x.png").stat().st_size / 3
    Image.new("RGB", (10 * MAX_JPEG_WIDTH, 10)).save(tmp_path / "small.png")
    assert data_url(tmp_path / "small.png").startswith("data:image/png;base64,")


def test_a_run_ends_with_its_page_and_a_search_adds_suspects(
    run_command: Run, shared_root: Path, tmp_path: Path
) -> None:
    run, settings = tmp_path / "my run", [f"data.root={shared_root}", *HEAD]
    result = run_command("train.py", *settings, 'hydra.run.dir="my run"')
    assert result.returncode == 0, result.stderr
    assert f"Open {run / FILE} in a browser" in result.stdout
    assert "could not be" not in result.stdout
    before = Page(run / FILE)
    assert "have not been searched for" in before.text
    assert {picture["alt"][:12] for picture in before.all("img")} >= {"Reliability ", "The photos t"}
    (start,) = json.loads((run / "environment.json").read_text())
    assert start["command"].endswith(" ".join(settings))
    assert start["command"] in before.text
    assert set(start["versions"]) >= {"python", "torch", "torchvision"}

    searched = run_command("evaluate.py", 'run="my run"', "suspects=true", "hydra.run.dir=found")
    assert searched.returncode == 0, searched.stderr
    after = Page(run / FILE).text
    assert "have not been searched for" not in after
    likely = [row["path"] for row in read_csv(tmp_path / "found" / "suspects.csv") if float(row["score"]) > 0.5]
    assert all(path in after for path in likely[:1])
    assert ("none that are likely" in after) == (not likely)


def test_a_damaged_file_in_the_folder_of_a_run_costs_figures_and_page_alone(
    run_command: Run, shared_root: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "environment.json").write_text("not JSON")
    result = run_command("train.py", f"data.root={shared_root}", *FAST, "hydra.run.dir=run")
    assert result.returncode == 0, result.stderr
    assert "figures could not be drawn" in result.stdout
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_a_page_that_fails_costs_nothing_else_and_a_resumed_run_writes_it(
    run_command: Run, shared_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [f"data.root={shared_root}", *FAST]
    monkeypatch.setattr("dogscats.report.page.write_page", lambda *_: 1 / 0)
    result = run_command("train.py", *arguments, "hydra.run.dir=run")
    assert result.returncode == 0, result.stderr
    assert "report.html could not be written: ZeroDivisionError" in result.stdout
    assert "MODEL_CARD.md" in result.stdout
    assert "all of this on one page" not in result.stdout

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dogscats.report.page.write_page", stop)
    assert run_command("train.py", *arguments, "hydra.run.dir=stopped").returncode == 1
    assert not (tmp_path / "stopped" / FILE).exists()
    monkeypatch.undo()
    resumed = run_command("train.py", "resume=stopped")
    assert resumed.returncode == 0, resumed.stderr
    page = Page(tmp_path / "stopped" / FILE)
    assert "Resumed" in page.text
    commands = [start["command"] for start in json.loads((tmp_path / "stopped" / "environment.json").read_text())]
    assert commands[1].endswith("resume=stopped")
    assert "hydra.run.dir" not in commands[0]


@pytest.fixture
def browser() -> Iterator[Any]:
    driver = chromium(logs=["browser"])
    yield driver
    driver.quit()


@pytest.mark.slow
def test_it_fits_all_widths_and_figures_have_the_colors_of_the_page(browser: Any, run_dir: Path) -> None:
    browser.get((run_dir / FILE).as_uri())
    assert browser.get_log("browser") == []
    assert cut_off(browser) == []
    for scheme in ("light", "dark"):
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        colors = browser.execute_script(
            "return ['body', 'svg text', 'section'].map(e => getComputedStyle(document.querySelector(e)))"
            ".map(s => [s.color, s.fill, s.backgroundColor])"
        )
        assert colors[0][0] == colors[1][1]  # text in figures has the color of the page's
        assert colors[0][0] != colors[2][2]


@pytest.mark.slow
def test_it_is_accessible(browser: Any, run_dir: Path) -> None:
    browser.get((run_dir / FILE).as_uri())
    assert faults(browser) == []
