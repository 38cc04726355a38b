"""Training-serving skew: how logged rows and answers differ from the training rows and from a batch."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from flowparts import models, reports, tables
from flowparts.models import agreement
from flowparts.monitor.drift import ColumnDrift
from flowparts.tables import schema
from flowparts.tables.summary import Column, Summary
from flowparts.util import names

# Logged rows that are scored again.
REPLAYED_ROWS = 20_000
# Values unseen in training are reported from this fraction of the rows.
MINIMUM_SHARE = 0.01
# Of rows distributed like n old ones, 2 / (n + 1) lie outside their range on average; this many times that is
# skew.
_OUTSIDE_BY_CHANCE = 5
_MOST_NAMED = 5


@dataclass(frozen=True)
class Finding:
    """A difference between serving and training.

    Attributes:
        column: Name of the column; "prediction" for the answers.
        check: "type", "missing", "unknown", "range", "distribution" or "prediction".
        share: Fraction of the rows.
        message: The difference in words.
    """

    column: str
    check: str
    share: float
    message: str

    def to_dict(self) -> dict[str, Any]:
        """Return its JSON form."""
        return asdict(self)


def types(rows: pl.LazyFrame, before: Summary) -> list[Finding]:
    """Return the features whose type in the log isn't that of the training rows.

    A model takes integers and other numbers alike, and so dates and timestamps.
    """
    found = []
    dtypes = rows.collect_schema()
    for name, column in before.columns.items():
        if name in before.facts["features"] and name in dtypes:
            kind = schema.type_of(name, dtypes[name])
            if column.values and dtypes[name] != pl.Null and not _alike(kind, column.kind):
                message = f"the server gets {kind} values, training had {column.kind} values"
                found.append(Finding(name, "type", 1.0, message))
    return found


def _alike(first: str, second: str) -> bool:
    kinds = {first, second}
    return len(kinds) == 1 or kinds in ({"integer", "number"}, {"timestamp", "date"})


def values(drifts: Sequence[ColumnDrift]) -> list[Finding]:
    """Return the values of features that the server gets and training didn't have.

    Missing values where training had none, categories that the model treats as unknown, and numbers out of
    range are reported from 1 % of the rows on; with few training rows, numbers out of range from five times
    the fraction expected by chance. Other changes of a distribution are reported if `drift.compare` flags
    them.
    """
    found = []
    for drift in drifts:
        if drift.role != "feature":
            continue
        before, now, measures = drift.before, drift.now, drift.measures
        own: list[Finding] = []
        if _missing(before) == 0 and (share := measures["null_rate"]) >= MINIMUM_SHARE:
            message = f"{share:.1%} of the values are missing, none in training"
            own.append(Finding(drift.name, "missing", share, message))
        if (share := measures.get("new_fraction", 0.0)) >= MINIMUM_SHARE:
            message = f"{share:.1%} of the values are unknown to the model{_unknown(before, now)}"
            own.append(Finding(drift.name, "unknown", share, message))
        by_chance = _OUTSIDE_BY_CHANCE * 2 / (before.values + 1)
        if (share := measures.get("out_of_range", 0.0)) >= max(MINIMUM_SHARE, by_chance):
            message = f"{share:.1%} of the values are out of the training rows' range"
            own.append(Finding(drift.name, "range", share, message))
        if drift.drifted and not own:
            own.append(Finding(drift.name, "distribution", drift.effect, "; ".join(drift.reasons)))
        found += own
    return found


def _missing(column: Column) -> int:
    return column.nulls + column.infinite


def _unknown(before: Column, now: Column) -> str:
    if before.categories.is_sampled:
        return ""
    known = set(before.categories.hashes.tolist())
    pairs = zip(now.categories.hashes.tolist(), now.categories.texts, strict=True)
    texts = [repr(text) for value, text in pairs if value not in known and text is not None]
    return f" ({', '.join(texts[:_MOST_NAMED])}{', …' if len(texts) > _MOST_NAMED else ''})" if texts else ""


def predictions(rows: pl.LazyFrame, model: str | Path) -> tuple[list[Finding], int]:
    """Score logged rows again and compare the predictions with the logged answers.

    Args:
        rows: Rows of a prediction log that the model answered.
        model: The model directory.

    Returns:
        The differences, and the number of rows scored: at most 20,000, spread over the log; 0 if the log
        lacks the answers or a feature, such as a masked one.
    """
    loaded = models.load(model)
    served = {name: names.free(name, "served_", loaded.features) for name in loaded.prediction_schema}
    wanted = [*loaded.features, *served.values()]
    if not set(wanted) <= set(rows.collect_schema().names()):
        return [], 0
    some = agreement.sample(tables.select(rows, wanted), REPLAYED_ROWS)
    online = some.select(pl.col(logged).alias(name) for name, logged in served.items())
    differ = agreement.differences(loaded.predict(some), online, loaded.task, card=loaded.metadata)
    count = int(differ.sum())
    if not count:
        return [], some.height
    message = f"{count:,} of {some.height:,} logged answers differ from what the model predicts in a batch"
    return [Finding("prediction", "prediction", count / some.height, message)], some.height


def summary_of(findings: Sequence[Finding]) -> str:
    """Summarise the findings in a sentence, those with the most rows first."""
    if not findings:
        return "the server sees what the model was trained on, and answers as it predicts in a batch"
    worst = sorted(findings, key=lambda finding: -finding.share)
    return names.listed((f"{finding.column}: {finding.message}" for finding in worst), 3, "; ")


def blocks(findings: Sequence[Finding], replayed: int) -> list[reports.Block]:
    """Return the blocks above the columns on the page."""
    said = reports.callout(summary_of(findings), "bad" if findings else "good")
    rows = [
        {"column": each.column, "check": each.check, "rows": f"{each.share:.1%}", "what": each.message}
        for each in sorted(findings, key=lambda finding: -finding.share)
    ]
    answers = (
        f"{replayed:,} logged rows were scored again and compared with the server's answers."
        if replayed
        else "No row could be scored again: the log lacks the answers or a feature, or masks one."
    )
    return [said, reports.callout(answers), reports.section("Skew", reports.table(rows))]
