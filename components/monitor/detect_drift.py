from typing import NamedTuple, Optional

from kfp.dsl import HTML, Artifact, Dataset, Input, Model, Output

from .. import runs_in


@runs_in("sklearn")
def detect_drift(
    table: Input[Dataset],
    drift: Output[Artifact],
    drift_report: Output[HTML],
    measurements: Output[Artifact],
    baseline: Input[Artifact] = None,  # type: ignore[assignment] # kfp's form of an optional one
    reference: Input[Dataset] = None,  # type: ignore[assignment]
    model: Input[Model] = None,  # type: ignore[assignment]
    columns: Optional[list[str]] = None,
    time_column: str = "time",
    since: Optional[str] = None,
    until: Optional[str] = None,
    false_alarm_rate: float = 0.05,
    minimum_effect: float = 0.05,
    stalled_hours: float = 0.0,
) -> NamedTuple(  # type: ignore[valid-type]
    "Outputs",
    [
        ("drifted", bool),
        ("drifted_fraction", float),
        ("worst_columns", list),
        ("stalled", bool),
        ("newest", str),
    ],
):
    """Compare the columns of a table or prediction log with a baseline and flag those that have drifted.

    A column is flagged if its change is both statistically significant (Kolmogorov-Smirnov, chi-square,
    missing values; adjusted for the number of columns) and large enough to matter. In a prediction log, only
    the rows that the model answered are compared, and its predictions with those on the validation rows; the
    label is compared if the table has it.

    With stalled_hours, it also reports whether a log has stopped growing: the same rows would be compared
    again in each run.

    Args:
        table: Later rows: a table or a prediction log.
        drift: Results as JSON: for each column effect, adjusted p-value, PSI, KS, Jensen-Shannon,
            Wasserstein, chi-square, missing values, new and vanished values, fraction out of range. Also the
            time of the newest row, whether the log has stalled, and how many rows are dated in the future.
        drift_report: HTML page with both distributions of each column, the worst first.
        measurements: Measurements for publish_metrics.
        baseline: Baseline to compare with, from baseline_table; give exactly one of baseline, reference and
            model.
        reference: Table to compare with.
        model: Model whose training rows and predictions to compare with.
        columns: Columns to compare; default: all columns of the baseline.
        time_column: Column of times that since and until apply to.
        since: Start of the window in ISO 8601, inclusive; default: all rows.
        until: End of the window in ISO 8601, exclusive.
        false_alarm_rate: Fraction of windows of unchanged data in which any column may be flagged.
        minimum_effect: Fraction of rows that must have changed for a column to be flagged.
        stalled_hours: Hours without a new row in time_column after which the log counts as stalled; 0 for no
            such check. There is none either if until is given. Rows dated in the future don't count as new.

    Returns:
        drifted: Whether any column is flagged.
        drifted_fraction: Fraction of the compared columns that are flagged.
        worst_columns: Names of the flagged columns, the worst first, at most 20.
        stalled: Whether no row has arrived for stalled_hours.
        newest: Time of the newest row, in a sentence; empty without a column of times.
    """
    from dataclasses import asdict
    from datetime import UTC, datetime

    from flowparts import tables
    from flowparts.models import baseline as of_models
    from flowparts.monitor import baselines, freshness, windows
    from flowparts.monitor import drift as drifts
    from flowparts.monitor import drift_report as pages
    from flowparts.monitor import measurements as measured
    from flowparts.util import metadata, names, outputs

    given = [each.path if each else None for each in (baseline, reference, model)]
    before, called = baselines.choose(*given)
    log = tables.scan(table.path)
    rows = windows.select(log, time_column, since, until)
    if model:
        rows, log = (windows.of_model(each, model.path) for each in (rows, log))
    present = datetime.now(UTC).replace(tzinfo=None)
    fresh = freshness.judge(log, time_column, 0.0 if until else stalled_hours, present)
    now = baselines.of_window(rows, before, names.texts(columns, "columns"))
    rule = drifts.Rule(false_alarm_rate, minimum_effect)
    found = drifts.compare(before, now, rule, of_models.roles(before))
    worst = [each.name for each in found if each.drifted]
    fraction = len(worst) / len(found)
    outputs.write_json(
        drift.path,
        {
            **asdict(rule),
            "drifted_fraction": fraction,
            "newest": fresh.newest.isoformat() if fresh else None,
            "stalled": fresh.stalled if fresh else None,
            "future_rows": fresh.future_rows if fresh else 0,
            "columns": [each.to_dict() for each in found],
        },
    )
    subtitle = f"{table.uri} against {called}"
    outputs.write_text(drift_report.path, pages.page(found, "Drift", subtitle, rule, freshness.blocks(fresh)))
    measured.write(measurements.path, [*baselines.measurements(found), *freshness.measurements(fresh)])
    told = {"drifted_columns": len(worst), "columns": len(found), "drifted_fraction": fraction}
    metadata.describe(drift, told | ({"newest": fresh.newest.isoformat()} if fresh else {}))
    newest = fresh.reason if fresh else ""
    return bool(worst), fraction, worst[:20], bool(fresh and fresh.stalled), newest
