"""The page about an A/B test: the decision, the effect over time with its sequence, and the guardrails."""

import math
from typing import Any

from flowparts import reports
from flowparts.monitor.ab_test import Analysis, Effect

_LEVELS = {"ship": "good", "keep": "note", "continue": "note", "invalid": "bad"}


def page(found: Analysis, subtitle: str) -> str:
    """Return the HTML page for what `ab_test.analyse` found."""
    tiles = {
        "decision": found.decision,
        "effect": reports.format_number(found.effect.effect),
        "p-value": reports.format_number(found.effect.p_value),
        "units, current": found.units[0],
        "units, new": found.units[1],
    }
    plan = found.plan
    blocks: list[reports.Block] = [
        reports.facts(tiles),
        reports.callout(f"{found.reason[0].upper()}{found.reason[1:]}.", _LEVELS[found.decision]),
        reports.section(
            f"Effect on {plan.outcome}", _over_time(found), reports.table([_row(found.effect)], _said(found))
        ),
    ]
    if found.guardrails:
        rows = [
            {
                **_row(each.effect),
                "may": f"{'rise' if each.rises else 'fall'} by {each.tolerance:g}",
                "state": each.state,
            }
            for each in found.guardrails
        ]
        blocks.append(reports.section("Guardrails", reports.table(rows)))
    share = found.units[1] / sum(found.units)
    assigned = {
        "share of the new revision": f"{share:.2%}",
        "planned": f"{plan.new_fraction:.2%}",
        "p-value of a mismatch": reports.format_number(found.mismatch_p_value),
        "units that met both": found.mixed_units or "none",
    }
    blocks.append(reports.section("Assignment", reports.facts(assigned)))
    return reports.page("A/B test", *blocks, subtitle=subtitle)


def _said(found: Analysis) -> str:
    return (
        f"The interval and the p-value hold at all looks together ({found.plan.confidence:.0%}), so the test "
        f"may be stopped at any time; detectable: with a power of {found.plan.power:.0%}"
    )


def _over_time(found: Analysis) -> reports.Block:
    looks = [look for look in found.looks if look.low is not None]
    if len(looks) < 2:
        return reports.Block("")
    rows = [float(look.rows) for look in looks]
    series: dict[str, tuple[list[float], list[float]]] = {
        "effect": (rows, [look.effect for look in looks]),
        "lower end": (rows, [_point(look.low) for look in looks]),
        "upper end": (rows, [_point(look.high) for look in looks]),
        "no effect": ([rows[0], rows[-1]], [0.0, 0.0]),
    }
    said = f"from {looks[0].time} to {looks[-1].time} (UTC)"
    drawn = reports.lines(series, "rows", f"effect on {found.plan.outcome}")
    return reports.Block("{}<p>{}</p>").format(drawn, said)


def _point(value: float | None) -> float:
    return math.nan if value is None else value


def _row(effect: Effect) -> dict[str, Any]:
    return {
        "column": effect.column,
        "current": effect.current,
        "new": effect.new,
        "effect": effect.effect,
        "low": effect.low,
        "high": effect.high,
        "p-value": effect.p_value,
        "detectable": effect.detectable,
        "units": effect.units,
        "rows": effect.rows,
    }
