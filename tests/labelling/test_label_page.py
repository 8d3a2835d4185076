"""The page to label photos, in a real browser."""

import csv
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Shown, chromium, downloaded, faults
from conftest import draw_photo

from dogscats.labelling.label_page import Proposal, Sure, write_page

CLASSES = ["cats", "dogs", "deer <b>", "=goats"]
FORMULA = "=1.jpg"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """25 uncertain photos, 2 that are perhaps of no class, and 130 sure ones, two of which are on the page."""
    folder = tmp_path_factory.mktemp("pool #1")
    names = [FORMULA, *(f"a b/{number}.jpg" for number in range(24))]
    sure = [f"sure/{number}.jpg" for number in range(128)]
    for number, name in enumerate([*names, "none/1.jpg", "none/2.jpg", *sure]):
        draw_photo(folder / name, number % 2, number)
    proposals = [
        Proposal(name, "margin", CLASSES[number % 2], "cats 51 %, dogs 49 %") for number, name in enumerate(names)
    ]
    proposals += [Proposal(f"none/{number}.jpg", "none", "none", "cats 40 %") for number in (1, 2)]
    rest = [Sure(name, number % 2, 0.95 + number / 3000) for number, name in enumerate([*sure, *names[:2]])]
    file = folder.parent / "label #1.html"
    write_page(file, folder, CLASSES, proposals, rest)
    return file


class Opened(Shown):
    """The page to label photos."""

    def __init__(self, browser: Any, page: Path, folder: Path):
        super().__init__(browser)
        self.folder = folder
        browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
        browser.get(page.as_uri())

    def current(self) -> int:
        return int(self.all(".current")[0].get_attribute("data-number"))

    def saved(self) -> list[dict[str, str]]:
        file = self.folder / "labels.csv"
        file.unlink(missing_ok=True)
        self.click("#save")
        with downloaded(file).open(newline="", encoding="utf-8") as rows:
            return list(csv.DictReader(rows))


@pytest.fixture
def seen(page: Path, tmp_path: Path) -> Iterator[Opened]:
    """The page in headless Chromium, without a network."""
    browser = chromium("window-size=1280,900", "allow-file-access-from-files", logs=["browser"])
    browser.set_network_conditions(offline=True, latency=0, throughput=0)
    try:
        yield Opened(browser, page, tmp_path)
        assert browser.get_log("browser") == []  # no error, and nothing that the page's policy has blocked
    finally:
        browser.quit()


