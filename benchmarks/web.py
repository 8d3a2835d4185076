"""How fast the page of `export=web` is: `python -m benchmarks.web folder=<exported> photos=<folder>`.

Opens `web/` from a server of this machine, and `classifier.html`, each in a new headless Chromium (`apt-get install
chromium-driver`, `pip install selenium`). Prints the seconds until the page is usable; then those of a photo of
Kaggle's size and of one of 12 megapixels, medians, and of `most` photos; and the load of the machine before and after:
only times on an idle machine count. With `predictions=<predictions.csv>` of `predict=<photos> callbacks.tta.n_aug=0`,
also the largest difference of a number from Python's, and how many decisions differ.
"""

import csv
import os
import shutil
import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

from benchmarks.settings import from_command_line
from dogscats.data.photos.listing import image_names

USABLE = """
const done = arguments[0], look = () => document.body.dataset.ready ? done(performance.now()) : setTimeout(look, 5);
look();
"""
"""Waits until the page can be used; returns the milliseconds since it was opened."""

DONE = """
const [count, done] = arguments;
const told = ({name, probabilities, unlike, decision, seconds}) => ({name, probabilities, unlike, decision, seconds});
const look = () => items.length < count || of ? setTimeout(look, 5) : done(items.map(told));
look();
"""
"""Waits until so many photos are predicted; returns what the page says of them."""


@dataclass
class Web:
    """Settings of the measurement.

    Attributes:
        folder: folder with `web/` and `classifier.html`.
        photos: folder of photos of the classes.
        most: number of photos that are predicted together, evenly spaced.
        repetitions: how often the pages are opened, and single photos predicted.
        predictions: `predictions.csv` of Python for `photos`; empty for no comparison.
    """

    folder: str
    photos: str
    most: int = 100
    repetitions: int = 5
    predictions: str = ""


class Quiet(SimpleHTTPRequestHandler):
    """Serves files without a log."""

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine; yields the address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@contextmanager
def opened(address: str) -> Iterator[tuple[Any, float]]:
    """Open the page in a new browser; yields the browser, and the seconds until it could be used."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "no-first-run"):
        options.add_argument(f"--{argument}")
    with webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver"))) as browser:
        browser.set_script_timeout(600)
        browser.get(address)
        yield browser, browser.execute_async_script(USABLE) / 1000


def predicted(browser: Any, *files: Path) -> list[dict[str, Any]]:
    """Let the page predict photos; returns what it says of all that it has seen."""
    count = browser.execute_script("return items.length") + len(files)
    browser.find_element("id", "choose").send_keys("\n".join(map(str, files)))
    return list(browser.execute_async_script(DONE, count))


def draw(photos: list[Path], folder: Path) -> dict[str, Path]:
    """Make a photo of Kaggle's size, and one of 12 megapixels that repeats it: as much detail as a camera's."""
    small = Image.open(photos[0]).convert("RGB").resize((500, 375))
    large = Image.new("RGB", (4000, 3000))
    for number in range(64):
        large.paste(small, (number % 8 * 500, number // 8 * 375))
    files = {"a photo of 500 x 375": folder / "small.jpg", "a photo of 12 megapixels": folder / "large.jpg"}
    for file, picture in zip(files.values(), (small, large), strict=True):
        picture.save(file, quality=90)
    return files


def compare(found: list[dict[str, Any]], file: Path) -> str:
    """Compare what the page says with `predictions.csv`: largest difference of a number, and other decisions."""
    with file.open(newline="", encoding="utf-8") as rows:
        wanted = {Path(row["path"]).name: row for row in csv.DictReader(rows)}
    largest, other = 0.0, 0
    for item in found:
        row = wanted[item["name"]]
        numbers = [float(value) for name, value in row.items() if name.startswith("prob_") or name == "unlike"]
        given = [*([] if item["unlike"] is None else [item["unlike"]]), *item["probabilities"]]
        largest = max(largest, *(abs(a - b) for a, b in zip(given, numbers, strict=True)))
        other += item["decision"] != row.get("decision")
    return f"largest difference from Python {largest:.2g}, {other} other decisions"


def measure(settings: Web) -> Iterator[tuple[str, str]]:
    """Yield what was measured, and the result."""
    folder, root = Path(settings.folder).absolute(), Path(settings.photos).absolute()
    names = image_names(root)
    photos = [root / name for name in names[:: max(1, len(names) // settings.most)][: settings.most]]
    yield "load before", f"{os.getloadavg()[0]:.1f}"
    with served(folder / "web") as address, TemporaryDirectory() as scratch:
        pages = {"web/ usable": address, "classifier.html usable": (folder / "classifier.html").as_uri()}
        for name, page in pages.items():
            times = []
            for _ in range(settings.repetitions):
                with opened(page) as (_, seconds):
                    times.append(seconds)
            yield name, f"{statistics.median(times):.2f} s"
        with opened(address) as (browser, _):
            for name, file in draw(photos, Path(scratch)).items():
                times = [predicted(browser, file)[-1]["seconds"] for _ in range(settings.repetitions + 1)]
                yield name, f"{statistics.median(times[1:]):.2f} s"  # the first one warms up
        with opened(address) as (browser, _):
            found = predicted(browser, *photos)
            total = browser.execute_script("return document.getElementById('status').textContent")
            yield f"{len(photos)} photos", total.rpartition("took ")[2].rstrip(".")
    if settings.predictions:
        yield "agreement", compare(found, Path(settings.predictions))
    yield "load after", f"{os.getloadavg()[0]:.1f}"


if __name__ == "__main__":
    for name, result in measure(from_command_line(Web("???", "???"))):
        print(f"{name:<26}{result}", flush=True)
