import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from flowparts.monitor import drift
from flowparts.tables import summary
from tools import demo, demo_services
from tools.demo_page import Answer, Story, page
from tools.demo_runs import Outcome, Runs


def test_the_requests_change_half_way_and_not_before() -> None:
    before = summary.summarise(demo.customers(4_000, 1, False).drop("churned").lazy())

    def flagged(number: int) -> list[str]:
        rows = demo.customers(demo.ROWS, 100 + number, number >= demo.DRIFTS_AT).drop("churned")
        return sorted(
            each.name for each in drift.compare(before, summary.summarise(rows.lazy())) if each.drifted
        )

    found = [flagged(number) for number in range(demo.WINDOWS)]
    assert found == [[]] * demo.DRIFTS_AT + [["age", "income", "plan"]] * (demo.WINDOWS - demo.DRIFTS_AT)


def test_the_page_tells_the_story() -> None:
    story = Story(
        events=[(1.0, "trained"), (9.5, "the webhook has got FlowpartsDrift")],
        accuracy=[0.9] * 3 + [0.4] * 3 + [0.91],
        drift=[{"age": 0.01}] * 3 + [{"age": 0.5}] * 3 + [{"age": 0.02}],
        answers=[Answer(second, "new" if second > 9 else "old", 8, 10) for second in range(20)]
        + [Answer(20.0, "", 0, 10)],
        revision="new",
        pages={"The first run": "runs/1/index.html"},
    )
    text = page(story, 3)
    assert "Accuracy went from 0.40 to 0.91" in text
    assert "the webhook has got FlowpartsDrift" in text
    assert "1 of 21" in text
    assert '<a href="runs/1/index.html">The first run</a>' in text
    assert text.count("<svg") == 4


def test_a_missing_program_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(ValueError, match="prometheus-pushgateway is missing; `make system` installs it"),
        demo_services.monitored(tmp_path, "http://127.0.0.1:1", "http://127.0.0.1:2", 19_990),
    ):
        pass


def test_a_missing_docker_engine_is_reported_before_anything_is_written(tmp_path: Path) -> None:
    # A program of its own: where no engine runs, docker's library leaves a socket open.
    done = subprocess.run(
        [sys.executable, "-m", "tools.demo", f"--out={tmp_path / 'demo'}"],
        env={**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/none.sock"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "error: no Docker engine answers; `scripts/docker-engine.sh` installs" in done.stderr
    assert list(tmp_path.iterdir()) == []


class Started(Runs):
    def start(self, pipeline: str, parameters: Mapping[str, Any], name: str) -> None:
        self.given = {"pipeline": pipeline, **parameters}
        self._processes[name] = subprocess.Popen(["sleep", "60"])


def test_the_drift_alert_starts_the_training_pipeline_once(tmp_path: Path) -> None:
    runs, said = Started(tmp_path / "runs"), list[str]()
    parameters = {"label": "churned", "deploy_options": {"memory": "1Gi"}, "candidates": demo.CANDIDATES}
    server = demo_services.triggered(tmp_path, runs, "tabular-training", parameters, said.append)
    alert = {"status": "firing", "commonLabels": {"alertname": "FlowpartsDrift"}}
    with demo_services.answering(server) as url:

        def post(body: Any) -> Any:
            request = urllib.request.Request(f"{url}/triggers/drift", json.dumps(body).encode())
            request.add_header("Authorization", "Bearer only-for-this-demonstration")
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.loads(answer.read())

        assert post({**alert, "commonLabels": {"alertname": "FlowpartsSlow"}})["run"] is None
        assert post(alert)["started"]
        assert not post(alert)["started"]
    runs.close()
    assert {name: runs.given[name] for name in ("pipeline", *parameters)} == {
        "pipeline": "tabular-training",
        **parameters,
    }
    assert len(runs.names) == 1


def test_a_refused_model_ends_the_demonstration(tmp_path: Path) -> None:
    gate = {"outputs": {"promote": False, "reason": "it is worse"}}
    with pytest.raises(ValueError, match="the gate refused the model: it is worse"):
        Outcome.of(tmp_path, {"tasks": [gate]})
    trained = {"outputs": {"model": {"uri": "/model", "metadata": {}}}}
    passed = {"outputs": {"promote": True, "reason": "it is better"}}
    rolled_back = {"outputs": {"promoted": False, "reason": "it answers slower", "url": "", "revision": ""}}
    with pytest.raises(ValueError, match="the canary was rolled back: it answers slower"):
        Outcome.of(tmp_path, {"tasks": [trained, passed, rolled_back]})