@pytest.mark.slow
def test_twenty_photos_by_keyboard(seen: Opened, page: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    assert [each.text for each in seen.all("#tabs button")] == ["Uncertain 25", "Perhaps none 2"]
    assert seen.text(".card .label") == "cats?"
    assert seen.text(".card .proposal") == "cats 51 %, dogs 49 %"
    seen.keys("2", Keys.ENTER, "0", Keys.SPACE)  # dogs, the proposal, none, skipped
    assert seen.current() == 4
    assert seen.text("#counter") == "4 of 27 decided: 2 dogs, 1 none of these, 1 skipped"
    seen.keys("d", "e")  # not dogs
    assert seen.text("#typed") == "de▏"
    assert [each.text for each in seen.all("#choices button")] == ["Enter deer <b>"]
    seen.keys(Keys.ENTER, "g", Keys.BACKSPACE)  # nothing is typed again
    assert seen.all("#typed") == []
    seen.keys("/", "=", Keys.ENTER)
    seen.keys("l", "i", "o", "n", "s")
    assert "Enter adds this class" in seen.text("#choices")
    seen.keys(Keys.ENTER)
    assert seen.current() == 7
    assert seen.text("#status") == "lions: a b/5.jpg"
    seen.keys("5")
    assert seen.text("#status") == "No class has the key 5."
    seen.keys("1", Keys.BACKSPACE)  # undone
    assert (seen.current(), seen.text("#status")) == (7, "undecided again: a b/6.jpg")
    seen.keys(*"1212121212")
    seen.keys(*[Keys.ENTER] * 3)
    assert seen.text("#counter").startswith("20 of 27 decided")
    seen.browser.refresh()
    assert seen.text("#counter").startswith("20 of 27 decided")  # from localStorage

    seen.click("#tabs button", 1)
    seen.keys(Keys.ENTER)
    assert seen.text("#status") == "none of these: none/1.jpg"
    rows = seen.saved()
    assert [Path(folder).parent for folder in {row["folder"] for row in rows}] == [page.parent]
    assert {row["by"] for row in rows} == {"you"}
    by_path = {row["path"]: (row["label"], row["asked"]) for row in rows}
    assert len(by_path) == len(rows) == 20  # one is skipped
    assert by_path["'" + FORMULA] == ("dogs", "margin")
    assert by_path["a b/1.jpg"] == ("none", "margin")
    assert by_path["none/1.jpg"] == ("none", "none")
    assert by_path["a b/3.jpg"] == ("deer <b>", "margin")
    assert by_path["a b/4.jpg"] == ("'=goats", "margin")
    assert by_path["a b/5.jpg"] == ("lions", "margin")
    assert "a b/2.jpg" not in by_path


@pytest.mark.slow
def test_full_size_the_rest_and_an_earlier_file(seen: Opened) -> None:
    from selenium.webdriver.common.keys import Keys

    # Full size: choices are beside the photo, and the next one follows.
    seen.keys("+")
    assert seen.text("#large-name") == FORMULA
    end = time.monotonic() + 10
    while seen.browser.execute_script("return document.getElementById('large-photo').naturalWidth") != 60:
        assert time.monotonic() < end
    seen.keys(Keys.ENTER)
    assert seen.text("#large-name") == "a b/0.jpg"
    seen.click("#large #choices button", 0)
    assert seen.text("#large-name") == "a b/1.jpg"
    seen.keys("+")
    assert seen.all("dialog[open]") == []
    assert len(seen.all("#footer #choices")) == 1
    assert seen.text("#counter") == "2 of 27 decided: 2 cats"

    # The rest: one is wrong, and the photos that are decided keep their decision.
    seen.click("#accept-rest")
    assert seen.text("#rest-title") == "Accept 128 photos as proposed, with probabilities of at least 95 %?"
    assert [len(each.find_elements("css selector", ".sample")) for each in seen.all("#samples section")] == [50, 50]
    seen.click(".sample")
    assert seen.text("#accept") == "Accept 127 photos"
    assert faults(seen.browser) == []
    seen.click("#accept")
    assert seen.text("#accept-rest") == "127 accepted: change"
    seen.keys(Keys.BACKSPACE)
    assert seen.text("#accept-rest") == "Accept the rest above 95 %"
    seen.click("#accept-rest")
    seen.click("#samples input")  # no cats
    seen.click("#accept")
    rows = seen.saved()
    assert [row["by"] for row in rows].count("proposed") == 64
    assert {(row["label"], row["asked"]) for row in rows if row["by"] == "proposed"} == {("dogs", "accepted")}
    assert len({row["path"] for row in rows}) == len(rows) == 66

    # A file of an earlier round: its rows are kept, and those about photos here are shown.
    earlier = seen.folder / "earlier.csv"
    others = [
        ["a b/9.jpg", "lions", "you", "margin", rows[0]["folder"]],
        ["/other/x.jpg", "dogs", "proposed", "accepted", "/other"],
    ]
    with earlier.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["path", "label", "by", "asked", "folder"], *others])
    seen.all("#file")[0].send_keys(str(earlier))
    assert seen.text("#status") == "2 labels loaded; they are saved together with yours."
    assert seen.text('[data-number="10"] .label') == "lions"
    assert [list(row.values()) for row in seen.saved() if row["path"] in ("a b/9.jpg", "/other/x.jpg")] == others[::-1]


@pytest.mark.slow
def test_it_is_accessible_and_fits_a_phone(seen: Opened) -> None:
    assert faults(seen.browser) == []
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    seen.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    assert seen.browser.execute_script("return document.documentElement.scrollWidth") <= 390
    seen.click("#choices button", 1)
    assert seen.text("#counter") == "1 of 27 decided: 1 dogs"
