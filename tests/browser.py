"""Headless Chromium for tests of pages."""

import shutil
import subprocess
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
