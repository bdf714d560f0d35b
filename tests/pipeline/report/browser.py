"""A page in headless Chromium: what it logs, what it asks the network for, and its screenshots."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
# Without a person's click a page may play nothing.
FLAGS = ("--no-sandbox", "--autoplay-policy=no-user-gesture-required", "--mute-audio")


@contextlib.contextmanager
def chromium() -> Iterator:
    """Playwright's browser. Skips the test where there is no Chromium."""
    if CHROMIUM is None:
        pytest.skip("no chromium is installed: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(browser, page: Path, width: int = 1400, scheme: str = "light") -> Iterator:
    """Playwright's page of a file, and at the end no error and no request but for the file."""
    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    wrong: list[str] = []
    tab.on("console", lambda message: wrong.append(f"{message.type}: {message.text}"))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("request", lambda request: wrong.append(request.url[:80]) if _leaves(request) else 0)
    tab.goto(page.as_uri())
    yield tab
    tab.close()
    assert not wrong


def _leaves(request) -> bool:
    return not request.url.startswith(("file:", "data:"))
