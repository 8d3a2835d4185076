"""The page of suspects: what is in it, and what a browser makes of it."""

import base64
import csv
import io
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import url2pathname

import pytest
from browser import Shown, chromium, cut_off, downloaded, faults, until
from conftest import FAST, Run, draw_photo, draw_root
from PIL import Image

from dogscats.base.files import cell, read_csv
from dogscats.data.photos.decisions import Decision
from dogscats.suspects.photo_page import SIDE
from dogscats.suspects.search import KINDS, Suspect, write_suspects
from dogscats.suspects.suspects_page import write_page

TAG = "<img src=x onerror=alert(1)>"
SCRIPT = f'cats/a, "b"\'{TAG}<!--<script>.jpg'
FORMULA = "=HYPERLINK(1).jpg"
CLASSES = ["$5", "=HYPERLINK(1)", "猫", f"</script>{TAG}"]

SUSPECTS = [
    Suspect("a.jpg", "$5", "猫", "label", 0.9, "", "predicted 猫 & co"),
    Suspect(SCRIPT, "猫", "$5", "label", 0.8, "", f"</script>{TAG} $5 \u2028"),
    Suspect("a.jpg", "$5", "", "duplicate", 1, FORMULA, "the same pixels"),
    Suspect(FORMULA, CLASSES[3], "=HYPERLINK(1)", "outlier", 0.6, "", "far from its class"),
    Suspect("missing.jpg", "$5", "", "quality", 0.55, "", "dark"),
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for number, name in enumerate(("a.jpg", SCRIPT, FORMULA)):
        draw_photo(root / name, number % 2, number)
    return root


@pytest.fixture(scope="module")
def page(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "suspects #1.html"
    write_page(file, f"Suspects in </title>{TAG} $5", photos, SUSPECTS, CLASSES)
    return file


def embedded(page: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """The data of a page, and its photos, as a browser finds them: an element ends at the first `</script`."""
    found = re.findall(r'<script type="application/json" id="([\w-]+)">(.*?)</script', page.read_text(), re.DOTALL)
    (_, data), *photos = found
    assert [name for name, _ in photos] == [f"photo-{number}" for number in range(len(photos))]
    return json.loads(data), [json.loads(photo) for _, photo in photos]


def test_the_table_of_suspects(tmp_path: Path) -> None:
    write_suspects(tmp_path / "suspects.csv", reversed(SUSPECTS))
    rows = read_csv(tmp_path / "suspects.csv")
    assert list(rows[0]) == ["path", "label", "suggested", "kind", "score", "twin", "reason"]
    assert [row["kind"] for row in rows] == ["label", "label", "duplicate", "outlier", "quality"]
    assert [row["path"] for row in rows[:2]] == [SCRIPT, "a.jpg"]  # the given order within a kind
    assert rows[2]["twin"] == "'" + FORMULA
    assert rows[3]["label"] == CLASSES[3]
    assert rows[3]["suggested"] == "'=HYPERLINK(1)"
    assert (rows[0]["score"], rows[1]["reason"]) == ("0.8", "predicted 猫 & co")
    assert "\\u2028" in rows[0]["reason"]


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        write_suspects(tmp_path / "suspects.csv", [Suspect("a.jpg", "cats", "", "odd", 1, "", "")])


def test_names_are_text(page: Path) -> None:
    text = page.read_text()
    assert {found[1] for found in re.finditer(r"(\w+)://", text)} == {"file"}
    assert TAG not in text
    assert "Suspects in &lt;/title&gt;&lt;img src=x onerror=alert(1)&gt; $5" in text
    assert text.count("<!--") == 0
    assert text.count("<script") == text.count("</script>") == 6  # the data, the program and four photos
    data, _ = embedded(page)
    assert [photo["name"] for photo in data["photos"]] == ["a.jpg", SCRIPT, FORMULA, "missing.jpg"]
    assert [photo["cell"] for photo in data["photos"]] == [str(cell(p)) for p in ("a.jpg", SCRIPT, FORMULA)] + [
        "missing.jpg"
    ]
    assert [name["name"] for name in data["classes"]] == CLASSES
    assert data["suspects"][1]["reason"] == f"</script>{TAG} $5 \\u2028"


def test_each_photo_is_embedded_once(page: Path) -> None:
    data, photos = embedded(page)
    assert [(each["photo"], each["twin"]) for each in data["suspects"]] == [
        *((0, None), (1, None), (0, 2)),
        *((2, None), (3, None)),
    ]
    for name, photo in zip(("a.jpg", SCRIPT, FORMULA), photos, strict=False):
        assert Path(url2pathname(photo["file"].removeprefix("file://"))).name == Path(name).name
        start, content = photo["src"].split(",")
        assert start == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
            assert picture.size == (60, 48)  # small ones are not enlarged


def test_an_unreadable_photo_is_named(page: Path, caplog: pytest.LogCaptureFixture, photos: Path) -> None:
    assert embedded(page)[1][3] == {"unreadable": "No such file or directory"}
    write_page(page.with_name("again.html"), "Again", photos, SUSPECTS, CLASSES)
    assert "1 of the 4 photos on the page cannot be read." in caplog.text
    assert embedded(page.with_name("again.html"))[0]["key"] == embedded(page)[0]["key"]


def test_at_most_so_many_of_a_kind(photos: Path, tmp_path: Path) -> None:
    suspects = [
        Suspect("a.jpg", "$5", "", kind, 1 - n / 501, "", str(n)) for kind in reversed(KINDS) for n in range(250)
    ]
    write_page(tmp_path / "page.html", "Many", photos, suspects, CLASSES)
    data, pictures = embedded(tmp_path / "page.html")
    assert [each["kind"] for each in data["suspects"]] == [kind for kind in KINDS for _ in range(200)]
    assert [each["reason"] for each in data["suspects"][:200]] == [str(n) for n in range(200)]
    assert [kind["likely"] for kind in data["kinds"]] == [250] * 5
    assert len(pictures) == 1


def test_large_photos_and_any_bytes_in_names(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9 \x1b.jpg")
    try:
        draw_photo(tmp_path / name, 0, 0, (1600, 1200))
    except OSError:
        pytest.skip("this file system takes no names that are not valid UTF-8")
    write_page(tmp_path / "page.html", name, tmp_path, [Suspect(name, name, name, "label", 1, "", name)], [])
    write_suspects(tmp_path / "suspects.csv", [Suspect(name, name, name, "label", 1, "", name)])
    data, (photo,) = embedded(tmp_path / "page.html")
    assert data["photos"][0]["cell"] == read_csv(tmp_path / "suspects.csv")[0]["path"] == "caf\\udce9 \\x1b.jpg"
    with Image.open(io.BytesIO(base64.b64decode(photo["src"].split(",")[1]))) as picture:
        assert picture.size == (SIDE, SIDE * 3 // 4)


def test_a_page_without_suspects(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", "None", tmp_path, [], ["cats"])
    data, photos = embedded(tmp_path / "page.html")
    assert (data["suspects"], data["kinds"], photos) == ([], [], [])


Open = Callable[[Path], Any]


@pytest.fixture
def open_page(tmp_path: Path) -> Iterator[Open]:
    """Opens pages in headless Chromium, which saves files in `tmp_path`."""
    browser = chromium("window-size=1280,900", logs=["browser"])
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})

    def open_(page: Path) -> Any:
        browser.get(page.as_uri())
        return browser

    try:
        yield open_
        assert browser.get_log("browser") == []  # no error, and nothing that the page's policy has blocked
    finally:
        browser.quit()


class Opened(Shown):
    """The page of suspects."""

    def select(self, selector: str, text: str, number: int = 0) -> None:
        from selenium.webdriver.support.ui import Select

        element = self.all(selector)[number]
        self.browser.execute_script("arguments[0].focus()", element)
        Select(element).select_by_visible_text(text)

    def chosen(self) -> list[str | None]:
        return [figure.get_attribute("data-chosen") for figure in self.all("figure")]

    def current(self) -> str | None:
        """Number of the suspect that keys are for."""
        return str(self.all(".current")[0].get_attribute("data-number"))

    def large(self) -> str | None:
        """Name of the photo that is shown at full size, once it is loaded."""
        if not self.all("dialog[open]"):
            return None
        until(self.browser, "document.getElementById('large-photo').naturalWidth")
        assert self.text("#large-note") == ""
        return self.text("#large-name")

    def asks_before_leaving(self) -> bool:
        return not self.browser.execute_script(
            "return window.dispatchEvent(new Event('beforeunload', {cancelable: true}))"
        )

    def load(self, file: Path) -> str:
        """Load decisions, and return what the page says."""
        self.browser.execute_script("document.getElementById('status').textContent = ''")
        self.all("#file")[0].send_keys(str(file))
        return str(until(self.browser, "document.getElementById('status').textContent"))

    def saved(self, folder: Path) -> list[list[str]]:
        file = folder / "decisions.csv"
        file.unlink(missing_ok=True)
        self.click("#save")
        with downloaded(file).open(newline="", encoding="utf-8") as rows:
            return list(csv.reader(rows))


@pytest.mark.slow
def test_decisions_in_a_browser(page: Path, open_page: Open, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    seen = Opened(open_page(page))
    seen.browser.set_network_conditions(offline=True, latency=0, throughput=0)
    # Names are text.
    assert seen.browser.title == seen.text("h1") == f"Suspects in </title>{TAG} $5"
    assert [each.text for each in seen.all("figcaption")] == ["a.jpg", SCRIPT, "a.jpg", FORMULA, FORMULA, "missing.jpg"]
    assert [each.text for each in seen.all(".given")] == ["$5", "猫", "$5", CLASSES[3], "$5"]
    assert seen.text(".card:nth-child(2) .reason") == f"</script>{TAG} $5 \\u2028"
    assert len(seen.all("#grid img")) == 5
    assert all(image.get_property("naturalWidth") == 60 for image in seen.all("#grid img"))
    assert "It cannot be read: No such file" in seen.all(".enlarge")[5].text
    assert not seen.asks_before_leaving()

    # Buttons. The photo in two cards has one decision. The next suspect comes up.
    seen.click("[data-decision=drop]", 0)
    assert seen.chosen() == ["drop", None, "drop", None, None, None]
    assert seen.current() == "1"
    assert seen.text("#counter") == "1 decided: 0 keep, 1 drop, 0 relabel"
    assert seen.asks_before_leaving()
    seen.click("[data-decision=drop]", 3)  # the twin
    assert seen.chosen() == ["drop", None, "drop", "drop", "drop", None]
    seen.click("[data-decision=drop]", 3)  # again: undecided
    seen.select("select[aria-label]", CLASSES[3], 5)
    assert seen.chosen() == ["drop", None, "drop", None, None, "relabel"]
    seen.click("[data-decision=relabel]", 1)  # to the class that is suggested

    # Keys
    seen.browser.refresh()
    seen.keys("k")  # of the first card, without a click
    assert seen.chosen() == ["keep", "relabel", "keep", None, None, "relabel"]
    assert seen.current() == "3"  # the next without a decision
    seen.keys("h")
    seen.keys(Keys.SHIFT + "d" + Keys.NULL)
    assert seen.chosen() == ["keep", "relabel", "keep", "drop", "drop", "relabel"]
    seen.keys("u")
    assert seen.chosen() == ["keep", "relabel", "keep", None, None, "relabel"]
    assert seen.current() == "2"
    seen.keys("3")  # nothing is suggested: a label is to be chosen
    assert seen.browser.switch_to.active_element.tag_name == "select"
    seen.keys(Keys.ESCAPE)
    assert seen.text("#status") == "Choose the new label."
    seen.keys("l")
    seen.keys("3")  # relabel to what is suggested, the class like a formula
    assert seen.text("#counter") == "4 decided: 1 keep, 0 drop, 3 relabel"
    assert seen.text("#status") == f"relabel as =HYPERLINK(1): {FORMULA}"
    seen.select("select[aria-label]", CLASSES[1], 5)
    seen.keys("u")
    assert seen.text("#status") == "relabel again: missing.jpg"
    assert seen.text("#counter") == "4 decided: 1 keep, 0 drop, 3 relabel"

    # Full size, also of the next suspect
    seen.browser.execute_script("window.scrollTo(0, 0)")
    seen.click(".enlarge", 0)
    assert seen.large() == "a.jpg"
    seen.keys("l")
    assert seen.large() == SCRIPT
    seen.keys(Keys.ESCAPE)
    assert seen.large() is None
    seen.keys(Keys.ENTER)
    assert seen.large() == SCRIPT
    seen.keys(Keys.ENTER)
    assert seen.large() is None

    # Filters
    seen.click("#tabs button", 1)
    assert [each.text for each in seen.all("#tabs button")][:2] == ["All 5", "Wrong labels 2"]
    assert len(seen.all(".card")) == 2
    seen.select("#class", "猫")
    assert [each.text for each in seen.all("figcaption")] == [SCRIPT]
    seen.click("#tabs button", 2)
    assert seen.text(".empty") == "There are no suspects here."
    seen.click("#tabs button", 0)
    seen.select("#class", "all")

    # Files. The project reads names as `cell` writes them.
    expected = [
        ["missing.jpg", "relabel", CLASSES[3]],
        [SCRIPT, "relabel", "$5"],
        ["a.jpg", "keep", ""],
        ["'" + FORMULA, "relabel", "'=HYPERLINK(1)"],
    ]
    header, *rows = seen.saved(tmp_path)
    assert header == ["path", "decision", "label"]
    assert sorted(rows) == sorted(expected)
    assert not seen.asks_before_leaving()
    seen.browser.refresh()
    assert seen.chosen() == ["keep", "relabel", "keep", "relabel", "relabel", "relabel"]  # from localStorage
    assert not seen.asks_before_leaving()

    # A file with a decision about another photo, the true name of one, an unknown decision, and Excel's mark.
    seen.browser.execute_script("localStorage.clear(); saved = true")
    seen.browser.refresh()
    assert seen.chosen() == [None] * 6
    other = 'other/"x",\n=1.jpg'
    for text in ([other, "drop", ""], [FORMULA, "relabel", "=HYPERLINK(1)"], ["a.jpg", "burn", ""], *expected[:2]):
        expected.append(text)
    with (tmp_path / "earlier.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([["path", "decision", "label"], *expected[4:], ["a.jpg", "relabel", "lions"]])
    assert seen.load(tmp_path / "earlier.csv").startswith("4 decisions loaded; 2 rows left out")
    assert seen.chosen() == [None, "relabel", None, "relabel", "relabel", "relabel"]
    assert sorted(seen.saved(tmp_path)[1:]) == sorted([*expected[:2], expected[3], [other, "drop", ""]])
    assert "has no columns path and decision" in seen.load(page)


@pytest.mark.slow
def test_the_page_begins_with_earlier_decisions(photos: Path, open_page: Open, tmp_path: Path) -> None:
    earlier = [
        Decision("line 2", "a.jpg", "keep", "$5"),
        Decision("line 3", "dropped.jpg", "drop", ""),  # not on the page
        Decision("line 4", FORMULA, "relabel", "=HYPERLINK(1)"),
    ]
    write_page(tmp_path / "page.html", "Again", photos, SUSPECTS, CLASSES, earlier)
    seen = Opened(open_page(tmp_path / "page.html"))
    assert seen.chosen() == ["keep", None, "keep", "relabel", "relabel", None]
    assert not seen.asks_before_leaving()
    seen.click("[data-decision=keep]", 0)  # now undecided
    expected = [["dropped.jpg", "drop", ""], ["'" + FORMULA, "relabel", "'=HYPERLINK(1)"]]
    assert sorted(seen.saved(tmp_path)[1:]) == sorted(expected)
    seen.browser.refresh()
    assert seen.chosen() == [None, None, None, "relabel", "relabel", None]


@pytest.mark.slow
def test_it_is_accessible(page: Path, open_page: Open) -> None:
    browser = open_page(page)
    assert faults(browser) == []
    Opened(browser).click(".enlarge")
    assert faults(browser) == []


@pytest.mark.slow
def test_twenty_decisions_by_keyboard_and_a_training_with_them(
    open_page: Open, tmp_path: Path, run_command: Run
) -> None:
    root = draw_root(tmp_path / "photos", train=20)
    names = [f"train/{name}s/{name}.{number}.jpg" for number in range(20) for name in ("cat", "dog")]
    suspects = [
        Suspect(name, label, other, "label", 0.9 - place / 50, "", "")
        for place, name in enumerate(names)
        for label, other in [("cats", "dogs") if "cat" in name else ("dogs", "cats")]
    ]
    write_page(tmp_path / "page.html", "Forty", root, suspects, ["cats", "dogs"])
    seen = Opened(open_page(tmp_path / "page.html"))
    assert seen.text("#summary") == "20 likely wrong labels"
    assert len(seen.all(".card")) == 20
    assert seen.text("#folds") == "Show 20 less likely: Wrong labels"
    seen.click("#folds button")
    assert len(seen.all(".card")) == 40
    seen.click("#hide")
    for number in range(20):
        assert seen.current() == str(number)
        seen.browser.execute_script("document.activeElement.blur()")  # keys need no focus
        seen.keys("kdr"[number % 3])
        assert len([each for each in seen.all(".card") if each.is_displayed()]) == 39 - number
    seen.keys("u")
    assert seen.current() == "19"
    assert len([each for each in seen.all(".card") if each.is_displayed()]) == 21
    seen.keys("k")
    decided = dict(zip(names[:20], ["keep", "drop", "relabel"] * 6 + ["keep", "keep"], strict=True))
    assert {path: decision for path, decision, _ in seen.saved(tmp_path)[1:]} == decided

    settings = [f"data.root={root}", f"data.decisions={tmp_path / 'decisions.csv'}", "hydra.run.dir=run"]
    result = run_command("train.py", *settings, *FAST)
    assert result.returncode == 0, result.stderr
    assert "6 photos dropped (train 6), 6 relabeled (train 6). 20 of 20 decisions apply\n" in result.stdout

    seen.browser.execute_script("window.scrollTo(0, document.body.scrollHeight)")
    seen.click("#hide")
    for _ in range(19):
        seen.keys("u")
    assert seen.current() == "1"
    assert seen.browser.execute_script(IN_VIEW, ".current", seen.browser.execute_script(HEADER))
    assert seen.saved(tmp_path)[1:] == [[names[0], "keep", ""]]
    seen.browser.refresh()
    assert len(seen.all(".card")) == 20
    assert cut_off(seen.browser) == []
    seen.click("[data-decision=drop]", 3)  # at a zoom of 200 %
    assert seen.chosen()[:5] == ["keep", None, None, "drop", None]
    seen.click(".enlarge")
    assert seen.large() == names[0]
    assert seen.text("#large-labels").split() == ["cats", "→", "dogs", "score", "0.900"]
    assert seen.browser.execute_script(IN_VIEW, "#close", 0)


IN_VIEW = """
const {top, bottom} = document.querySelector(arguments[0]).getBoundingClientRect();
return top >= arguments[1] && bottom <= innerHeight;
"""
"""Whether an element is in the window, below a height."""

HEADER = "return document.querySelector('header').offsetHeight"


@pytest.mark.slow
def test_ten_thousand_suspects_in_a_browser(open_page: Open, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    root, file = tmp_path / "photos", tmp_path / "page.html"
    draw_photo(root / "0.jpg", 0, 0, (200, 160))
    for number in range(1, 10000):
        (root / f"{number}.jpg").hardlink_to(root / f"{number - number % 500}.jpg") if number % 500 else draw_photo(
            root / f"{number}.jpg", 0, number, (200, 160)
        )
    classes = [f"class {number}" for number in range(1000)]
    suspects = [
        Suspect(f"{n}.jpg", classes[n % 1000], classes[(n + 1) % 1000], "label", 1 - n / 20001, "", "")
        for n in range(10000)
    ]
    start = time.perf_counter()
    write_page(file, "Many", root, suspects, classes, per_kind=10000)
    written = time.perf_counter()
    seen = Opened(open_page(file))
    assert len(seen.all(".card")) >= 100
    opened = time.perf_counter()
    assert len(seen.all(".card")) <= 300
    seen.click("[data-decision=drop]")
    seen.keys("k", *[Keys.ARROW_DOWN] * 40)
    assert len(seen.all(".card")) > 100
    seen.browser.execute_script("window.scrollTo(0, document.body.scrollHeight)")
    clicked = time.perf_counter()
    seen.select("#class", "class 7")
    assert len(seen.all(".card")) == 10
    filtered = time.perf_counter()
    assert seen.text("#counter") == "2 decided: 1 keep, 1 drop, 0 relabel"
    print(
        f"\n10,000 suspects, {file.stat().st_size / 1e6:.0f} MB: written in {written - start:.1f} s, opened in "
        f"{opened - written:.1f} s; 44 keys {clicked - opened:.1f} s, filtered in {filtered - clicked:.1f} s"
    )
    assert opened - written < 60
