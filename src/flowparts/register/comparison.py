"""The JSON form of register_champion's comparison of a new model with the champion."""

from typing import Any, Literal, NotRequired, TypedDict


class Entry(TypedDict):
    """A metric of a model.

    Attributes:
        score: Its value.
        low: Lower end of its interval; left out if too few resamples have the metric.
        high: Upper end.
    """

    score: float
    low: NotRequired[float]
    high: NotRequired[float]


class Scored(TypedDict):
    """A model that was scored on the compared rows.

    Attributes:
        estimator: Class of its estimator.
        metrics: Metric to value, with interval.
    """

    estimator: str
    metrics: dict[str, Entry]


class Gain(TypedDict):
    """By how much the challenger is better, in units of the metric; positive is better.

    Attributes:
        value: Improvement on the rows.
        low: Lower end of its interval.
        high: Upper end.
        probability_better: Fraction of the resamples in which the challenger is strictly better.
    """

    value: float
    low: float
    high: float
    probability_better: float


class Baseline(Gain):
    """By how much the challenger is better than a constant prediction.

    Attributes:
        answer: The most frequent class, or the mean.
        score: Its metric.
    """

    answer: Any
    score: float


class Comparison(TypedDict):
    """Two models on the same rows, and the decision.

    Attributes:
        task: "classification" or "regression".
        label: The label column.
        rows: Number of scored rows, which neither model has seen.
        seen_rows: Test rows left out because a model has seen them; None if the champion doesn't record what
            it has seen.
        metric: The metric that decides.
        higher_is_better: Direction of the metric.
        challenger: The new model.
        champion: The current champion; None if there is none to compare with.
        champion_problem: Why the champion can't be compared; empty if it can.
        comparable: Whether it can be compared.
        improvement: Improvement of the challenger over the champion; None without one.
        baseline: The challenger against a constant prediction; None with too few rows.
        margin: Minimum improvement.
        floor: Threshold without a champion to beat; None to require more than a constant prediction.
        confidence: Fraction of the resamples in which the challenger must be better.
        servable: Whether the challenger passed the serving check.
        replace_champion: Whether a champion that can't be compared is replaced.
        promote: The decision.
        reason: Reason for the decision, in one line.
    """

    task: str
    label: str
    rows: int
    seen_rows: int | None
    metric: str
    higher_is_better: bool
    challenger: Scored
    champion: Scored | None
    champion_problem: str
    comparable: bool
    improvement: Gain | None
    baseline: Baseline | None
    margin: float
    floor: float | None
    confidence: float
    servable: bool
    replace_champion: bool
    promote: bool
    reason: str


class Registration(Comparison):
    """A comparison with its outcome in the registry.

    Attributes:
        model_name: The registered model.
        champion_version: Version of the champion; None if there is none.
        registry: Whether there is a registry.
        version: The challenger's new version; empty if it isn't registered.
        model_fingerprint: Fingerprint of the challenger's files.
        test_fingerprint: Fingerprint of the test table.
    """

    model_name: str
    champion_version: str | None
    registry: bool
    version: str
    model_fingerprint: str
    test_fingerprint: str


Side = Literal["challenger", "champion"]
