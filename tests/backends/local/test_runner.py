"""Runs small pipelines for real on kfp.local and looks at what people get to see."""

import builtins
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Metrics, Output

from backends.local import run_page, runner

IMAGE = {"base_image": "registry.example/python:3.11", "install_kfp_package": False}


@dsl.component(**IMAGE)
def write_rows(source: str, data_version: str, rows: Output[Dataset]) -> int:
    from pathlib import Path

    print("reading", source)
    Path(rows.path).write_text("a\nb\n")
    return 2


@dsl.component(**IMAGE)
def score(rows: Input[Dataset], setting: dict, metrics: Output[Metrics], report: Output[HTML]) -> float:
    from pathlib import Path

    if setting.get("fail") == "error":
        raise ValueError("label column 'price' is not in the table;\ncolumns are: a, b")
    if setting.get("fail") == "kill":
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)
    if setting.get("fail") in ("os._exit", "sys.exit", "code"):
        import os
        import sys

        os._exit(0) if setting["fail"] == "os._exit" else sys.exit(3 if setting["fail"] == "code" else 0)
    metrics.log_metric("accuracy", 0.5)
    Path(metrics.path).write_text("{}")
    Path(report.path).write_text("<h1>report</h1>")
    if setting.get("fail") == "late":
        raise ValueError("the page says why")
    return 0.25


@dsl.pipeline(name="small")
def small(source: str = "sample://iris", data_version: str = "", settings: list = [{}, {"fail": ""}]) -> None:  # noqa: B006
    rows = write_rows(source=source, data_version=data_version)
    with dsl.ParallelFor(settings) as setting:
        score(rows=rows.outputs["rows"], setting=setting)


def states(record: runner.Run) -> dict[str, str]:
    return {task.name: task.state for task in record.tasks}


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_a_run_leaves_logs_reports_metrics_and_a_summary(tmp_path: Path) -> None:
    seen: list[dict[str, str]] = []
    record = runner.run(small, {}, tmp_path, on_change=lambda run: seen.append(states(run)))
    assert record.succeeded
    assert states(record) == {"write-rows": "succeeded", "score": "succeeded", "score-2": "succeeded"}
    assert seen[0] == {"write-rows": "running"}
    assert "reading sample://iris" in (record.folder / "logs" / "write-rows.log").read_text()
    assert sorted(runner.reports(record)) == ["score", "score-2"]
    assert runner.metrics(record) == {
        "write-rows": {"Output": 2},
        "score": {"Output": 0.25, "accuracy": 0.5},
        "score-2": {"Output": 0.25, "accuracy": 0.5},
    }
    summary = json.loads((record.folder / "run.json").read_text())
    assert summary["succeeded"] is True
    assert [task["state"] for task in summary["tasks"]] == ["succeeded"] * 3


def test_a_second_run_uses_the_cache_by_default(tmp_path: Path) -> None:
    runner.run(small, {}, tmp_path)
    assert set(states(runner.run(small, {}, tmp_path)).values()) == {"cached"}
    assert set(states(runner.run(small, {}, tmp_path, use_cache=False)).values()) == {"succeeded"}


def test_a_changed_local_file_is_read_again(tmp_path: Path) -> None:
    source = tmp_path / "rows.csv"
    source.write_text("a\n1\n")
    first = runner.run(small, {"source": str(source)}, tmp_path / "runs")
    assert set(states(runner.run(small, {"source": str(source)}, tmp_path / "runs")).values()) == {"cached"}
    source.write_text("a\n1\n2\n")
    changed = runner.run(small, {"source": str(source)}, tmp_path / "runs")
    assert set(states(changed).values()) == {"succeeded"}
    assert first.parameters["data_version"] != changed.parameters["data_version"]


@pytest.mark.parametrize("pattern", ["*.csv", ""], ids=["glob", "directory"])
def test_a_file_added_to_a_glob_or_directory_changes_the_data_version(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "a.csv").write_text("a\n1\n")
    source = {"source": str(tmp_path / pattern) if pattern else str(tmp_path)}
    before = runner.data_version(small, source)
    (tmp_path / "b.csv").write_text("a\n2\n")
    assert runner.data_version(small, source) != before


def test_a_given_data_version_is_kept(tmp_path: Path) -> None:
    assert runner.data_version(small, {"source": str(tmp_path), "data_version": "2024-01"}) == {}
    assert runner.data_version(small, {"source": "s3://bucket/rows.csv"}) == {}


@pytest.mark.parametrize(
    "written", ["~/run[1] a.csv", "file://localhost{home}/run%5B1%5D%20a.csv"], ids=["home", "percent"]
)
def test_every_way_to_write_a_local_path_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run[1] a.csv").write_text("a\n1\n")
    assert runner.data_version(small, {"source": written.format(home=tmp_path)})


def test_a_failing_step_shows_the_page_that_it_wrote(tmp_path: Path) -> None:
    record = runner.run(small, {"settings": [{"fail": "late"}]}, tmp_path)
    assert [task.name for task in record.failed] == ["score"]
    assert list(runner.reports(record)) == ["score"]


