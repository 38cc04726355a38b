"""Charts as inline SVG: bars, histograms, lines, points, heat maps."""

import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from markupsafe import Markup

from flowparts.reports._text import Block, all_finite, clean, format_number

_WIDTH = 480


_COLOURS = 8


_DASHES = ("", "7 4", "2 4")


_CHARACTER = 6.9  # average width of a character in pixels, at the charts' font size of 12 px


_BEYOND = 1e300  # differences between larger numbers overflow


def bars(
    values: Mapping[str, float],
    errors: Mapping[str, tuple[float, float]] | None = None,
    label: str = "",
    width: int = _WIDTH,
) -> Block:
    """Draw horizontal bars from zero.

    Args:
        values: Name -> length, drawn in this order; values that aren't finite get no bar.
        errors: Name -> low and high end of an interval around the value.
        label: Label of the axis.
        width: Natural width of the drawing in pixels.
    """
    if not values:
        return _nothing(label)
    intervals = errors or {}
    ends = [float(value) for value in values.values()]
    ends += [float(end) for name in values for end in intervals.get(name, ())]
    low, high = _extent([*ends, 0.0])
    texts = {name: format_number(value) for name, value in values.items()}
    left = min(width * 0.36, max(_text_width(str(name)) for name in values) + 14)
    right = width - max(_text_width(text) for text in texts.values()) - 12
    row, top = 24, 6
    bottom = top + row * len(values)
    height = bottom + (44 if label else 26)
    axis = _Axis.over(low, high, left, right, loose=True)
    zero = axis.place(0.0)
    marks = [_grid_below(axis, top, bottom, width)]
    for index, (name, value) in enumerate(values.items()):
        middle = top + row * index + row / 2
        number = float(value)
        start, end = sorted((zero, axis.place(number))) if math.isfinite(number) else (zero, zero)
        interval = intervals.get(name)
        tip = f"{clean(str(name))}: {texts[name]}"
        furthest = end
        whisker = Markup("")
        if interval and all(math.isfinite(limit) for limit in interval):
            first, last = axis.place(interval[0]), axis.place(interval[1])
            tip += f" ({format_number(interval[0])} to {format_number(interval[1])})"
            furthest = max(end, last)
            whisker = Markup(
                '<path class="whisker" d="M{:.1f} {:.1f}H{:.1f}M{:.1f} {:.1f}v8M{:.1f} {:.1f}v8"/>'
            )
            whisker = whisker.format(first, middle, last, first, middle - 4, last, middle - 4)
        marks.append(
            Markup(
                '<g><title>{}</title>{}<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{}" '
                'rx="2"/>{}{}</g>'
            ).format(
                tip,
                _text(left - 8, middle + 4, _fit(str(name), left - 14), "end", "name"),
                start,
                middle - 8,
                max(end - start, 1 if number else 0),
                16,
                whisker,
                _text(furthest + 6, middle + 4, texts[name], "start", "value"),
            )
        )
    marks.append(Markup('<path class="axis" d="M{:.1f} {}V{}"/>').format(zero, top, bottom))
    if label:
        marks.append(_text((left + right) / 2, height - 6, _fit(label, width - 10)))
    return _figure(width, height, label or "bar chart", marks)


