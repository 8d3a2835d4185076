"""Headless Chromium for tests of pages."""

import shutil
import subprocess
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest


def chromium(*arguments: str, logs: Sequence[str]) -> Any:
    """Start Chromium with command-line arguments and logs to collect, or skip the test."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("Chromium or chromedriver is not installed: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", *arguments):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", dict.fromkeys(logs, "ALL"))
    return webdriver.Chrome(options, webdriver.ChromeService(driver))


class Shown:
    """A page in a browser, as a user sees it."""

    def __init__(self, browser: Any):
        self.browser = browser

    def all(self, selector: str) -> list[Any]:
        return list(self.browser.find_elements("css selector", selector))

    def text(self, selector: str) -> str:
        return str(self.browser.find_element("css selector", selector).text)

    def click(self, selector: str, number: int = 0) -> None:
        self.all(selector)[number].click()

    def keys(self, *keys: str) -> None:
        for key in keys:
            self.browser.switch_to.active_element.send_keys(key)


def until(browser: Any, script: str, *arguments: object) -> Any:
    """Wait until a script returns something, and return it."""
    end = time.monotonic() + 120
    while not (found := browser.execute_script(f"return {script}", *arguments)):
        assert time.monotonic() < end, (script, browser.execute_script("return document.body.innerText"))
        time.sleep(0.05)
    return found


def downloaded(file: Path) -> Path:
    """Wait until the browser has saved a file, whose name it has from the beginning if it is small."""
    end = time.monotonic() + 120
    while not file.exists():
        assert time.monotonic() < end, file
        time.sleep(0.05)
    return file


CUT_OFF = """
const scrolling = element => /auto|scroll/.test(getComputedStyle(element).overflowX);
const scrolls = element => element && (scrolling(element) || scrolls(element.parentElement));
return [...document.querySelectorAll("body *")].filter(element => {
  const {left, right, width} = element.getBoundingClientRect(), style = getComputedStyle(element);
  if (!width || style.clipPath !== "none" || element.closest("svg svg, svg *")) return false;
  const outside = (right > innerWidth + 1 || left < -1) && !scrolls(element.parentElement);
  const hidden = style.overflowX !== "visible" && !scrolls(element) && style.textOverflow !== "ellipsis";
  return outside || (hidden && element.innerText?.trim() && element.scrollWidth > element.clientWidth + 1);
}).map(element => element.outerHTML.slice(0, 200));
"""
"""Returns elements that stick out of the window, or whose text is cut without a sign of it."""


def cut_off(browser: Any) -> list[Any]:
    """What is cut off at four widths in pixels, and at the third one at a zoom of 200 %, which is left set."""
    found = []
    for width, zoom in ((390, 1), (768, 1), (1600, 1), (1100, 1), (1100, 2)):
        metrics = {"width": width // zoom, "height": 900 // zoom, "deviceScaleFactor": zoom, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        found += [(width, zoom, element) for element in browser.execute_script(CUT_OFF)]
        if browser.execute_script("return document.documentElement.scrollWidth > innerWidth"):
            found.append((width, zoom, "the page"))
    return found


@cache
def _axe() -> str:
    """Source of axe-core, a checker of accessibility; skips the test if it cannot be installed."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed: apt-get install nodejs npm")
    with TemporaryDirectory() as folder:
        command = [npm, "install", "--no-audit", "--no-fund", "--prefix", folder, "axe-core"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            pytest.skip(f"npm cannot install axe-core: {result.stderr[:200]}")
        return (Path(folder) / "node_modules" / "axe-core" / "axe.min.js").read_text()


def faults(browser: Any) -> list[Any]:
    """Faults of accessibility of the page that is shown, in light and in dark: rule and elements."""
    found = []
    for scheme in ("light", "dark"):
        emulated = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", emulated)
        browser.execute_script(_axe())
        found += browser.execute_async_script(
            "const done = arguments[0]; axe.run().then(({violations}) => done(violations.map(({id, nodes}) =>"
            "[id, nodes.map(({html}) => html)])))"
        )
    return found
