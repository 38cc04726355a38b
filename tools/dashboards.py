"""Write the Grafana dashboard and a PrometheusRule for Kubernetes to build/monitoring."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from grafana_foundation_sdk.builders import dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DataSourceRef

from flowparts.deploy import prometheus as rules

ROOT = Path(__file__).parents[1]
RULES = ROOT / "monitoring" / "rules.yml"
_SOURCE = DataSourceRef(type_val="prometheus", uid="${source}")
# The selector of the models chosen at the top of the dashboard.
_CHOSEN = 'job=~"$job"'


@dataclass(frozen=True)
class Panel:
    """A panel of time series.

    Attributes:
        title: What it shows.
        unit: Grafana's unit name.
        queries: PromQL expressions by legend; JOB stands for the selector of the chosen models.
        description: What to look for.
        lowest: Minimum of the axis; None if values may be negative.
    """

    title: str
    unit: str
    queries: dict[str, str]
    description: str = ""
    lowest: float | None = 0


# Rows by title.
PANELS: dict[str, Sequence[Panel]] = {
    "Service": (
        Panel(
            "Traffic",
            "reqps",
            {"{{job}} {{protocol}}": "sum by (job, protocol) (rate(flowparts_requests_total{JOB}[5m]))"},
        ),
        Panel(
            "Latency",
            "s",
            {
                f"p{quantile * 100:g} {{{{job}}}}": f"histogram_quantile({quantile}, "
                "sum by (job, le) (rate(flowparts_request_seconds_bucket{JOB}[5m])))"
                for quantile in (0.5, 0.95, 0.99)
            },
            "Median, 95th and 99th percentile of the request duration.",
        ),
        Panel(
            "Errors",
            "percentunit",
            {
                "{{job}} {{code}}": "sum by (job, code) "
                '(rate(flowparts_requests_total{JOB, code!="200"}[5m]))'
                " / on (job) group_left () sum by (job) (rate(flowparts_requests_total{JOB}[5m]))"
            },
            "Fraction of the requests that ended with each error status.",
        ),
        Panel(
            "Saturation",
            "short",
            {
                "in flight {{job}}": "sum by (job) (flowparts_requests_in_flight{JOB})",
                "refused per second {{job}} {{reason}}": "sum by (job, reason) "
                "(rate(flowparts_rejected_total{JOB}[5m])) > 0",
                "rows per batch {{job}}": "sum by (job) (rate(flowparts_batch_rows_sum{JOB}[5m])) "
                "/ sum by (job) (rate(flowparts_batch_rows_count{JOB}[5m]))",
            },
        ),
    ),
    "Model": (
        Panel(
            "Predictions by class",
            "percentunit",
            {
                "{{job}} {{class}}": "sum by (job, class) (rate(flowparts_predictions_total{JOB}[5m]))"
                " / on (job) group_left () sum by (job) (rate(flowparts_predictions_total{JOB}[5m]))"
            },
            "Fraction of the predicted rows.",
        ),
        Panel(
            "Requests by version",
            "percentunit",
            {
                "{{name}} {{version}}": "sum by (name, version) (flowparts_model_info{JOB}"
                " * on (job, instance) group_left ()"
                " sum by (job, instance) (rate(flowparts_requests_total{JOB}[5m])))"
                " / on () group_left () sum(rate(flowparts_requests_total{JOB}[5m]))"
            },
            "Fraction of the requests by version. During a rollout, the new version's grows step by step.",
        ),
        Panel(
            "Servers by version",
            "short",
            {
                "{{name}} {{version}} {{engine}}": "count by (name, version, engine) "
                "(flowparts_model_info{JOB})"
            },
        ),
        Panel(
            "Performance",
            "short",
            {
                "{{job}} {{metric}}, {{rows}}": "flowparts_performance{JOB}",
                "{{job}} {{metric}}, evaluation": "flowparts_evaluation_metric"
                '{JOB, metric!~"rows|.*_(low|high)"}',
            },
            "Metrics of predictions whose labels have arrived, and of the evaluation before deployment.",
            lowest=None,
        ),
        Panel(
            "Performance by slice",
            "short",
            {"{{job}} {{metric}} {{column}} {{value}}": "flowparts_performance_slice{JOB}"},
            "Metrics of the slices that measure_performance measures.",
            lowest=None,
        ),
        Panel(
            "Estimated performance",
            "short",
            {
                "{{job}} {{metric}}": "flowparts_estimated_performance{JOB}",
                "{{job}} {{metric}}, error of past estimates": "flowparts_estimate_error{JOB}",
            },
            "Metrics of the newest window, estimated before labels arrive, and the error of past estimates.",
        ),
    ),
    "A/B test": (
        Panel(
            "Effect of the new revision",
            "short",
            {"{{job}} {{column}} {{part}}": "flowparts_ab_test_effect{JOB}"},
            "Difference of the means, new minus current revision, with its confidence interval. If the "
            "interval excludes 0, there is an effect.",
            lowest=None,
        ),
        Panel(
            "P-values",
            "short",
            {
                "{{job}} {{column}}": "flowparts_ab_test_p_value{JOB}",
                "{{job}} assignment of units": "flowparts_ab_test_mismatch_p_value{JOB}",
            },
            "Of the outcome's effect, and of the assignment of units: below 0.01, the test is invalid.",
        ),
        Panel(
            "Units",
            "short",
            {"{{job}} {{revision}}": "flowparts_ab_test_units{JOB}"},
            "Units with an outcome.",
        ),
        Panel("Decision", "short", {"{{job}} {{decision}}": "flowparts_ab_test_decision{JOB} == 1"}),
    ),
    "Data": (
        Panel(
            "Drift by column",
            "percentunit",
            {"{{job}} {{column}}": "topk(10, flowparts_drift_effect{JOB})"},
            "Fraction of rows that changed, for the ten columns with the largest change.",
        ),
        Panel(
            "Population stability index",
            "short",
            {"{{job}} {{column}}": "topk(10, flowparts_drift_psi{JOB})"},
            "By convention, a change of 0.2 or more is large.",
        ),
        Panel(
            "Drifted and skewed columns",
            "short",
            {
                "{{job}} drifted": "max by (job) (flowparts_drifted_columns{JOB})",
                "{{job}} skewed": "max by (job) (flowparts_skewed_columns{JOB})",
            },
        ),
        Panel(
            "Missing values",
            "percentunit",
            {"{{job}} {{column}}": "topk(10, flowparts_null_rate{JOB})"},
            "Fraction of nulls, for the ten columns with the most.",
        ),
        Panel(
            "Age of the newest prediction",
            "s",
            {"{{job}}": "time() - max by (job) (flowparts_log_newest_timestamp_seconds{JOB})"},
            "Rises between measurements. If it never falls again, the log has stopped growing.",
        ),
    ),
}


def expressions(job: str) -> dict[str, str]:
    """Return all expressions of all panels, by panel and legend, for the jobs that match a pattern."""
    return {
        f"{panel.title}: {legend}": expression.replace("JOB", f'job=~"{job}"')
        for panels in PANELS.values()
        for panel in panels
        for legend, expression in panel.queries.items()
    }


def build() -> str:
    """Return the dashboard as JSON for Grafana's import."""
    made = (
        dashboard.Dashboard("flowparts")
        .uid("flowparts")
        .tags(["flowparts", "machine-learning"])
        .time("now-6h", "now")
        .refresh("1m")
        .with_variable(dashboard.DatasourceVariable("source").label("Prometheus").type("prometheus"))
        .with_variable(
            dashboard.QueryVariable("job")
            .label("Model")
            .datasource(_SOURCE)
            .query('label_values({__name__=~"flowparts_.*"}, job)')
            .multi(True)
            .include_all(True)
            .all_value(".*")
        )
    )
    for title, panels in PANELS.items():
        made = made.with_row(dashboard.Row(title))
        for panel in panels:
            drawn = timeseries.Panel().title(panel.title).unit(panel.unit).datasource(_SOURCE)
            drawn = drawn.description(panel.description).height(8).span(12)
            if panel.lowest is not None:
                drawn = drawn.min(panel.lowest)
            for letter, (legend, expression) in zip("ABCDEF", panel.queries.items(), strict=False):
                query = prometheus.Dataquery().expr(expression.replace("JOB", _CHOSEN)).ref_id(letter)
                drawn = drawn.with_target(query.legend_format(legend))
            made = made.with_panel(drawn)
    return str(JSONEncoder(sort_keys=True, indent=2).encode(made.build())) + "\n"


def prometheus_rule() -> str:
    """Return the rules as a resource of the Prometheus operator (YAML)."""
    return str(yaml.safe_dump(rules.rule({"app.kubernetes.io/part-of": "flowparts"}), sort_keys=False))


def main(arguments: list[str] | None = None) -> int:
    """Write the files; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.dashboards", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "monitoring", metavar="DIR")
    out = parser.parse_args(arguments).out
    out.mkdir(parents=True, exist_ok=True)
    for name, text in (("dashboard.json", build()), ("prometheus-rule.yaml", prometheus_rule())):
        (out / name).write_text(text, encoding="utf-8")
        print(out / name)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
