"""Baselines to compare later rows with, and the summary of these rows to compare."""

from collections.abc import Collection, Sequence
from pathlib import Path

import polars as pl

from flowparts import tables
from flowparts.models import baseline
from flowparts.monitor.drift import ColumnDrift
from flowparts.monitor.measurements import Measurement
from flowparts.tables import summary
from flowparts.tables.summary import Summary
from flowparts.util.names import listed

# Every column becomes several time series in Prometheus.
_MOST_COLUMNS = 1_000
_PARTICIPLES = {"drift": "drifted", "skew": "skewed"}


def of_table(path: str | Path, exclude_columns: Sequence[str] = ()) -> Summary:
    """Summarise a table as a baseline, with the source of its rows.

    Raises:
        ValueError: The table has no rows, lacks an excluded column, or holds one of no schema type.
    """
    frame = tables.scan(path)
    tables.require_columns(frame, exclude_columns, "excluded column")
    columns = [name for name in frame.collect_schema().names() if name not in exclude_columns]
    if not columns:
        raise ValueError("exclude_columns names every column of the table; leave one to summarise")
    found = baseline.of_training(frame, columns, None)
    described = tables.description(path)
    facts = {"source": described["source"], "fingerprint": described["fingerprint"]}
    return Summary(found.columns, {**found.facts, **facts})


def choose(
    given: str | Path | None, reference: str | Path | None, model: str | Path | None
) -> tuple[Summary, str]:
    """Read the one baseline that is given, and return it with a name for people.

    Args:
        given: A file that `Summary.write` wrote.
        reference: A table.
        model: A model directory.

    Raises:
        ValueError: Not exactly one is given, or it doesn't exist.
    """
    if sum(each is not None for each in (given, reference, model)) != 1:
        raise ValueError("give one thing to compare with: a baseline, a reference table or a model")
    if given is not None:
        return summary.read(given, "the baseline"), "a baseline"
    if reference is not None:
        return of_table(reference), "a reference table"
    assert model is not None
    return baseline.read(model), "the model's training rows"


def features(rows: pl.LazyFrame, before: Summary, exclude: Collection[str] = ()) -> list[str]:
    """Return the features of a baseline that rows must have: all but those masked in a prediction log."""
    there = rows.collect_schema().names()
    return [
        name
        for name in before.facts.get("features", list(before.columns))
        if name not in exclude and (name in there or f"masked_{name}" not in there)
    ]


def of_window(rows: pl.LazyFrame, before: Summary, columns: Sequence[str] = ()) -> Summary:
    """Summarise the columns of rows that a baseline has.

    Args:
        rows: A table or prediction log.
        before: The baseline.
        columns: Columns to summarise; if empty, all of the baseline: its features must be there, label and
            predictions need not.

    Raises:
        ValueError: A feature, or a named column, is missing; or there are no rows.
    """
    there = rows.collect_schema().names()
    facts = before.facts
    own = features(rows, before)
    optional = [name for name in (facts.get("label"), *facts.get("predictions", [])) if name in there]
    for name in columns:
        if name not in (*own, *optional):
            raise ValueError(
                f"column {name!r} is not in the baseline; its columns are: {listed([*own, *optional], 20)}"
            )
    wanted = list(columns) or [*own, *optional]
    tables.require_columns(rows, wanted, "the baseline's column")
    return summary.summarise(rows, wanted)


def measurements(drifts: Sequence[ColumnDrift], what: str = "drift") -> list[Measurement]:
    """Return the measurements of a comparison for `publish_metrics`, overall and by column.

    Args:
        drifts: Result of `drift.compare`.
        what: "drift" or "skew", for the names of the measurements.
    """
    drifted = [each.drifted for each in drifts]
    found = [
        Measurement(
            f"flowparts_{_PARTICIPLES[what]}_columns",
            sum(drifted),
            {},
            "Columns whose distribution has changed.",
        ),
        Measurement(f"flowparts_{what}_ratio", sum(drifted) / len(drifts), {}, "Fraction of the columns."),
    ]
    for each in drifts[:_MOST_COLUMNS]:
        values = {
            f"{what}_effect": (each.effect, "Fraction of rows that changed, a lower bound."),
            f"{what}_detected": (each.drifted, "1 for a column whose distribution has changed."),
            f"{what}_psi": (each.measures.get("psi"), "Population stability index."),
        }
        if what == "drift":  # skew has the same
            values["null_rate"] = (each.measures["null_rate"], "Fraction of missing values.")
        labels = {"column": each.name, "role": each.role}
        found += [
            Measurement(f"flowparts_{name}", value, labels, description)
            for name, (value, description) in values.items()
            if value is not None
        ]
    return found
