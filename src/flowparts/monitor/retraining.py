"""Whether to train again: by new data, drift, lost performance and age, each a rule that may ask for it.

What came since the last training is judged by the champion itself: its rows are compared with the baseline of
its training rows, and its predictions for them with their labels. A training uses rows up: those that one has
seen ask for no other, so that a challenger that lost isn't trained again every day.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from flowparts import models, tables
from flowparts.evaluate import directions
from flowparts.models import baseline, seen
from flowparts.monitor import baselines, drift, labels, new_data, performance
from flowparts.monitor.drift import ColumnDrift, Rule
from flowparts.register import registry

REASONS = ("new_data", "drift", "performance", "age")
# Of fewer rows drift and performance are chance.
MINIMUM_ROWS = 50
_MOST_NAMED = 5
_MOST_DAYS = 36_500


@dataclass(frozen=True)
class Rules:
    """When to train again.

    Attributes:
        reasons: Which of `REASONS` may ask for a training.
        min_new_rows: Rows that must have come since the last training for "new_data".
        drift: When a column counts as drifted.
        tolerance: How much worse than on its validation rows the champion may be, in the metric's unit.
        max_age_days: Days since the last training for "age".

    Raises:
        ValueError: A reason isn't known, or a number is out of range.
    """

    reasons: Sequence[str] = REASONS
    min_new_rows: int = 1
    drift: Rule = drift.DEFAULT
    tolerance: float = 0.0
    max_age_days: float = 30.0

    def __post_init__(self) -> None:
        for reason in self.reasons:
            if reason not in REASONS:
                raise ValueError(f"{reason!r} is no reason to train; reasons are: {', '.join(REASONS)}")
        if self.min_new_rows < 1:
            raise ValueError(f"min_new_rows is {self.min_new_rows}; it must be at least 1")
        performance.check_tolerance(self.tolerance)
        if not 0 < self.max_age_days <= _MOST_DAYS:
            raise ValueError(
                f"max_age_days is {self.max_age_days:g}; it must be a number of days above 0, at most "
                f"{_MOST_DAYS:,}"
            )


@dataclass(frozen=True)
class Champion:
    """The model to replace.

    Attributes:
        path: Its directory.
        version: Its version in the registry.
        registered: When that was made, in UTC.
    """

    path: Path
    version: str
    registered: datetime


@contextmanager
def champion(model_name: str, tracking_uri: str | None) -> Iterator[Champion | None]:
    """Fetch the champion of a registered model for a while; None without a champion or a registry.

    Raises:
        ValueError: As `registry.champion_version` and `registry.download`.
    """
    version = None
    if registry.is_configured(tracking_uri):
        version = registry.champion_version(model_name, tracking_uri)
    if version is None:
        yield None
        return
    with TemporaryDirectory() as folder:
        path = registry.download(model_name, version, folder, tracking_uri)
        yield Champion(path, version, registry.registered_at(model_name, version, tracking_uri))


@dataclass(frozen=True)
class Answer:
    """What one rule says.

    Attributes:
        rule: "request", "champion", or one of `REASONS`.
        asks: Whether it asks for a training.
        said: Why, or why not, in words.
    """

    rule: str
    asks: bool
    said: str


@dataclass(frozen=True)
class Decision:
    """What `decide` found.

    Attributes:
        answers: What each rule says.
        rows: Rows on which the champion was judged.
        drifts: Its columns, the worst first; empty if they weren't compared.
        score: What was measured on these rows; None if nothing was.
    """

    answers: Sequence[Answer]
    rows: int = 0
    drifts: Sequence[ColumnDrift] = field(default=())
    score: performance.Performance | None = None

    @property
    def retrain(self) -> bool:
        """Whether any rule asks for a training."""
        return any(answer.asks for answer in self.answers)

    @property
    def reason(self) -> str:
        """The verdict in a sentence: what asks for a training, or else why nothing does."""
        asking = [answer.said for answer in self.answers if answer.asks]
        return (
            "; ".join(asking or [answer.said for answer in self.answers]) or "no rule may ask for a training"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "retrain": self.retrain,
            "reason": self.reason,
            "rules": [asdict(answer) for answer in self.answers],
            "judged_rows": self.rows,
            "drift": [each.to_dict() for each in self.drifts],
            "performance": self.score.to_dict() if self.score else None,
        }


def decide(
    table: pl.LazyFrame,
    champion: Champion | None,
    mark: new_data.Mark,
    state: new_data.State | None,
    rules: Rules,
    now: datetime,
    request: str = "",
    remembers: bool = True,
) -> Decision:
    """Decide whether to train again.

    Args:
        table: The labelled rows that a training would use.
        champion: The model to replace; None if there is none, which asks for a training.
        mark: How far the rows go.
        state: What the last training saw; None if nothing was remembered so far.
        rules: When to train.
        now: The present, in UTC.
        request: Why somebody asks for a training whatever the rules say; empty if nobody does.
        remembers: Whether trainings are remembered; if not, new rows can't be told from old ones.

    Raises:
        ValueError: The mark and the state are of different kinds.
    """
    answers = [Answer("request", True, f"it was requested: {request}")] if request else []
    if champion is None:
        return Decision([*answers, Answer("champion", True, "there is no champion")])
    news = new_data.compare(table, mark, state.mark if state else None) if remembers else None
    if "new_data" in rules.reasons:
        answers.append(_of_news(news, rules.min_new_rows))
    judged = Decision([])
    by_rows = [reason for reason in ("drift", "performance") if reason in rules.reasons]
    if news and not news.new_data:
        answers += [Answer(reason, False, f"{reason} has no new rows to be judged by") for reason in by_rows]
    elif by_rows:
        try:
            judged = _judged(table, champion, mark, state, rules)
            answers += judged.answers
        except ValueError as error:
            text = " ".join(str(error).split()).replace(f"{champion.path}", "the champion")
            answers.append(Answer("champion", True, f"the champion can't judge the rows: {text}"))
    if "age" in rules.reasons:
        last = max(champion.registered, state.at) if state and state.at else champion.registered
        answers.append(_of_age(last, now, rules.max_age_days))
    return replace(judged, answers=answers)


def _of_news(news: new_data.News | None, least: int) -> Answer:
    if news is None:
        return Answer("new_data", False, "new rows can't be told from old ones without a state file")
    enough = news.new_data and (news.new_rows >= least or (not news.new_rows and least == 1))
    few = news.new_data and not enough
    return Answer("new_data", enough, news.reason + (f", fewer than {least:,}" if few else ""))


def _of_age(last: datetime, now: datetime, most_days: float) -> Answer:
    due = last + timedelta(days=most_days)
    if now < due:
        return Answer("age", False, f"the next training is due on {due:%Y-%m-%d}")
    return Answer("age", True, f"the last training was on {last:%Y-%m-%d}, over {most_days:g} days ago")


def _judged(
    table: pl.LazyFrame,
    champion: Champion,
    mark: new_data.Mark,
    state: new_data.State | None,
    rules: Rules,
) -> Decision:
    """Judge the champion by the rows that it hasn't seen."""
    rows = new_data.beyond(table, state.mark) if state else table
    unseen = seen.unseen(champion.path, rows)
    doubt = ""
    if unseen is not None:
        rows = rows.filter(unseen)
    elif state is None or not state.mark.column:
        doubt = " (the champion doesn't say which rows it has seen; it may have learned from these)"
    count = tables.row_count(rows)
    if count < MINIMUM_ROWS:
        said = f"{count} rows are too few to judge by, {MINIMUM_ROWS} are needed"
        few = [reason for reason in ("drift", "performance") if reason in rules.reasons]
        return Decision([Answer(reason, False, f"{reason}: {said}") for reason in few], count)
    answers: list[Answer] = []
    drifts: Sequence[ColumnDrift] = ()
    score = None
    if "drift" in rules.reasons:
        before = baseline.read(champion.path)
        # Later rows have later times: that is no drift.
        features = baselines.features(rows, before, exclude={mark.column or ""})
        window = baselines.of_window(rows, before, [*features, before.facts["label"]])
        drifts = drift.compare(before, window, rules.drift, baseline.roles(before))
        worst = [each.name for each in drifts if each.drifted]
        named = ", ".join(worst[:_MOST_NAMED]) + (" and others" if len(worst) > _MOST_NAMED else "")
        said = f"{len(worst)} of {len(drifts)} columns drifted: {named}" if worst else "no column has drifted"
        answers.append(Answer("drift", bool(worst), said + doubt))
    if "performance" in rules.reasons:
        score = _measured(rows, champion.path, rules.tolerance)
        answers.append(Answer("performance", score.degraded, score.reason + doubt))
    return Decision(answers, count, drifts, score)


def _measured(rows: pl.LazyFrame, model: Path, tolerance: float) -> performance.Performance:
    """Measure a model on labelled rows, as one window."""
    loaded, of = models.load(model), performance.source(model)
    tables.require_columns(rows, [of.label], "label column")
    truth = tables.collect(tables.select(rows, [of.label]))
    scored = truth.hstack(loaded.predict(rows))
    metric = directions.chosen(models.metadata(model).get("metric"), of.task)
    joined = labels.Joined(scored, len(scored))
    return performance.measure(joined, of, metric, None, 24.0, minimum_rows=MINIMUM_ROWS, tolerance=tolerance)
