"""Decide whether to train again, by rules on new data, drift, lost performance and age.

The champion is judged on the rows that came since the last training: they are compared with the baseline of
its training rows, and its predictions for them with their labels. Rows that one training has seen don't
trigger another, so that a challenger that lost isn't trained again every day.
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
# On fewer rows, drift and performance are dominated by chance.
MINIMUM_ROWS = 50
_MOST_NAMED = 5
_MOST_DAYS = 36_500


@dataclass(frozen=True)
class Rules:
    """When to train again.

    Attributes:
        reasons: Which of `REASONS` may trigger a training.
        min_new_rows: Minimum rows since the last training for "new_data".
        drift: When a column counts as drifted.
        tolerance: How much worse than on its validation rows the champion may be, in the metric's unit.
        max_age_days: Maximum days since the last training for "age".

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
                raise ValueError(f"{reason!r} isn't a reason to train; reasons are: {', '.join(REASONS)}")
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
    """The champion of a registered model.

    Attributes:
        path: Its directory.
        version: Its version in the registry.
        registered: When that was registered, in UTC.
        awaits_deployment: Whether it is to be deployed, and no rollout of it has ended.
    """

    path: Path
    version: str
    registered: datetime
    awaits_deployment: bool = False


@contextmanager
def champion(model_name: str, tracking_uri: str | None) -> Iterator[Champion | None]:
    """Download the champion of a registered model for the block; None without a champion or a registry.

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
        about = registry.described(model_name, version, tracking_uri)
        yield Champion(path, version, about.registered, about.awaits_deployment)


@dataclass(frozen=True)
class Answer:
    """Result of one rule.

    Attributes:
        rule: "request", "champion", "deployment", or one of `REASONS`.
        asks: Whether it triggers a training.
        said: Why, or why not, in words.
    """

    rule: str
    asks: bool
    said: str


@dataclass(frozen=True)
class Decision:
    """Result of `decide`.

    Attributes:
        answers: Result of each rule.
        rows: Number of rows on which the champion was judged.
        drifts: Drift of their columns, the worst first; empty if they weren't compared.
        score: The champion's performance on these rows; None if it wasn't measured.
        deploy: Whether the champion is deployed first, whose rollout failed. A training waits for the next
            run then: its model could overtake the champion, or be rolled out at the same time.
    """

    answers: Sequence[Answer]
    rows: int = 0
    drifts: Sequence[ColumnDrift] = field(default=())
    score: performance.Performance | None = None
    deploy: bool = False

    @property
    def retrain(self) -> bool:
        """Whether to train: a rule triggers it, and there is no champion to deploy first."""
        return not self.deploy and any(answer.asks for answer in self.answers)

    @property
    def reason(self) -> str:
        """The verdict in a sentence: what triggers a training, or else why nothing does."""
        asking = [answer.said for answer in self.answers if answer.asks]
        if self.deploy:
            said = [answer.said for answer in self.answers if answer.rule == "deployment"]
            return "; ".join([*said, *(f"the next run trains: {each}" for each in asking)])
        return (
            "; ".join(asking or [answer.said for answer in self.answers]) or "no rule may trigger a training"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "retrain": self.retrain,
            "deploy": self.deploy,
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
    deploys: bool = False,
) -> Decision:
    """Decide whether to train again, or first to deploy a champion whose rollout failed.

    Args:
        table: The labelled rows that a training would use.
        champion: The current champion; without one, a training is triggered.
        mark: How far the rows go.
        state: What the last training saw; None if nothing has been remembered yet.
        rules: When to train.
        now: The present, in UTC.
        request: Why a training was requested, whatever the rules say; empty if it wasn't.
        remembers: Whether trainings are remembered; if not, new rows can't be told from old ones.
        deploys: Whether a champion that isn't deployed can be. It is unless a training was requested, or the
            champion can't judge the rows.

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
    due = False
    if champion.awaits_deployment:
        due = deploys and not any(each.asks and each.rule in ("request", "champion") for each in answers)
        said = f"the rollout of champion version {champion.version} has not ended"
        answers.append(Answer("deployment", False, f"{said}: it is deployed now" if due else said))
    return replace(judged, answers=answers, deploy=due)


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
    """Judge the champion on rows that it hasn't seen."""
    rows = new_data.beyond(table, state.mark) if state else table
    unseen = seen.unseen(champion.path, rows)
    doubt = ""
    if unseen is not None:
        rows = rows.filter(unseen)
    elif state is None or not state.mark.column:
        doubt = " (the champion doesn't say which rows it has seen; it may have learned from these)"
    count = tables.row_count(rows)
    if count < MINIMUM_ROWS:
        said = f"{count} rows are too few to judge by; {MINIMUM_ROWS} are needed"
        few = [reason for reason in ("drift", "performance") if reason in rules.reasons]
        return Decision([Answer(reason, False, f"{reason}: {said}") for reason in few], count)
    answers: list[Answer] = []
    drifts: Sequence[ColumnDrift] = ()
    score = None
    if "drift" in rules.reasons:
        before = baseline.read(champion.path)
        # Later rows have later times; that isn't drift.
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
