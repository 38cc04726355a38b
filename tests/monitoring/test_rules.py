"""The shipped rules, run by promtool: alerts fire when they must, and only then."""

import json
import subprocess
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from flowparts.monitor import baselines, drift
from flowparts.tables import summary
from tools import dashboards

FOLDER = dashboards.RULES.parent
ALERTS = [
    rule["alert"]
    for group in yaml.safe_load(dashboards.RULES.read_text())["groups"]
    for rule in group["rules"]
    if "alert" in rule
]
DOCUMENTED = Path(FOLDER.parent / "docs" / "monitoring.md")


def assert_firing(
    folder: Path, expected: list[str], series: dict[str, str], at: str, interval: str = "1m"
) -> None:
    """Assert by promtool's unit tests which alerts fire at a time, for series in its notation."""
    test = {
        "interval": interval,
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="{alert}", alertstate="firing"}}) or vector(0)',
                "eval_time": at,
                "exp_samples": [{"labels": "{}", "value": int(alert in expected)}],
            }
            for alert in ALERTS
        ],
    }
    run_promtool(folder, interval, test)


def run_promtool(folder: Path, interval: str, test: dict[str, Any]) -> None:
    tests = {"rule_files": [str(dashboards.RULES)], "evaluation_interval": interval, "tests": [test]}
    (folder / "test.yml").write_text(yaml.safe_dump(tests))
    done = subprocess.run(
        ["promtool", "test", "rules", str(folder / "test.yml")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_file_is_valid() -> None:
    for command in (
        ["promtool", "check", "rules", "rules.yml"],
        ["promtool", "check", "config", "prometheus.yml"],
        ["amtool", "check-config", "alertmanager.yml"],
    ):
        subprocess.run(command, cwd=FOLDER, check=True, capture_output=True)
    resource = yaml.safe_load(dashboards.prometheus_rule())
    assert resource["kind"] == "PrometheusRule"


HEALTHY = {
    'up{job="m", instance="a"}': "1x60",
    'flowparts_requests_in_flight{job="m", instance="a"}': "1x60",
    'flowparts_requests_total{job="m", instance="a", code="200"}': "0+600x60",
    'flowparts_requests_total{job="m", instance="a", code="500"}': "0+1x60",
    'flowparts_request_seconds_bucket{job="m", instance="a", le="0.5"}': "0+599x60",
    'flowparts_request_seconds_bucket{job="m", instance="a", le="1"}': "0+600x60",
    'flowparts_request_seconds_bucket{job="m", instance="a", le="+Inf"}': "0+600x60",
    'flowparts_rejected_total{job="m", instance="a", reason="busy"}': "0x60",
    'flowparts_prediction_log_lost_rows_total{job="m", instance="a"}': "0x60",
    'flowparts_predictions_total{job="m", instance="a", class="yes"}': "0+300x60",
    'flowparts_predictions_total{job="m", instance="a", class="no"}': "0+300x60",
    'flowparts_drifted_columns{job="churn", model="churn"}': "0x60",
    'flowparts_log_newest_timestamp_seconds{job="churn", model="churn"}': "0+60x60",
    'flowparts_log_stalled{job="churn", model="churn"}': "0x60",
    'flowparts_evaluation_metric{job="churn", metric="roc_auc"}': "0.9x60",
    'flowparts_estimate_degraded{job="churn", model="churn", metric="roc_auc"}': "0x60",
    'flowparts_ab_test_decision{job="churn", decision="continue"}': "1x60",
    'flowparts_ab_test_decision{job="churn", decision="keep"}': "0x60",
}
TROUBLE = {
    "FlowpartsServerDown": {
        'up{job="m", instance="a"}': "1x50 0x10",
        'flowparts_requests_in_flight{job="m", instance="a"}': "1x50 _x10",
    },
    "FlowpartsErrors": {'flowparts_requests_total{job="m", instance="a", code="500"}': "0+20x60"},
    "FlowpartsSlow": {'flowparts_request_seconds_bucket{job="m", instance="a", le="0.5"}': "0+500x60"},
    "FlowpartsOverloaded": {'flowparts_rejected_total{job="m", instance="a", reason="busy"}': "0+5x60"},
    "FlowpartsPredictionLogLosesRows": {
        'flowparts_prediction_log_lost_rows_total{job="m", instance="a"}': "0x55 7x5"
    },
    "FlowpartsDrift": {'flowparts_drifted_columns{job="churn", model="churn"}': "0x59 2"},
    "FlowpartsLogStalled": {'flowparts_log_stalled{job="churn", model="churn"}': "0x59 1"},
    "FlowpartsSkew": {'flowparts_skewed_columns{job="churn", model="churn"}': "0x59 1"},
    "FlowpartsPerformanceDegraded": {'flowparts_performance_degraded{job="churn", model="churn"}': "0x59 1"},
    "FlowpartsEstimateDegraded": {
        'flowparts_estimate_degraded{job="churn", model="churn", metric="roc_auc"}': "0x59 1"
    },
    "FlowpartsABTestDecided": {'flowparts_ab_test_decision{job="churn", decision="keep"}': "0x59 1"},
    "FlowpartsABTestInvalid": {'flowparts_ab_test_decision{job="churn", decision="invalid"}': "0x59 1"},
    "FlowpartsPerformanceLost": {
        'flowparts_evaluation_metric{job="churn", metric="roc_auc"}': "0.9x50 0.8x10"
    },
}


def test_no_alert_fires_while_all_is_well(tmp_path: Path) -> None:
    assert_firing(tmp_path, [], HEALTHY, "60m")


@pytest.mark.parametrize("alert", TROUBLE)
def test_an_alert_fires_for_its_trouble_alone(alert: str, tmp_path: Path) -> None:
    assert_firing(tmp_path, [alert], HEALTHY | TROUBLE[alert], "60m")


def test_predictions_that_shift_fire_and_those_that_vary_do_not(tmp_path: Path) -> None:
    # A step is ten minutes: a day of half and half, then two hours of three quarters.
    yes, no = (f'flowparts_predictions_total{{job="m", class="{name}"}}' for name in ("yes", "no"))
    shifted = {yes: "0+300x150 45450+450x12", no: "0+300x150 45150+150x12"}
    varied = {yes: "0+300x150 45330+330x12", no: "0+300x150 45270+270x12"}
    assert_firing(tmp_path, ["FlowpartsPredictionsShifted"], shifted, "1620m", "10m")
    assert_firing(tmp_path, [], varied, "1620m", "10m")


def test_a_watch_that_stopped_fires(tmp_path: Path) -> None:
    series = {
        'flowparts_drifted_columns{job="churn", model="churn"}': "0x80",
        'push_time_seconds{job="churn"}': "0x80",
    }
    assert_firing(tmp_path, [], series, "47h", "1h")
    assert_firing(tmp_path, ["FlowpartsMonitoringStopped"], series, "50h", "1h")


def window(number: int, shift: float) -> pl.DataFrame:
    """Return a day's rows: two numbers, a category, some nulls."""
    import numpy as np

    draw = np.random.default_rng(number)
    age = draw.normal(40 + 10 * shift, 10, 1_000)
    return pl.DataFrame(
        {
            "age": age,
            "income": draw.lognormal(10, 1, 1_000),
            "plan": draw.choice(["basic", "pro", "max"], 1_000, p=[0.5, 0.3, 0.2]),
            "city": draw.choice(["Graz", "日本"], 1_000),
        }
    )


def test_fifty_windows_without_drift_are_quiet_and_a_planted_one_fires(tmp_path: Path) -> None:
    before = summary.summarise(window(1_000, 0).lazy())
    counts = []
    for number in range(51):
        rows = window(number, 0.5 if number == 50 else 0).lazy()
        found = drift.compare(before, baselines.of_window(rows, before))
        (measured,) = [
            each for each in baselines.measurements(found) if each.name == "flowparts_drifted_columns"
        ]
        counts.append(int(measured.value))
    assert counts == [0] * 50 + [1]
    series = {'flowparts_drifted_columns{job="churn", model="churn"}': " ".join(map(str, counts))}
    quiet = [{"alertname": "FlowpartsDrift", "eval_time": f"{hour}h", "exp_alerts": []} for hour in range(50)]
    alarm = {
        "alertname": "FlowpartsDrift",
        "eval_time": "50h",
        "exp_alerts": [
            {
                "exp_labels": {"job": "churn", "model": "churn", "severity": "ticket"},
                "exp_annotations": {"summary": "1 column of churn drifted"},
            }
        ],
    }
    test = {
        "interval": "1h",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [*quiet, alarm],
    }
    run_promtool(tmp_path, "1h", test)


def test_the_dashboard_is_what_grafana_imports() -> None:
    built: dict[str, Any] = json.loads(dashboards.build())
    titles = [panel["title"] for panel in built["panels"] if panel["type"] == "timeseries"]
    assert titles == [panel.title for panels in dashboards.PANELS.values() for panel in panels]
    for panel in built["panels"]:
        letters = [target["refId"] for target in panel.get("targets", [])]
        assert len(set(letters)) == len(letters)


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_is_documented(alert: str) -> None:
    assert f"`{alert}`" in DOCUMENTED.read_text()