def histogram(
    edges: Sequence[float] | Sequence[datetime],
    counts: Sequence[int],
    label: str = "",
    width: int = _WIDTH,
    height: int = 200,
) -> Block:
    """Draw the number of values in each bin.

    Args:
        edges: The bins' edges, ascending, one more than `counts`; numbers or timestamps.
        counts: Number of values in each bin.
        label: Label of the axis.
        width: Natural width of the drawing in pixels.
        height: Natural height in pixels.
    """
    if not counts:
        return _nothing(label)
    if len(edges) != len(counts) + 1:
        raise ValueError(
            f"a histogram of {len(counts)} counts needs {len(counts) + 1} edges, not {len(edges)}"
        )
    numbers = [_seconds(edge) if isinstance(edge, datetime) else float(edge) for edge in edges]
    if not all(math.isfinite(number) for number in numbers):
        return _nothing(label)
    shown = [_edge_text(edge) for edge in edges]
    if numbers[0] == numbers[-1]:
        # All values are equal: draw a narrow bar in the middle of a range around them.
        middle = min(max(numbers[0], -_BEYOND), _BEYOND)
        half = _HALF_A_DAY if isinstance(edges[0], datetime) else abs(middle) * 0.1 or 1.0
        numbers = [middle + half * (position / len(counts) - 0.5) / 5 for position in range(len(numbers))]
        ends = (middle - half, middle + half)
    else:
        ends = _extent(numbers)
    bottom = height - (40 if label else 24)
    upright = _Axis.over(0, max([*counts, 1]), bottom, 8, loose=True, whole=True)
    left = 12 + max(_text_width(text) for _, text in upright.ticks)
    across = (
        _Axis.over_time(*ends, left, width - 14)
        if isinstance(edges[0], datetime)
        else _Axis.over(*ends, left, width - 14, whole=all(number % 1 == 0.5 for number in numbers))
    )
    marks = [_grid_beside(upright, left, width - 14), _labels_below(across, bottom, width)]
    for index, count in enumerate(counts):
        start, end = across.place(numbers[index]), across.place(numbers[index + 1])
        peak = upright.place(count)
        if count:
            # A bin with a single value must be visible beside bins with millions.
            peak = min(peak, bottom - 1)
        marks.append(
            Markup(
                '<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}">'
                "<title>{} to {}: {:,}</title></rect>"
            ).format(
                start + 0.5,
                peak,
                max(end - start - 1, 0.5),
                bottom - peak,
                shown[index],
                shown[index + 1],
                count,
            )
        )
    marks.append(Markup('<path class="axis" d="M{:.1f} {}H{}"/>').format(left, bottom, width - 14))
    if label:
        marks.append(_text((left + width - 14) / 2, height - 4, _fit(label, width - left)))
    return _figure(width, height, label or "histogram", marks)


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x_label: str,
    y_label: str,
    diagonal: bool = False,
) -> Block:
    """Draw one line for each series, with a legend if there are several.

    Args:
        series: Name -> x and y of its points, in drawing order; a point that isn't finite breaks the line.
        x_label: Label of the x axis.
        y_label: Label of the y axis.
        diagonal: Whether to give both axes the same range and draw x = y.
    """
    points = {name: list(zip(map(float, x), map(float, y), strict=True)) for name, (x, y) in series.items()}
    plot = _Plot.around([point for line in points.values() for point in line], x_label, y_label, diagonal)
    if plot is None:
        return _nothing(y_label)
    marks = [plot.frame]
    for index, (name, line) in enumerate(points.items()):
        marks.append(
            Markup('<path class="line s{}" stroke-dasharray="{}" d="{}"><title>{}</title></path>').format(
                index % _COLOURS, _dash(index), plot.path(line), clean(str(name))
            )
        )
        shown = [(x, y) for x, y in line if all_finite(x, y)]
        style = "hover" if len(shown) > 1 else f"line s{index % _COLOURS}"
        marks += [
            Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="4"><title>{}</title></circle>').format(
                style, *plot.place(x, y), f"{clean(str(name))}: {format_number(x)}, {format_number(y)}"
            )
            for x, y in shown
        ]
    legend = ""
    if len(points) > 1:
        keys = (
            Markup(
                '<li><svg viewBox="0 0 22 10" aria-hidden="true"><path class="line s{}" stroke-dasharray="{}"'
                ' d="M1 5H21"/></svg><span>{}</span></li>'
            ).format(index % _COLOURS, _dash(index), clean(str(name)))
            for index, name in enumerate(points)
        )
        legend = Markup('<figcaption><ul class="legend">{}</ul></figcaption>').format(Markup("").join(keys))
    return _figure(_WIDTH, plot.height, f"{y_label} against {x_label}", marks, legend)


