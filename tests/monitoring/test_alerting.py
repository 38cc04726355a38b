"""The real model server under load and the real Prometheus; alerts go through the real Alertmanager."""

import itertools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from flowparts.monitor import ab_test, estimation, publish
from flowparts.monitor.measurements import Measurement
from tests import monitoring_services as services
from tests.flowparts.serving.conftest import records as _records
from tests.flowparts.serving.conftest import start, train, wait
from tests.stand_in import Answer, Request, StandIn
from tools import dashboards

FOLDER = dashboards.RULES.parent


EFFECT = ab_test.Effect("clicks", 2_000, 2_000, 0.1, 0.12, 0.02, 0.01, 0.03, 0.001)
TESTED = ab_test.Analysis(
    ab_test.Plan("clicks"), EFFECT, [EFFECT], [], (1_000, 1_000), 0, 0.9, "continue", "it can still be zero"
)
ESTIMATED = estimation.Estimation(
    "roc_auc",
    0.95,
    ["no", "yes"],
    1_000,
    0.01,
    [estimation.Window("all", 500, {"roc_auc": estimation.Estimate(0.9, 0.88, 0.92)})],
    [[240, 10], [10, 240]],
    [],
    0.01,
    0.9,
    False,
    "it is as it was",
)


class Hook(StandIn):
    routes = (("POST", "/alerts", "take"),)

    def take(self, request: Request) -> Answer:
        return Answer({})

    @property
    def alerts(self) -> list[Any]:
        return [alert for request in self.requests for alert in request.json["alerts"]]


@dataclass
class Watched:
    prometheus: str
    pushgateway: str
    hook: Hook
    send: Callable[[], None]

    def drift(self, columns: int) -> None:
        measured = [
            Measurement("flowparts_drifted_columns", columns),
            Measurement("flowparts_drift_effect", 0.1 * columns, {"column": "age"}),
            Measurement("flowparts_drift_psi", 0.2 * columns, {"column": "age"}),
            Measurement("flowparts_null_rate", 0.01, {"column": "age"}),
            Measurement("flowparts_skewed_columns", 0),
            Measurement("flowparts_log_newest_timestamp_seconds", time.time()),
            Measurement("flowparts_log_stalled", 0),
            Measurement("flowparts_evaluation_metric", 0.9, {"metric": "roc_auc"}),
            Measurement("flowparts_performance", 0.9, {"metric": "roc_auc", "rows": "newest window"}),
            Measurement(
                "flowparts_performance_slice", 0.8, {"metric": "roc_auc", "column": "plan", "value": "a"}
            ),
        ]
        measured += ab_test.measurements(TESTED) + estimation.measurements(ESTIMATED)
        publish.to_pushgateway(publish.exposition(measured), self.pushgateway, "churn")

    def until(self, condition: Callable[[], Any]) -> Any:
        """Send requests until a condition holds."""
        deadline = time.monotonic() + 120
        while not (found := condition()):
            assert time.monotonic() < deadline, "it didn't come to pass"
            self.send()
            time.sleep(0.2)
        return found


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("monitoring")
    hook = Hook()
    with ExitStack() as stack:
        stack.callback(hook.close)
        server = wait(start(train(folder / "model"), "--name=plans"))
        stack.callback(server.stop)
        gateway = stack.enter_context(services.pushgateway(folder))

        alerting = yaml.safe_load((FOLDER / "alertmanager.yml").read_text())
        for receiver in alerting["receivers"]:
            receiver["webhook_configs"][0]["url"] = f"{hook.url}/alerts"
        alerting["route"] |= {"group_wait": "1s", "group_interval": "1s"}
        (folder / "alertmanager.yml").write_text(yaml.safe_dump(alerting))
        manager = stack.enter_context(services.alertmanager(folder, folder / "alertmanager.yml"))

        config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(dashboards.RULES)]
        config["alerting"]["alertmanagers"][0]["static_configs"] = [{"targets": [manager[7:]]}]
        jobs = {job["job_name"]: job for job in config["scrape_configs"]}
        jobs["flowparts"]["static_configs"] = [{"targets": [server.url[7:]]}]
        jobs["pushgateway"]["static_configs"] = [{"targets": [gateway[7:]]}]
        config["scrape_configs"] = [jobs["flowparts"], jobs["pushgateway"]]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        prometheus = stack.enter_context(services.prometheus(folder, folder / "prometheus.yml"))

        rows = itertools.cycle(_records.__wrapped__())  # type: ignore[attr-defined]

        def send() -> None:
            for _ in range(20):
                assert server.call("/predict", {"instances": [next(rows)]})[0] == 200
            assert server.call("/predict", b"{")[0] == 400

        yield Watched(prometheus, gateway, hook, send)


def test_drift_reaches_the_webhook_and_its_end_does_too(watched: Watched) -> None:
    watched.drift(0)
    watched.until(lambda: services.query(watched.prometheus, "flowparts_drifted_columns == 0"))
    assert services.query(watched.prometheus, 'ALERTS{alertname="FlowpartsDrift"}') == []
    assert watched.hook.alerts == []
    watched.drift(2)
    alert = watched.until(lambda: watched.hook.alerts)[0]
    assert alert["labels"]["alertname"] == "FlowpartsDrift"
    assert alert["labels"]["job"] == "churn"
    assert alert["annotations"]["summary"] == "2 columns of churn drifted"
    watched.drift(0)
    resolved = watched.until(lambda: [each for each in watched.hook.alerts if each["status"] == "resolved"])
    assert {each["labels"]["alertname"] for each in resolved} == {"FlowpartsDrift"}


def test_every_query_of_every_panel_returns_data(watched: Watched) -> None:
    watched.drift(1)
    asked = dashboards.expressions(".*")
    for name, expression in asked.items():
        found = watched.until(lambda expression=expression: services.query(watched.prometheus, expression))
        assert all(json.dumps(series["value"][1]) for series in found), name


def test_every_recording_rule_has_values_and_no_rule_fails(watched: Watched) -> None:
    for group in yaml.safe_load(dashboards.RULES.read_text())["groups"]:
        for rule in group["rules"]:
            if name := rule.get("record"):
                watched.until(lambda name=name: services.query(watched.prometheus, name))
    answer = json.loads(services.get(f"{watched.prometheus}/api/v1/rules"))
    health = [rule["health"] for group in answer["data"]["groups"] for rule in group["rules"]]
    assert set(health) == {"ok"}


def test_the_server_says_what_it_predicts(watched: Watched) -> None:
    shares = watched.until(
        lambda: services.query(
            watched.prometheus, dashboards.expressions(".*")["Predictions by class: {{job}} {{class}}"]
        )
    )
    assert {series["metric"]["class"] for series in shares} == {"basic", "pro"}
