"""Fixtures that every test may use."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kfp import dsl

from flowparts import tables

# Reports and pages are looked at in a real browser; keep its pictures when asked to.
SCREENSHOTS = os.environ.get("FLOWPARTS_SCREENSHOTS")


@pytest.fixture
def artifact(tmp_path: Path) -> Callable[..., Any]:
    """Make an artifact to be written by a component: `artifact("train", dsl.Dataset)`."""

    def make(name: str, kind: type[dsl.Artifact] = dsl.Artifact) -> dsl.Artifact:
        return kind(name=name, uri=str(tmp_path / "artifacts" / name))

    return make


@pytest.fixture
def table(artifact: Callable[..., Any]) -> Callable[..., dsl.Dataset]:
    """Make a written table to be read by a component: `table(frame, "train")`."""

    def make(frame: pl.DataFrame | pl.LazyFrame, name: str = "table") -> dsl.Dataset:
        dataset: dsl.Dataset = artifact(name, dsl.Dataset)
        dataset.metadata.update(tables.write(frame, dataset.path))
        return dataset

    return make


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Give a headless Chromium (Selenium driver)."""
    from selenium import webdriver

    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("needs Debian's packages chromium and chromium-driver; `make system` installs them")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        "--window-size=1280,1600",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chromium = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    yield chromium
    chromium.quit()


@pytest.fixture
def open_page(browser: Any) -> Callable[[Path], Any]:
    """Open an HTML file in the browser, fail on any console error, return the driver."""

    def open_file(path: Path) -> Any:
        page = path
        if path.suffix != ".html":
            page = path.with_name(path.name + ".html")
            shutil.copyfile(path, page)
        browser.get(page.resolve().as_uri())
        errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        assert not errors, errors
        if SCREENSHOTS:
            target = Path(SCREENSHOTS)
            target.mkdir(parents=True, exist_ok=True)
            height = browser.execute_script("return document.documentElement.scrollHeight")
            browser.set_window_size(1280, min(height + 150, 6000))
            browser.save_screenshot(str(target / f"{page.parent.name}-{page.stem}.png"))
        return browser

    return open_file