def scatter(
    x: Sequence[float], y: Sequence[float], x_label: str, y_label: str, diagonal: bool = False
) -> Block:
    """Draw points; more than about 2,000 make the page heavy, so callers should sample them.

    Args:
        x: Horizontal positions; points that aren't finite are left out.
        y: Vertical positions, one for each x.
        x_label: Label of the x axis.
        y_label: Label of the y axis.
        diagonal: Whether to give both axes the same range and draw x = y.
    """
    points = [point for point in zip(map(float, x), map(float, y), strict=True) if all_finite(*point)]
    plot = _Plot.around(points, x_label, y_label, diagonal)
    if plot is None:
        return _nothing(y_label)
    dots = (
        Markup('<circle class="point" cx="{:.1f}" cy="{:.1f}" r="3"><title>{}</title></circle>').format(
            *plot.place(*point), f"{format_number(point[0])}, {format_number(point[1])}"
        )
        for point in points
    )
    return _figure(_WIDTH, plot.height, f"{y_label} against {x_label}", [plot.frame, *dots])


def heatmap(
    matrix: Sequence[Sequence[float]],
    rows: Sequence[str],
    columns: Sequence[str],
    row_label: str = "",
    column_label: str = "",
) -> Block:
    """Draw a matrix as coloured cells with their numbers; negative numbers have another colour.

    Args:
        matrix: One sequence for each row; values that aren't finite stay blank.
        rows: The rows' names.
        columns: The columns' names.
        row_label: Label of the vertical axis.
        column_label: Label of the horizontal axis.
    """
    if not rows or not columns:
        return _nothing(row_label)
    numbers = [[float(value) for value in line] for line in matrix]
    top_value = max((abs(value) for line in numbers for value in line if math.isfinite(value)), default=0.0)
    texts = [
        [format_number(value) if math.isfinite(float(value)) else "" for value in line] for line in matrix
    ]
    widest = max(_text_width(text) for line in texts for text in line)
    names = max(_text_width(_fit(str(name), 130)) for name in rows)
    left = names + (34 if row_label else 14)
    cell = max(widest + 12, 34.0, min(84.0, (_WIDTH - left - 10) / len(columns)))
    tilted = any(_text_width(str(name)) > cell - 4 for name in columns)
    longest = max(_text_width(_fit(str(name), 130)) for name in columns)
    top = (longest * 0.62 + 14 if tilted else 22) + (20 if column_label else 0)
    step = max(30.0, min(cell, 44.0))
    width = left + cell * len(columns) + (longest * 0.75 if tilted else 6)
    height = top + step * len(rows) + 6
    marks: list[Markup] = []
    if column_label:
        marks.append(_text(left + cell * len(columns) / 2, 13, _fit(column_label, cell * len(columns) + 60)))
    if row_label:
        marks.append(_sideways(14, top + step * len(rows) / 2, _fit(row_label, step * len(rows) + 60)))
    for index, name in enumerate(columns):
        middle = left + cell * (index + 0.5)
        shown = Markup("<g><title>{}</title>{}</g>").format(
            clean(str(name)),
            Markup('<g transform="translate({:.1f} {:.1f}) rotate(-40)">{}</g>').format(
                middle, top - 6, _text(0, 0, _fit(str(name), 130), "start", "name")
            )
            if tilted
            else _text(middle, top - 7, str(name), "middle", "name"),
        )
        marks.append(shown)
    for line_index, (name, line) in enumerate(zip(rows, numbers, strict=True)):
        y = top + step * line_index
        marks.append(
            Markup("<g><title>{}</title>{}</g>").format(
                clean(str(name)), _text(left - 8, y + step / 2 + 4, _fit(str(name), 130), "end", "name")
            )
        )
        for index, (column, value) in enumerate(zip(columns, line, strict=True)):
            strength = abs(value) / top_value if top_value and math.isfinite(value) else 0.0
            marks.append(
                Markup(
                    '<g><title>{}</title><rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="3" '
                    'style="fill:rgba(var(--{}),{:.3f})"/>{}</g>'
                ).format(
                    f"{clean(str(name))} / {clean(str(column))}: {texts[line_index][index] or 'none'}",
                    left + cell * index + 1,
                    y + 1,
                    cell - 2,
                    step - 2,
                    "cold" if value < 0 else "heat",
                    0.06 + 0.94 * strength,
                    _text(
                        left + cell * (index + 0.5),
                        y + step / 2 + 4,
                        texts[line_index][index],
                        "middle",
                        "strong" if strength > 0.7 else "value",
                    ),
                )
            )
    return _figure(width, height, f"{row_label or 'rows'} by {column_label or 'columns'}", marks)