def test_a_failing_step_shows_its_error_and_its_log(tmp_path: Path) -> None:
    record = runner.run(small, {"settings": [{"fail": "error"}, {}]}, tmp_path)
    assert not record.succeeded
    (failed,) = record.failed
    assert failed.error == "label column 'price' is not in the table; columns are: a, b"
    assert "Traceback" in failed.log.read_text()
    assert sorted(states(record).values()) == ["failed", "succeeded", "succeeded"]


def test_a_killed_step_is_recognized_by_its_exit_code(tmp_path: Path) -> None:
    record = runner.run(small, {"settings": [{"fail": "kill"}]}, tmp_path)
    assert [task.error for task in record.failed] == [
        "the step was killed by SIGKILL (exit code 137), most likely because memory ran out"
    ]


@pytest.mark.parametrize("how", ["os._exit", "sys.exit"])
def test_a_step_that_ends_without_a_result_has_failed(tmp_path: Path, how: str) -> None:
    record = runner.run(small, {"settings": [{"fail": how}]}, tmp_path)
    assert [task.error for task in record.failed] == [
        "the step ended with exit code 0 before it was done, as by os._exit or sys.exit"
    ]


def test_a_step_that_ends_with_a_code_alone_says_the_code(tmp_path: Path) -> None:
    record = runner.run(small, {"settings": [{"fail": "code"}]}, tmp_path)
    assert [task.error for task in record.failed] == ["the step ended with exit code 3 and without a message"]


def test_a_pipeline_with_an_importer_runs(tmp_path: Path) -> None:
    @dsl.component(**IMAGE)
    def opens(rows: Input[Dataset]) -> str:
        from pathlib import Path

        return Path(rows.path).read_text()

    @dsl.pipeline(name="imports")
    def imports(uri: str) -> None:
        opens(rows=dsl.importer(artifact_uri=uri, artifact_class=Dataset).output)

    (tmp_path / "rows.csv").write_text("a,b")
    record = runner.run(imports, {"uri": str(tmp_path / "rows.csv")}, tmp_path / "runs")
    assert record.succeeded, record.problem
    assert states(record)["opens"] == "succeeded"
    assert record.tasks[-1].outputs["Output"] == "a,b"


def test_no_file_of_a_run_holds_a_secret(tmp_path: Path) -> None:
    source = "https://user:hunter2@example.com/a.csv?X-Amz-Signature=5ec2e7&part=1"
    record = runner.run(small, {"source": source, "settings": [{"fail": "error"}]}, tmp_path)
    run_page.write(record)
    run_page.write_index(tmp_path)
    assert "reading https://***@example.com/a.csv" in (record.folder / "logs" / "write-rows.log").read_text()
    for file in tmp_path.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert b"hunter2" not in content, file
            assert b"5ec2e7" not in content, file


def test_an_address_with_another_signature_comes_from_the_cache(tmp_path: Path) -> None:
    for signature, state in (("a", "succeeded"), ("b", "cached")):
        source = f"https://example.com/a.csv?X-Amz-Signature={signature}"
        record = runner.run(small, {"source": source, "settings": [{}]}, tmp_path)
        assert set(states(record).values()) == {state}


DAMAGED = {
    "no JSON": "{",
    "another kind of JSON": "[1]",
    "no entry": '{"rows": {"__kfp_artifact__": true}}',
    "nothing": "",
    "not text": "\udcff",
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_cache_entry_is_recomputed(tmp_path: Path, content: str) -> None:
    runner.run(small, {"settings": [{}]}, tmp_path)
    for entry in (tmp_path / ".cache").glob("*.json"):
        entry.write_bytes(content.encode("utf-8", "surrogateescape"))
    again = runner.run(small, {"settings": [{}]}, tmp_path)
    assert again.succeeded, again.problem
    assert set(states(again).values()) == {"succeeded"}
    assert set(states(runner.run(small, {"settings": [{}]}, tmp_path)).values()) == {"cached"}


@pytest.mark.parametrize("damage", ["b", ""], ids=["cut", "emptied"])
def test_a_modified_artifact_invalidates_the_cache(tmp_path: Path, damage: str) -> None:
    first = runner.run(small, {"settings": [{}]}, tmp_path)
    Path(first.tasks[0].outputs["rows"].path).write_text(damage)
    again = runner.run(small, {"settings": [{}]}, tmp_path)
    assert states(again)["write-rows"] == "succeeded"
    assert Path(again.tasks[0].outputs["rows"].path).read_text() == "a\nb\n"


def test_kfp_is_left_as_it_was(tmp_path: Path) -> None:
    from kfp.local import (
        cache,
        docker_task_handler,
        executor_input_utils,
        logging_utils,
        subprocess_task_handler,
    )
    from kfp.local.orchestrator import task_executor

    def hooks() -> list[Any]:
        return [
            task_executor.execute_single_task,
            subprocess_task_handler.run_local_subprocess,
            docker_task_handler.run_docker_container,
            executor_input_utils.get_local_pipeline_resource_name,
            cache.LocalCache,
            logging_utils.indented_print,
            builtins.print,
            *logging.getLogger().handlers,
        ]

    before = hooks()
    runner.run(small, {"settings": [{}] * 6}, tmp_path)  # tasks at once put back what each other has set
    assert hooks() == before
