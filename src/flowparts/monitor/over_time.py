"""A metric over time windows, for the pages on measured and estimated performance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flowparts import reports


@dataclass(frozen=True)
class Point:
    """A metric in one window.

    Attributes:
        window: The window's start in ISO 8601 (UTC), or "all".
        value: The metric; None if unknown.
        low: Lower end of its interval.
        high: Upper end.
    """

    window: str
    value: float | None = None
    low: float | None = None
    high: float | None = None


def chart(
    metric: str,
    called: str,
    points: Sequence[Point],
    confidence: str,
    reference: float | None,
    further: Mapping[str, Mapping[str, float]] | None = None,
    remark: str = "",
) -> reports.Block:
    """Draw a metric with its interval over the windows that have one.

    Args:
        metric: Name of the y axis.
        called: Name of the line.
        points: The windows, in the order of time.
        confidence: Of the intervals, as text.
        reference: The score to compare with; None for none.
        further: Further lines: name -> window -> value. Windows that aren't among the points are left out.
        remark: Text to add below, after the first and last window.
    """
    columns = {
        called: [point.value for point in points],
        f"lower end ({confidence})": [point.low for point in points],
        f"upper end ({confidence})": [point.high for point in points],
    }
    columns |= {
        name: [values.get(point.window) for point in points] for name, values in (further or {}).items()
    }
    series = {}
    for name, values in columns.items():
        # The line spans windows without a value: a single point between two gaps would not be drawn.
        known = [(float(place), value) for place, value in enumerate(values, 1) if value is not None]
        series[name] = ([place for place, _ in known], [value for _, value in known])
    if reference is not None:
        series["reference"] = ([1.0, float(len(points))], [reference] * 2)
    said = f"from {points[0].window} to {points[-1].window}{remark}"
    return reports.Block("{}<p>{}</p>").format(reports.lines(series, "window", metric), said)


def number(value: float | None) -> str:
    """Format a number for a tile."""
    return "unknown" if value is None else reports.format_number(value)