@dataclass(frozen=True)
class _Axis:
    """Map values between `low` and `high` to pixels between `start` and `end`."""

    low: float
    high: float
    start: float
    end: float
    ticks: list[tuple[float, str]]

    @classmethod
    def over(
        cls, low: float, high: float, start: float, end: float, loose: bool = False, whole: bool = False
    ) -> "_Axis":
        """Choose readable ticks; `loose` extends the range to the next ticks, `whole` keeps integers only."""
        pixels = abs(end - start)
        upright = start > end
        for room in range(max(1, int(pixels / (44 if upright else 36))), 0, -1):
            step = _nice_step((high - low) / room)
            if whole:
                step = max(math.ceil(step), 1)
            if loose:
                first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
            else:
                # A range that just misses a tick is extended to it.
                near = 0.03 * (high - low) / step
                first, last = math.ceil(low / step - near), math.floor(high / step + near)
            ticks = [(number * step, _tick_text(number * step, step)) for number in range(first, last + 1)]
            if upright or sum(_text_width(text) + 20 for _, text in ticks) <= pixels:
                break
        if ticks:
            low, high = min(low, ticks[0][0]), max(high, ticks[-1][0])
        return cls(low, high, start, end, ticks)

    @classmethod
    def over_time(cls, low: float, high: float, start: float, end: float) -> "_Axis":
        """Choose calendar ticks; values are seconds since 1970."""
        low, high = max(low, _seconds(datetime.min)), min(high, _seconds(datetime.max))
        for room in range(max(1, int((end - start) / 36)), 0, -1):
            ticks = _time_ticks(low, high, room)
            if sum(_text_width(text) + 12 for _, text in ticks) <= end - start:
                break
        return cls(low, high, start, end, ticks)

    def place(self, value: float) -> float:
        fraction = (value - self.low) / (self.high - self.low)
        return self.start + min(max(fraction, 0.0), 1.0) * (self.end - self.start)


