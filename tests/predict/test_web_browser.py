"""The page that runs a classifier in the visitor's browser, in Chromium; and documented programs."""

import re
import shutil
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import chromium, cut_off, downloaded, faults, until
from conftest import FAST, HEAD, REPOSITORY, TINY, draw_photo, draw_root
from interrupted_runs import run
from PIL import Image, ImageCms, features

from benchmarks.web import Web, measure
from dogscats.base.files import read_csv
from dogscats.predict.export.export import export_files
from dogscats.predict.export.web.web_runtime import VERSION
from dogscats.predict.predictor import Predictor

pytestmark = pytest.mark.slow

CLASSES = ("<i>cats", "$5 ${x} {{y}} קוף")

TOLERANCE = 0.02
"""Largest difference of a probability between browser and Python."""


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `node_modules` with the runtime and a decoder for Node."""
    folder, npm = tmp_path_factory.mktemp("npm"), shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed: apt-get install nodejs npm")
    packages = [f"onnxruntime-web@{VERSION}", "sharp"]
    command = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(folder), *packages]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.skip(f"npm cannot install {packages}: {result.stderr[:200]}")
    return folder / "node_modules"


@pytest.fixture(scope="module")
def exported(modules: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run and the files of `export=web`."""
    pytest.importorskip("onnxscript", reason="needs the extra 'onnx'")
    folder = tmp_path_factory.mktemp("web")
    run(draw_root(folder / "photos", classes=CLASSES), folder / "run", *FAST)
    runtime = str(modules / "onnxruntime-web" / "dist")
    export_files("web", Predictor.load(folder / "run"), folder, None, run_dir=folder / "run", runtime=runtime)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Photos of many shapes, modes and formats, turned by EXIF, with a colour profile, and large."""
    folder = tmp_path_factory.mktemp("photos")
    for number, size in enumerate([(60, 48), (500, 375), (375, 500), (40, 300), (33, 32), (2000, 1500)]):
        draw_photo(folder / f"{number}.jpg", number % 2, number, size)
    picture = Image.open(folder / "1.jpg")
    turned = Image.Exif()
    turned[0x0112] = 6
    picture.save(folder / "turned.jpg", exif=turned)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    picture.save(folder / "profile.png", icc_profile=profile)
    picture.convert("L").save(folder / "grey.jpg")
    layer = picture.convert("RGBA")
    layer.putalpha(Image.linear_gradient("L").resize(picture.size))
    layer.save(folder / "transparent.png")
    layer.quantize(16).save(folder / "palette.png")
    Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 250).save(folder / "deep.png")
    picture.save(folder / "=<b>$5 ${x}.webp", quality=90)
    for ending in ("bmp", "gif"):
        picture.save(folder / f"picture.{ending}")
    if features.check("avif"):
        picture.save(folder / "picture.avif")
    return sorted(folder.iterdir())


class Proxy(socketserver.StreamRequestHandler):
    """Refuses all requests, and keeps their first lines."""

    asked: list[str] = []  # noqa: RUF012

    def handle(self) -> None:
        """Refuse a request. Those of Chromium itself, such as for the time, do not count."""
        line = self.rfile.readline().decode(errors="replace")
        if not re.search(r"\.(google|googleapis|gvt1)\.com\b", line):
            self.asked.append(line)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """Chromium whose requests to other machines go to a proxy that counts them."""
    Proxy.asked.clear()
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        quiet = ("disable-background-networking", "disable-component-update", "disable-sync", "no-first-run")
        address = f"proxy-server=127.0.0.1:{proxy.server_address[1]}"
        browser = chromium("window-size=1100,900", address, *quiet, logs=["browser", "performance"])
        behavior = {"behavior": "allow", "downloadPath": str(tmp_path)}
        browser.execute_cdp_cmd("Browser.setDownloadBehavior", behavior)
        yield browser
        browser.quit()
        proxy.shutdown()


@pytest.fixture
def address(exported: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=exported / "web")) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class Tab:
    """The page in a browser, as a visitor sees it."""

    def __init__(self, browser: Any, address: str):
        self.browser = browser
        browser.get(address)
        self.until("document.body.dataset.ready")

    def until(self, script: str) -> Any:
        return until(self.browser, script)

    def text(self, name: str) -> str:
        return str(self.browser.execute_script("return document.getElementById(arguments[0]).innerText", name))

    def ask(self, *files: Path, done: bool = True) -> None:
        before = self.browser.execute_script("return items.length")
        self.browser.find_element("id", "choose").send_keys("\n".join(map(str, files)))
        if done:
            self.until(
                f"items.length === {before + len(files)} && of === 0 && document.getElementById('working').hidden"
            )

    def names(self) -> list[str]:
        """Names in the rows of the table that can be seen."""
        found = self.browser.execute_script("return [...rows.children].filter(r => !r.hidden).map(r => r.innerText)")
        return [row.split("\t")[0].strip() for row in found]

    def click(self, selector: str) -> None:
        self.browser.find_element("css selector", selector).click()


def check_answers(tab: Tab, predictor: Predictor, photos: list[Path], folder: Path) -> None:
    """Let the page predict photos, and compare its `predictions.csv` with that of Python."""
    tab.ask(*photos)
    tab.click("#csv")
    found = read_csv(downloaded(folder / "predictions.csv"))
    expected, unreadable = predictor.predict(photos, n_aug=0)
    assert not unreadable
    expected.write(folder / "expected.csv")
    rows = {Path(row["path"].removeprefix("'")).name: row for row in read_csv(folder / "expected.csv")}
    assert [*found[0]] == [*next(iter(rows.values()))]
    thresholds = predictor.reliability.plain.thresholds if predictor.reliability else None
    for row in found:
        want = rows[row["path"].removeprefix("'")]
        numbers = [name for name in row if name.startswith("prob_") or name == "unlike"]
        differences = {name: abs(float(row[name]) - float(want[name])) for name in numbers}
        assert max(differences.values()) < TOLERANCE, (row["path"], differences)
        if thresholds:
            probable = max(float(want[name]) for name in numbers if name != "unlike")
            near = abs(probable - thresholds.unsure_below) < TOLERANCE
            near |= abs(float(want["unlike"]) - thresholds.none_above) < TOLERANCE
            assert row["decision"] == want["decision"] or near, row


def test_answers_are_those_of_python_and_nothing_is_sent(
    browser: Any, address: str, exported: Path, photos: list[Path], tmp_path: Path
) -> None:
    predictor = Predictor.load(exported / "run")
    assert predictor.reliability
    check_answers(Tab(browser, address), predictor, photos, tmp_path)
    messages = [entry["message"] for entry in browser.get_log("performance")]
    sent = {url for message in messages for url in re.findall(r'"request":\{[^{}]*?"url":"(.*?)"', message)}
    assert {url for url in sent if not url.startswith((address, "blob:", "data:"))} == set()
    assert Proxy.asked == []
    assert [entry for entry in browser.get_log("browser") if "favicon" not in entry["message"]] == []


def test_files_that_are_no_photos_get_the_message_of_python(
    browser: Any, address: str, photos: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "text.jpg").write_text("no photo")
    (tmp_path / "empty.png").write_bytes(b"")
    Image.new("1", (12_000, 9_000)).save(tmp_path / "vast.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "scan.tiff")
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    whole = next(path for path in photos if path.name == "transparent.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:300])
    (tmp_path / "picture.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')
    tab = Tab(browser, address)
    for name, message in {
        "text.jpg": "it is not a picture of a known format.",
        "empty.png": "the file is empty.",
        "vast.png": "it has 12000 x 9000 pixels: 108 megapixels, more than 100.",
        "scan.tiff": "this browser cannot decode TIFF files: save it as JPEG or PNG first.",
        "phone.heic": "this browser cannot decode HEIC files: save it as JPEG or PNG first.",
        "cut.png": "it is damaged, or too large for this browser.",
        "picture.svg": "it is not a picture of a known format.",
    }.items():
        tab.ask(tmp_path / name)
        assert tab.text("verdict") == f"This photo cannot be used: {message}"
        tab.ask(photos[0])
        assert "probability" in tab.text("verdict") or "If it had to choose" in tab.text("verdict")


def test_the_table_is_sorted_filtered_and_cancelled(browser: Any, address: str, photos: list[Path]) -> None:
    tab = Tab(browser, address)
    tab.ask(*photos)
    assert tab.names() == [path.name for path in photos]
    for by, heading in (("certainty", "descending"), ("decision", "ascending")):
        tab.click(f"[data-by={by}]")
        assert browser.execute_script("return document.querySelector('[aria-sort]').ariaSort") == heading
    shares = browser.execute_script("return items.map(item => item.certainty)")
    tab.click("[data-by=certainty]")
    order = sorted(range(len(photos)), key=lambda index: -shares[index])
    assert tab.names() == [photos[index].name for index in order]
    browser.find_element("id", "search").send_keys("TURN")
    assert tab.names() == ["turned.jpg"]
    browser.find_element("css selector", "#rows tr:not([hidden]) button").click()
    assert tab.text("name") == "turned.jpg"
    tab.click("#clear")
    assert tab.text("status") == "Cleared."
    tab.ask(*(photos * 5), done=False)
    tab.until("!document.getElementById('working').hidden && items.length > 1")
    tab.click("#cancel")
    tab.until("document.getElementById('working').hidden")
    assert 1 < len(browser.execute_script("return items")) < 5 * len(photos)


DROP_AND_PASTE = """
const canvas = document.createElement("canvas"), context = canvas.getContext("2d");
context.fillRect(9, 9, 99, 50);
canvas.toBlob(blob => {
  const transfer = (...files) => files.reduce((all, file) => (all.items.add(file), all), new DataTransfer());
  const dataTransfer = transfer(new File([blob], "a.png"), new File(["x"], "b.txt"));
  document.body.dispatchEvent(new DragEvent("drop", {dataTransfer, bubbles: true, cancelable: true}));
  const clipboardData = transfer(new File([blob], "pasted.png"));
  document.body.dispatchEvent(new ClipboardEvent("paste", {clipboardData, bubbles: true}));
  document.body.dispatchEvent(new ClipboardEvent("paste", {clipboardData, bubbles: true}));
});
"""


def test_photos_are_dropped_and_pasted_as_fast_as_they_come(browser: Any, address: str) -> None:
    tab = Tab(browser, address)
    browser.execute_script(DROP_AND_PASTE)
    tab.until("items.length === 4 && !current")
    found = browser.execute_script("return items.map(item => [item.name, item.refused ?? null])")
    refused = "it is not a picture of a known format"
    assert sorted(found) == [["a.png", None], ["b.txt", refused], ["pasted.png", None], ["pasted.png", None]]


def test_keyboard_screen_reader_and_narrow_windows(browser: Any, address: str, photos: list[Path]) -> None:
    from selenium.webdriver import ActionChains, Keys

    def keys(*pressed: str) -> None:
        ActionChains(browser).send_keys(*pressed).perform()

    tab = Tab(browser, address)
    tab.ask(*photos[:3])
    order: list[str] = []
    for _ in range(12):
        keys(Keys.TAB)
        focused = "const {id, className, dataset} = document.activeElement; return id || dataset.by || className"
        order.append(browser.execute_script(focused))
    start = order.index("choose")
    expected = ["choose", "filter", "search", "csv", "clear", "scroll", "number", "decision", "certainty", "open"]
    assert order[start : start + len(expected)] == expected[: len(order) - start]
    browser.execute_script("document.querySelector('.open').focus()")
    keys(Keys.ARROW_DOWN)
    keys(Keys.ENTER)
    assert tab.text("name") == photos[1].name
    assert faults(browser) == []
    assert cut_off(browser) == []
    tab.ask(photos[3])  # at a zoom of 200 %
    browser.find_element("css selector", "#rows tr:last-child button").click()
    assert tab.text("name") == photos[3].name


def test_one_file_opens_without_a_server(browser: Any, exported: Path, photos: list[Path]) -> None:
    tab = Tab(browser, (exported / "classifier.html").as_uri())
    tab.ask(photos[0])
    expected, _ = Predictor.load(exported / "run").predict(photos[0], n_aug=0)
    np.testing.assert_allclose(
        browser.execute_script("return items[0].probabilities"), expected.probabilities[0], atol=TOLERANCE
    )
    assert Proxy.asked == []


HOSTILE = ("<!--<script>", "$&$1 ${x}", "קוף")

ODD_RUNS = {
    "a kernel head, padded": (HOSTILE, 20, [*TINY, "recipe=small", "data.fit=pad"]),
    "five heads on all depths, squashed": (
        HOSTILE,
        6,
        [*HEAD, "heads=5", "model.features=all", "data.fit=squash"],
    ),
    "a transformer of 300 classes": (
        tuple(f"class {number}" for number in range(300)),
        2,
        [*HEAD, "model.name=test_vit"],
    ),
}
"""Classes, training photos of each, and settings."""


@pytest.mark.parametrize("name", ODD_RUNS)
def test_odd_runs(name: str, browser: Any, modules: Path, photos: list[Path], tmp_path: Path) -> None:
    classes, count, settings = ODD_RUNS[name]
    root = draw_root(tmp_path / "photos", count, count, classes)
    run(root, tmp_path / "run", *settings, "callbacks.reports=null", "callbacks.tta.n_aug=0")
    if "five heads" in name:
        (tmp_path / "run" / "strangers.npz").unlink()
    predictor = Predictor.load(tmp_path / "run")
    runtime = str(modules / "onnxruntime-web" / "dist")
    export_files("web", predictor, tmp_path, None, run_dir=tmp_path / "run", runtime=runtime)
    tab = Tab(browser, (tmp_path / "classifier.html").as_uri())
    check_answers(tab, predictor, photos, tmp_path)
    bars = browser.find_elements("css selector", "#verdict .bars li")
    assert len(bars) == min(10, len(classes))
    assert ("and 290 less probable ones" in tab.text("verdict")) == (len(classes) == 300)
    tab.click("#known summary")
    assert tab.text("known").splitlines()[-1].split(", ") == list(predictor.classes)
    browser.find_element("id", "search").send_keys("TURN")
    assert tab.names() == ["turned.jpg"]
    assert cut_off(browser) == []
    assert [entry for entry in browser.get_log("browser") if "favicon" not in entry["message"]] == []


def test_the_benchmark_of_the_page(browser: Any, exported: Path, photos: list[Path], tmp_path: Path) -> None:
    Predictor.load(exported / "run").predict(photos, n_aug=0)[0].write(tmp_path / "expected.csv")
    settings = Web(str(exported), str(photos[0].parent), 3, 1, str(tmp_path / "expected.csv"))
    rows = dict(measure(settings))
    assert all(re.fullmatch(r"[\d.]+ s", rows[name]) for name in rows if "load" not in name and name != "agreement")
    assert set(rows) >= {"web/ usable", "classifier.html usable", "a photo of 12 megapixels", "3 photos"}
    found = re.fullmatch(r"largest difference from Python ([\d.e-]+), \d+ other decisions", rows["agreement"])
    assert found
    assert float(found[1]) < TOLERANCE


@pytest.mark.parametrize("language", ["python", "js"])
def test_programs_of_the_documentation(language: str, modules: Path, exported: Path, photos: list[Path]) -> None:
    page = (REPOSITORY / "docs" / "how-to" / "export.md").read_text()
    (program,) = re.findall(f"```{language}\n(.*?)```", page, re.DOTALL)
    assert len(program.splitlines()) <= 25
    file = modules.parent / f"predict.{ {'python': 'py', 'js': 'mjs'}[language] }"
    file.write_text(program)
    files = [path for path in photos if path.suffix == ".jpg" or path.name == "transparent.png"]
    expected, _ = Predictor.load(exported / "run").predict(files, n_aug=0)
    command = [sys.executable if language == "python" else "node", str(file), str(exported / "web" / "photo.onnx")]
    for photo, name, decision in zip(files, expected.predicted_classes, expected.decisions, strict=True):
        result = subprocess.run([*command, str(photo)], capture_output=True, text=True, check=False)
        assert result.stdout == f"{name} {decision}\n", (photo.name, result.stderr)
