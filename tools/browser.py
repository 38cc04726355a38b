"""A headless Chromium, from Debian's packages chromium and chromium-driver."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flowparts.util.errors import MissingError

_FLAGS = (
    "--headless=new",
    # As root, Chromium only starts without its sandbox; it only opens our own pages.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@contextmanager
def chromium(width: int, height: int) -> Iterator[Any]:
    """Yield a browser (Selenium driver) that logs the pages' console.

    Args:
        width: Width of its window in pixels.
        height: Height in pixels.

    Raises:
        MissingError: Chromium isn't installed.
    """
    from selenium import webdriver

    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver:
        raise MissingError("no Chromium; install Debian's packages chromium and chromium-driver: make system")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*_FLAGS, f"--window-size={width},{height}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(
        options=options, service=webdriver.ChromeService(executable_path=driver)
    ) as browser:
        yield browser