@dataclass(frozen=True)
class _Plot:
    """A frame with two axes for points."""

    across: _Axis
    upright: _Axis
    frame: Markup
    height: float

    @classmethod
    def around(
        cls, points: Sequence[tuple[float, float]], x_label: str, y_label: str, diagonal: bool
    ) -> "_Plot | None":
        finite = [point for point in points if all_finite(*point)]
        if not finite:
            return None
        horizontal, vertical = _extent([x for x, _ in finite]), _extent([y for _, y in finite])
        if diagonal:
            horizontal = vertical = _extent([*horizontal, *vertical])
        height, top, right = 320.0, 10.0, _WIDTH - 16.0
        bottom = height - 46
        upright = _Axis.over(*vertical, bottom, top, loose=True)
        left = 34 + max(_text_width(text) for _, text in upright.ticks)
        across = _Axis.over(*horizontal, left, right, loose=True)
        if diagonal:
            # Both axes need the same range for x = y to run from corner to corner.
            across = _Axis.over(upright.low, upright.high, left, right)
        marks = [
            _grid_beside(upright, left, right),
            _grid_below(across, top, bottom),
            Markup('<path class="axis" d="M{:.1f} {}V{}H{}"/>').format(left, top, bottom, right),
        ]
        if diagonal:
            marks.append(
                Markup('<path class="diagonal" d="M{:.1f} {}L{} {}"/>').format(left, bottom, right, top)
            )
        marks.append(_text((left + right) / 2, height - 8, _fit(x_label, right - left)))
        marks.append(_sideways(14, (top + bottom) / 2, _fit(y_label, bottom - top)))
        return cls(across, upright, Markup("").join(marks), height)

    def place(self, x: float, y: float) -> tuple[float, float]:
        return self.across.place(x), self.upright.place(y)

    def path(self, line: Sequence[tuple[float, float]]) -> str:
        """Return path data; an isolated point becomes a dot through the line's round cap."""
        parts, pen_down = [], False
        for x, y in line:
            if not all_finite(x, y):
                pen_down = False
                continue
            across, upright = self.place(x, y)
            parts.append(f"{'L' if pen_down else 'M'}{across:.1f} {upright:.1f}" + ("" if pen_down else "h0"))
            pen_down = True
        return "".join(parts)


def _nice_step(raw: float) -> float:
    """Return the smallest of 1, 2, 2.5, 5 x 10^n that is not below `raw`."""
    magnitude = 10.0 ** math.floor(math.log10(raw))
    return next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if raw <= factor * magnitude * (1 + 1e-9))


