"""Effect of a new revision, from the predictions of two that served side by side, and their outcomes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from flowparts import tables
from flowparts.monitor import sequential
from flowparts.monitor.measurements import Measurement
from flowparts.monitor.revisions import NEW

# The sequences rely on the central limit theorem.
MINIMUM_UNITS = 100
# A mismatch is a fault of routing or logging and no chance finding, so false alarms should be rare.
MISMATCH_LEVEL = 0.01
MOST_MIXED = 0.01
_LOOKS = 30
# In standard deviations of the current revision's rows; published tests rarely have larger effects.
_SCALE = 0.1
_UNIT = "unit\0"


@dataclass(frozen=True)
class Plan:
    """What was decided before the test.

    Attributes:
        outcome: Column of numbers or booleans whose mean is compared.
        higher_is_better: Whether a higher mean is better.
        rise: Guardrail columns whose mean must not rise by more than this.
        fall: Guardrail columns whose mean must not fall by more than this.
        new_fraction: Planned fraction of the units for the new revision.
        minimum_effect: Smallest improvement worth shipping, in the outcome's unit. The sequence is tuned to
            it; if it is None, to a tenth of the standard deviation.
        confidence: Confidence of the sequences.
        power: Power of the smallest detectable effect.

    Raises:
        ValueError: An option is out of range.
    """

    outcome: str
    higher_is_better: bool = True
    rise: Mapping[str, float] | None = None
    fall: Mapping[str, float] | None = None
    new_fraction: float = 0.5
    minimum_effect: float | None = None
    confidence: float = 0.95
    power: float = 0.8

    def __post_init__(self) -> None:
        for name in ("new_fraction", "confidence", "power"):
            value = getattr(self, name)
            if not 0 < value < 1:
                raise ValueError(f"{name} is {value:g}; it must lie between 0 and 1")
        if self.minimum_effect is not None and not 0 < self.minimum_effect < math.inf:
            raise ValueError(f"minimum_effect is {self.minimum_effect:g}; it must be above 0")
        for name, _, tolerance in self.guardrails:
            if isinstance(tolerance, bool) or not isinstance(tolerance, int | float):
                raise ValueError(f"the tolerance of guardrail {name!r} is {tolerance!r}; it must be a number")
            if not 0 < tolerance < math.inf:
                raise ValueError(
                    f"the tolerance of guardrail {name!r} is {tolerance:g}; it must be above 0, because no "
                    "number of rows can show that two means are the same"
                )
        repeated = [name for name in set(self.columns) if self.columns.count(name) > 1]
        if repeated:
            raise ValueError(f"column {repeated[0]!r} is given twice as outcome or guardrail; give it once")

    @property
    def guardrails(self) -> list[tuple[str, bool, float]]:
        """Column, whether it must not rise, and tolerance of each guardrail."""
        rise = [(name, True, value) for name, value in (self.rise or {}).items()]
        return rise + [(name, False, value) for name, value in (self.fall or {}).items()]

    @property
    def columns(self) -> list[str]:
        """The outcome and the guardrails."""
        return [self.outcome, *(name for name, _, _ in self.guardrails)]


@dataclass(frozen=True)
class Effect:
    """The new revision's mean of a column, less the current one's.

    Attributes:
        column: The column.
        rows: Rows that have a value.
        units: Their units.
        current: The current revision's mean.
        new: The new revision's mean.
        effect: The difference.
        low: Lower end of its confidence sequence; None with too few units.
        high: Upper end.
        p_value: Of no effect, valid at all looks together; 1 with too few units.
        detectable: Smallest effect that is detected at the given power with these rows.
        time: Moment of the last row, in ISO 8601 (UTC); None without times.
    """

    column: str
    rows: int
    units: int
    current: float
    new: float
    effect: float
    low: float | None = None
    high: float | None = None
    p_value: float = 1.0
    detectable: float | None = None
    time: str | None = None


@dataclass(frozen=True)
class Guardrail:
    """A column that must not get worse.

    Attributes:
        effect: What happened to it.
        rises: Whether rising is worse.
        tolerance: How much worse is accepted.
        state: "holds", "violated" or "unknown" (too few rows).
    """

    effect: Effect
    rises: bool
    tolerance: float
    state: str


@dataclass(frozen=True)
class Analysis:
    """Result of `analyse`.

    Attributes:
        plan: The plan of the test.
        effect: The effect on the outcome.
        looks: The effect at earlier times, at most 30; the last is `effect`.
        guardrails: The guardrail columns.
        units: Units of the current and the new revision.
        mixed_units: Units that both revisions answered; they are left out.
        mismatch_p_value: Of the planned fraction, valid at all looks together.
        decision: "ship", "keep", "continue" or "invalid".
        reason: Reason for the decision, in a sentence.
    """

    plan: Plan
    effect: Effect
    looks: Sequence[Effect]
    guardrails: Sequence[Guardrail]
    units: tuple[int, int]
    mixed_units: int
    mismatch_p_value: float
    decision: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)


def analyse(rows: pl.DataFrame, plan: Plan, unit: str | None, time_column: str | None) -> Analysis:
    """Compare the two revisions.

    Means are of rows; their variance is that of units, by the delta method (Deng, Knoblich and Lu, "Applying
    the Delta Method in Metric Analytics", KDD 2018).

    Args:
        rows: Predictions as `revisions.with_outcomes` returns them.
        plan: The plan of the test.
        unit: Column of the units that were randomised, such as a user; None for rows.
        time_column: Column of timestamps, in UTC; None for a single look.

    Raises:
        ValueError: A unit or a moment is missing, or only one revision has outcomes.
    """
    for name, what in ((unit, "unit column"), (time_column, "time column")):
        if name and rows[name].null_count():
            raise ValueError(f"{what} {name!r} has missing values; every prediction needs one")
    if time_column:
        tables.require_times(rows, time_column)
        rows = rows.sort(time_column, maintain_order=True)
    rows = rows.with_columns(rows[unit].alias(_UNIT) if unit else pl.int_range(len(rows)).alias(_UNIT))
    rows, mixed = _separate(rows)
    units = [rows.filter(pl.col(NEW) == arm)[_UNIT].n_unique() for arm in (False, True)]
    if not all(units):
        raise ValueError(
            f"only the {'current' if units[0] else 'new'} revision has predictions with an outcome"
            + (f" of units that it alone answered ({mixed:,} units met both revisions)" if mixed else "")
            + "; a test compares two"
        )
    level = 1 - plan.confidence
    looks = _looks(rows, plan, level, time_column)
    # Any violated guardrail decides, so they share the level (Bonferroni).
    level /= max(len(plan.guardrails), 1)
    guardrails = [
        _guardrail(_effect(rows, name, None, level, plan.power), rises, tolerance)
        for name, rises, tolerance in plan.guardrails
    ]
    mismatch = sequential.mismatch_p_value(units[0], units[1], plan.new_fraction)
    found = Analysis(plan, looks[-1], looks, guardrails, (units[0], units[1]), mixed, mismatch, "", "")
    decision, reason = _verdict(found)
    return replace(found, decision=decision, reason=reason)


def mean_of_units(sums: NDArray[np.floating[Any]], counts: NDArray[np.integer[Any]]) -> tuple[float, float]:
    """Return the mean of the rows of independent units, and its variance by the delta method.

    Args:
        sums: Sum of the values of each unit.
        counts: Rows of each unit, at least 1.
    """
    mean = sums.sum() / counts.sum()
    spread = ((sums - mean * counts) ** 2).sum() / counts.sum() ** 2
    return float(mean), float(spread * len(sums) / max(len(sums) - 1, 1))


def measurements(found: Analysis) -> list[Measurement]:
    """Return the measurements for publish_metrics."""
    results = [
        Measurement("flowparts_ab_test_mismatch_p_value", found.mismatch_p_value, {},
                    "P-value of the planned share of units"),
        Measurement("flowparts_ab_test_p_value", found.effect.p_value, {"column": found.plan.outcome},
                    "P-value of no effect on the outcome, valid at all looks together"),
    ]  # fmt: skip
    results += [
        Measurement("flowparts_ab_test_decision", float(found.decision == each), {"decision": each},
                    "1 for what the test has decided")
        for each in ("ship", "keep", "continue", "invalid")
    ]  # fmt: skip
    results += [
        Measurement("flowparts_ab_test_units", units, {"revision": name}, "Units with an outcome")
        for name, units in zip(("current", "new"), found.units, strict=True)
    ]
    for effect in (found.effect, *(each.effect for each in found.guardrails)):
        for part, value in (("effect", effect.effect), ("low", effect.low), ("high", effect.high)):
            if value is not None:
                of = {"column": effect.column, "part": part}
                text = "Mean of the new revision less the current one's, and the ends of its sequence"
                results.append(Measurement("flowparts_ab_test_effect", value, of, text))
    return results


def _separate(rows: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Return the rows of units that met one revision only, and the number of units that met both."""
    arms = rows.group_by(_UNIT).agg((pl.col(NEW).n_unique() > 1).alias("mixed")).filter(pl.col("mixed"))
    return (rows.join(arms, on=_UNIT, how="anti", maintain_order="left") if len(arms) else rows), len(arms)


def _looks(rows: pl.DataFrame, plan: Plan, level: float, time_column: str | None) -> list[Effect]:
    ends = np.linspace(0, len(rows), _LOOKS + 1)[1:].astype(int) if time_column else [len(rows)]
    looks = []
    for end in sorted({int(end) for end in ends}):
        part = rows.head(end)
        if end == len(rows) or part[NEW].n_unique() == 2:
            seen = _effect(part, plan.outcome, plan.minimum_effect, level, plan.power)
            moment = part[time_column].cast(pl.Datetime("us"))[-1] if time_column else None
            looks.append(replace(seen, time=moment and moment.isoformat(timespec="minutes")))
    return looks


def _effect(rows: pl.DataFrame, column: str, scale: float | None, level: float, power: float) -> Effect:
    value = tables.column(column)
    units = (
        rows.filter(value.is_not_null())
        .group_by(_UNIT, maintain_order=True)
        .agg(pl.col(NEW).first(), value.sum().alias("sum"), (value**2).sum().alias("squares"), pl.len())
    )
    means, variances, spreads, sizes = [], [], [], []
    for arm, name in ((False, "current"), (True, "new")):
        of = units.filter(pl.col(NEW) == arm)
        if of.is_empty():
            raise ValueError(f"column {column!r} has no value in the predictions of the {name} revision")
        counts = of["len"].to_numpy()
        mean, variance = mean_of_units(of["sum"].to_numpy(), counts)
        means.append(mean)
        variances.append(variance)
        spreads.append(math.sqrt(max(float(of["squares"].to_numpy().sum() / counts.sum() - mean**2), 0.0)))
        sizes.append(len(of))
    found = Effect(column, int(units["len"].sum()), sum(sizes), means[0], means[1], means[1] - means[0])
    variance, scale = sum(variances), scale or _SCALE * max(spreads[0], spreads[1])
    # The variance of a constant is rounding error.
    constant = variance <= (1e-9 * max(map(abs, means))) ** 2 or scale <= 0
    if min(sizes) < MINIMUM_UNITS or constant:
        return found
    half = sequential.half_width(variance, scale, level)
    return replace(
        found,
        low=found.effect - half,
        high=found.effect + half,
        p_value=sequential.p_value(found.effect, variance, scale),
        detectable=sequential.detectable(variance, scale, level, power),
    )


def _guardrail(effect: Effect, rises: bool, tolerance: float) -> Guardrail:
    low, high = effect.low, effect.high
    if low is None or high is None:
        # For example errors, if neither revision had any.
        same = math.isclose(effect.new, effect.current) and effect.units >= 2 * MINIMUM_UNITS
        return Guardrail(effect, rises, tolerance, "holds" if same else "unknown")
    best, worst = (low, high) if rises else (-high, -low)
    state = "violated" if best > tolerance else "holds" if worst <= tolerance else "unknown"
    return Guardrail(effect, rises, tolerance, state)


def _verdict(found: Analysis) -> tuple[str, str]:
    plan, effect = found.plan, found.effect
    total = sum(found.units)
    if found.mixed_units > MOST_MIXED * (total + found.mixed_units):
        return "invalid", (
            f"both revisions answered {found.mixed_units:,} of {total + found.mixed_units:,} units; each "
            "must stay with one"
        )
    if found.mismatch_p_value < MISMATCH_LEVEL:
        return "invalid", (
            f"the new revision has {found.units[1] / total:.2%} of the units with an outcome instead of "
            f"{plan.new_fraction:.2%} (p = {found.mismatch_p_value:.2g}), so the two groups can't be compared"
        )
    if effect.low is None or effect.high is None:
        if min(found.units) < MINIMUM_UNITS:
            return "continue", (
                f"the revisions have {found.units[0]:,} and {found.units[1]:,} units with an outcome; "
                f"{MINIMUM_UNITS} each are needed"
            )
        return "continue", f"{plan.outcome} doesn't vary within the revisions, so its effect can't be judged"
    for each in found.guardrails:
        if each.state == "violated":
            return "keep", (
                f"{each.effect.column} {'rose' if each.rises else 'fell'} by {abs(each.effect.effect):.4g} "
                f"({_interval(each.effect)}), by more than the tolerance {each.tolerance:g}"
            )
    best, worst = (effect.high, effect.low) if plan.higher_is_better else (-effect.low, -effect.high)
    said = f"the effect on {plan.outcome} is {effect.effect:+.4g} ({_interval(effect)})"
    if best < 0:
        return "keep", f"{said}: the new revision is worse"
    if plan.minimum_effect is not None and best < plan.minimum_effect:
        return "keep", f"{said}: an improvement of {plan.minimum_effect:g} is ruled out"
    if worst <= 0:
        return (
            "continue",
            f"{said}, which can still be zero; {effect.detectable:.4g} could be detected by now",
        )
    unknown = [each.effect.column for each in found.guardrails if each.state == "unknown"]
    if unknown:
        return "continue", f"{said}: better, but {', '.join(unknown)} can still be worse than tolerated"
    return "ship", f"{said}: the new revision is better" + (
        ", and every guardrail holds" if found.guardrails else ""
    )


def _interval(effect: Effect) -> str:
    return f"{effect.low:+.4g} to {effect.high:+.4g}"
