from pathlib import Path
from typing import Any

import pytest
from kfp import dsl

from backends.local import run_page, runner
from tests.backends.local.test_runner import score, small, write_rows


@dsl.pipeline(name="scored")
def scored(data_version: str) -> None:
    rows = write_rows(source="sample://iris", data_version=data_version)
    score(rows=rows.outputs["rows"], setting={})


@dsl.pipeline(name="either")
def either(first: bool = True) -> None:
    with dsl.If(first == True):  # noqa: E712
        scored(data_version="1")
    with dsl.Else():
        scored(data_version="2")


def files_linked(driver: Any) -> list[Path]:
    links = driver.find_elements("css selector", "a:not(svg a)")
    return [Path(link.get_attribute("href").removeprefix("file://")) for link in links]


@pytest.fixture
def failed(tmp_path: Path) -> runner.Run:
    return runner.run(small, {"settings": [{}, {"fail": "error"}]}, tmp_path)


def test_page_shows_graph_and_failure_and_opens_every_report_and_log(
    failed: runner.Run, open_page: Any
) -> None:
    driver = open_page(run_page.write(failed))
    body = driver.find_element("tag name", "body").text
    assert "label column 'price' is not in the table" in body
    names = [text.text for text in driver.find_elements("css selector", "svg.graph text")]
    assert names[0] == "write-rows"
    assert names[2] == "score"
    assert names[3].startswith("failed")
    linked = files_linked(driver)
    assert {path.name for path in linked} >= {"write-rows.log", "score.log", "score-2.log"}
    assert len([path for path in linked if path.suffix == ".html" and path.parent.name == "reports"]) == 1
    assert all(path.is_file() for path in linked)


def test_graph_shows_what_ran_in_the_branch_that_was_taken_only(tmp_path: Path, open_page: Any) -> None:
    record = runner.run(either, {"first": False}, tmp_path)
    driver = open_page(run_page.write(record))
    texts = [text.text for text in driver.find_elements("css selector", "svg.graph text")]
    shown = list(zip(texts[::2], texts[1::2], strict=True))
    assert [(name, state.split()[0]) for name, state in shown] == [
        ("write-rows", "succeeded"),
        ("score", "succeeded"),
    ]


def test_index_compares_runs_by_what_differs(tmp_path: Path, open_page: Any) -> None:
    for settings in ([{}], [{"depth": 2}]):
        run_page.write(runner.run(small, {"settings": settings, "source": "sample://iris"}, tmp_path))
    driver = open_page(run_page.write_index(tmp_path))
    header = [cell.text.lower() for cell in driver.find_elements("css selector", "thead th")]
    assert header == ["run", "state", "seconds", "settings", "score"]
    assert all(path.is_file() for path in files_linked(driver))


BROKEN = {
    "cut": '{"pipeline": "scored", "succ',
    "empty": "",
    "a list": "[]",
    "without numbers": '{"pipeline": "scored", "succeeded": true}',
    "other kinds": '{"pipeline": 1, "succeeded": "", "seconds": [], "parameters": 0, "metrics": 0}',
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_summary_of_another_run_is_left_out(tmp_path: Path, content: str) -> None:
    good = runner.run(scored, {"data_version": "1"}, tmp_path)
    other = tmp_path / "scored" / "20200101-000000"
    other.mkdir()
    (other / "run.json").write_text(content)
    page = run_page.write_index(tmp_path).read_text()
    assert good.folder.name in page
    assert other.name not in page