def _tick_text(value: float, step: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 1e15 or step < 1e-5:
        return f"{value:.4g}"
    scale, suffix = 1.0, ""
    for bound, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if step >= bound or (abs(value) >= bound and step * 100 >= bound):
            scale, suffix = bound, letter
            break
    text = f"{value / scale:,.{_decimals(step / scale)}f}"
    return (text.rstrip("0").rstrip(".") if "." in text and suffix else text) + suffix


def _decimals(step: float) -> int:
    return next(
        digits for digits in range(13) if digits == 12 or abs(step - round(step, digits)) < step * 1e-6
    )


_CLOCK_STEPS = (1, 5, 15, 30, 60, 300, 900, 1800, 3600, 10800, 21600, 43200, 86400, 2 * 86400, 7 * 86400)


_MONTH_STEPS = (1, 3, 6, 12, 24, 60, 120, 240, 600, 1200, 6000, 12000)


_HALF_A_DAY = 43200.0


_EPOCH = datetime(1970, 1, 1)


def _time_ticks(low: float, high: float, room: int) -> list[tuple[float, str]]:
    for step in _CLOCK_STEPS:
        if (high - low) / step <= room:
            first, last = math.ceil(low / step), math.floor(high / step)
            # Weeks start on a Monday, the epoch on a Thursday.
            shift = 4 * 86400 if step == 7 * 86400 else 0
            at = [number * step + shift for number in range(first - 1, last + 1)]
            pattern = "%Y-%m-%d" if step >= 86400 else "%m-%d %H:%M" if step >= 60 else "%H:%M:%S"
            return [
                (value, (_EPOCH + timedelta(seconds=value)).strftime(pattern))
                for value in at
                if low <= value <= high
            ]
    start = (_EPOCH + timedelta(seconds=low)).date()
    end = (_EPOCH + timedelta(seconds=high)).date()
    months = (end.year - start.year) * 12 + end.month - start.month
    step = next((step for step in _MONTH_STEPS if months / step <= room), _MONTH_STEPS[-1])
    ticks = []
    for month in range((start.year * 12 + start.month - 1) // step * step, end.year * 12 + end.month, step):
        if month < 12:
            continue
        at_month = datetime(month // 12, month % 12 + 1, 1)
        value = _seconds(at_month)
        if low <= value <= high:
            ticks.append((value, f"{at_month.year:04d}" + (f"-{at_month.month:02d}" if step < 12 else "")))
    return ticks


def _seconds(moment: datetime) -> float:
    return (moment.replace(tzinfo=None) - _EPOCH).total_seconds()


def _extent(numbers: Iterable[float]) -> tuple[float, float]:
    """Return the range of the finite numbers, widened if it is too narrow to draw."""
    finite = [min(max(number, -_BEYOND), _BEYOND) for number in numbers if math.isfinite(number)] or [0.0]
    low, high = min(finite), max(finite)
    size = max(abs(low), abs(high))
    if high - low <= size * 1e-12 or high - low < 1e-300:
        pad = size * 0.1 or 1.0
        return (low - pad if low else 0.0), high + pad
    return low, high


def _grid_below(axis: _Axis, top: float, bottom: float, width: float = _WIDTH) -> Markup:
    """Draw vertical grid lines and the labels of a horizontal axis below them."""
    drawn = (
        Markup('<path class="grid-line" d="M{:.1f} {}V{}"/>').format(axis.place(value), top, bottom)
        for value, _ in axis.ticks
    )
    return Markup("").join(drawn) + _labels_below(axis, bottom, width)


def _labels_below(axis: _Axis, bottom: float, width: float) -> Markup:
    marks = []
    for value, text in axis.ticks:
        # A label at the edge of the drawing would be cut off.
        half = _text_width(text) / 2 + 4
        x = min(max(axis.place(value), half), width - half)
        marks.append(_text(x, bottom + 16, text))
    return Markup("").join(marks)


def _grid_beside(axis: _Axis, left: float, right: float) -> Markup:
    """Draw horizontal grid lines and the labels of a vertical axis beside them."""
    return Markup("").join(
        Markup('<path class="grid-line" d="M{:.1f} {:.1f}H{}"/>{}').format(
            left, axis.place(value), right, _text(left - 6, axis.place(value) + 4, text, "end")
        )
        for value, text in axis.ticks
    )


def _text(x: float, y: float, text: str, anchor: str = "middle", style: str = "") -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}" class="{}">{}</text>').format(
        x, y, anchor, style, clean(text)
    )


def _sideways(x: float, y: float, text: str) -> Markup:
    return Markup(
        '<text transform="translate({:.1f} {:.1f}) rotate(-90)" text-anchor="middle">{}</text>'
    ).format(x, y, clean(text))


def _figure(width: float, height: float, label: str, marks: Iterable[Markup], caption: str = "") -> Markup:
    # A drawing wider than a card keeps its size and scrolls; others fill the card.
    size = "keep" if width > 700 else ""
    limit = "" if size else f"max-width:{width * 1.15:.0f}px"
    return Markup(
        '<figure><svg class="{}" style="{}" viewBox="0 0 {:.0f} {:.0f}" width="{:.0f}" height="{:.0f}" '
        'role="img" aria-label="{}">{}</svg>{}</figure>'
    ).format(size, limit, width, height, width, height, clean(label), Markup("").join(marks), caption)


def _nothing(label: str) -> Markup:
    return Markup('<p class="muted">{}</p>').format(clean(f"{label}: no values" if label else "No values."))


def _fit(text: str, width: float) -> str:
    """Shorten text to a width in pixels."""
    text = clean(text)
    if _text_width(text) <= width + 0.1:
        return text
    kept, used = [], 2 * _CHARACTER
    for character in text:
        used += _text_width(character)
        if used > width:
            break
        kept.append(character)
    return "".join(kept) + "…"


def _text_width(text: str) -> float:
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return _CHARACTER * (len(text) + 0.9 * wide)


def _dash(index: int) -> str:
    return _DASHES[index // _COLOURS % len(_DASHES)]


def _edge_text(edge: float | datetime) -> str:
    return format_number(edge)
