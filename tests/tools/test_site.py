"""The site is made from real runs and opened in a real browser, from disk."""

import importlib
import inspect
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from kfp import compiler
from kfp.components import load_component_from_file
from kfp.dsl.python_component import PythonComponent

from backends import catalogue
from backends.local import run_page, runner
from flowparts import __version__
from flowparts.components import REGISTRY
from tools import site

COMPONENTS = catalogue.components()
QUICK = [{"estimator": "Linear", "parameters": {}}]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        record = runner.run(catalogue.pipeline("tabular-training"), {"candidates": QUICK}, folder / "runs")
    assert record.succeeded, record.problem
    run_page.write(record)
    return site.build(folder / "runs", folder / "site", REGISTRY, __version__, None).parent


class _Links(HTMLParser):
    def __init__(self, page: Path):
        super().__init__()
        self.found: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.found += [value for key in ("href", "src") if (value := named.get(key))]
        self.anchors |= {value for key in ("id", "name") if (value := named.get(key))}


def test_every_link_leads_somewhere_on_disk(built: Path) -> None:
    pages = {page: _Links(page) for page in built.rglob("*.html") if "reports" not in page.parts}
    assert len(pages) > len(COMPONENTS) + len(catalogue.pipelines())
    for page, links in pages.items():
        for link in links.found:
            if link.startswith(("http://", "https://", "data:", "mailto:")):
                continue
            path, _, anchor = link.partition("#")
            target = (page.parent / path.partition("?")[0]).resolve() if path else page
            assert target.is_file(), f"{page.name} links to {link}"
            if anchor and target in pages:
                assert anchor in pages[target].anchors, f"{page.name} links to {link}"


def test_no_page_loads_anything_from_elsewhere(built: Path) -> None:
    for page in built.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert 'src="http' not in text
        assert 'rel="stylesheet" href="http' not in text


def test_pages_open_without_an_error_and_the_search_finds_a_component(
    built: Path, open_page: Callable[[Path], Any], browser: Any
) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    pages = (
        "index",
        "components/split_table",
        "pipelines/tabular_training",
        "architecture",
        "decisions/README",
    )
    for page in pages:
        assert open_page(built / f"{page}.html").find_element("tag name", "h1").text

    open_page(built / "index.html")
    field = browser.find_element("name", "q")
    field.send_keys("bootstrap resamples")
    field.submit()
    WebDriverWait(browser, 20).until(
        lambda driver: "found" in driver.find_element("id", "search-results").text
    )
    found = browser.find_element("link text", "register_champion")
    browser.execute_script("arguments[0].click()", found)
    assert browser.current_url.partition("?")[0].endswith("components/register_champion.html")
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_a_page_shows_the_report_and_gives_the_yaml(
    built: Path, open_page: Callable[[Path], Any], browser: Any
) -> None:
    page = open_page(built / "components" / "evaluate_model.html")
    picture = page.find_element("css selector", "img[src*=reports]")
    assert page.execute_script("return arguments[0].naturalWidth", picture) == 1200
    parts = [*COMPONENTS, *catalogue.pipelines()]
    files = [file for file in sorted(built.glob("_downloads/*/*.yaml")) if file.stem in parts]
    assert sorted(file.stem for file in files) == sorted(parts)
    for file in files:
        load_component_from_file(str(file))
    page.execute_script("arguments[0].closest('a').click()", picture)
    assert "reports/evaluate_model.html" in browser.current_url
    assert "No slice columns were given" in browser.page_source


def test_the_reference_has_what_each_room_exports(built: Path) -> None:
    for room in ("ingest", "models", "reports", "tables"):
        anchors = _Links(built / "reference" / f"{room}.html").anchors
        package = importlib.import_module(f"flowparts.{room}")
        exported = {name: getattr(package, name, None) for name in package.__all__}
        names = {name for name, each in exported.items() if each is not None and not inspect.ismodule(each)}
        assert {f"flowparts.{room}.{name}" for name in names} <= anchors


def test_every_decision_record_is_on_the_site_under_its_theme(built: Path) -> None:
    links = _Links(built / "decisions" / "README.html").found
    records = sorted((site.ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    assert records
    assert {f"{record.stem}.html" for record in records} <= set(links)


@pytest.mark.parametrize(("name", "component"), COMPONENTS.items(), ids=COMPONENTS)
def test_an_example_compiles(name: str, component: PythonComponent, tmp_path: Path) -> None:
    text = site.example(component)
    assert f"    {name}(" in text
    file = tmp_path / "example.py"
    file.write_text(text)
    namespace: dict[str, Any] = {}
    exec(compile(text, str(file), "exec"), namespace)
    compiler.Compiler().compile(namespace["example"], str(tmp_path / "example.yaml"))
    container = component.component_spec.implementation.container
    assert f"image: {container.image}" in (tmp_path / "example.yaml").read_text()


def test_a_call_is_shown_as_written_in_the_pipeline() -> None:
    called = site.uses("split_table")["tabular_training"]
    assert called.startswith("parts = split_table(\n    table=table,\n")


def test_a_page_that_sphinx_refuses_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = subprocess.run

    def refuse(command: list[str], **options: Any) -> Any:
        (Path(command[-2]) / "kaputt.md").write_text("[nowhere](missing.md)")
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", refuse)
    with pytest.raises(ValueError, match=r"Sphinx can't make the site: docs/[\s\S]*missing.md"):
        site.build(tmp_path, tmp_path / "site", REGISTRY, __version__, None)
    assert not (tmp_path / "site").exists()
