"""A real browser without a screen."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from selenium import webdriver

from support.tools import need

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def chromium(folder: Path, *, window: str = "1500,900") -> Iterator[webdriver.Chrome]:
    """Debian's Chromium, with what it stores in `folder`; it asks nobody but the pages that it is sent to."""
    options = webdriver.ChromeOptions()
    options.binary_location = need("chromium", "chromium-browser", "google-chrome")
    for argument in (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--disable-dev-shm-usage", f"--user-data-dir={folder / 'browser'}", f"--window-size={window}",
    ):  # fmt: skip
        options.add_argument(argument)
    driver = webdriver.Chrome(options, webdriver.ChromeService(need("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()
