"""Compute statistics of every column of a table, and render them as a page.

A column with at most about 100,000 distinct values is counted value by value, so all its statistics are
exact. A column with more is described from counts of fixed size, so memory doesn't grow with the table: the
number of distinct values is estimated from the smallest hash in each of 65,536 groups (standard error 0.4 %;
Flajolet et al. 2007, https://doi.org/10.46298/dmtcs.3545, with the groups' minima read as exponential
waiting times), quantiles are interpolated within 8,000 bins, which are split further if they hold many rows,
and the top values are those that the counts prove to be the most frequent, with exact counts. In both cases
the result doesn't depend on the order of the rows.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl

from flowparts import reports, tables
from flowparts.tables import schema
from flowparts.util import progress

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
HISTOGRAM_BINS = 20
TOP_VALUES = 10

_MAX_COUNTED = 100_000
_MAX_COUNTED_CHARACTERS = 20_000_000
_MAX_ROWS_DUPLICATES = 200_000
_BINS = HISTOGRAM_BINS * 400
_GROUPS = 65_536
_TOP_GROUPS = 256
_MAX_ZOOMS = 5

_MANY_NULLS = 0.2
_STRONG_SKEW = 3.0
_ALMOST_NUMBERS = 0.9
_ALMOST_ALL = 0.99
_MIN_ROWS_ID = 20
_SERIOUS = ("all missing", "constant", "infinite values", "text among numbers")
_ENDS = ("min", "max")
_EPOCH = datetime(1970, 1, 1)


def profile(frame: pl.LazyFrame) -> dict[str, Any]:
    """Profile every column of a table: one pass over all columns, then one column at a time.

    Returns:
        A JSON object: rows, missing_cells, duplicate_rows (rows equal to an earlier one; null for more than
        200,000 rows), warnings (column, warning, message) and columns. Each column has its name, type, count
        (values that are not missing), nulls, distinct, exact (whether distinct, quantiles and top values are
        exact), top_values (value, count) and, by type:
        integer, number: min, max, mean, std (of a sample), skewness, infinite, quantiles (by level),
        histogram (edges, counts), over the finite values;
        timestamp, date: min, max, quantiles, histogram, in ISO 8601;
        string: min_length, max_length, mean_length, in characters.

    Raises:
        ValueError: The table has no rows, or a column's type isn't a schema type.
    """
    types = schema.types_of(frame)
    plain = schema.positional(_with_hashed_images(frame, types))
    rows = tables.require_rows(frame)
    seen = _first_look(plain, list(types.values()))
    columns: list[dict[str, Any]] = []
    with progress.reported("profiling", lambda: len(columns), len(types), "columns"):
        for index, (name, kind) in enumerate(types.items()):
            columns.append({"name": name, "type": kind} | _column(plain, index, kind, rows, seen))
    warnings = [
        {"column": column["name"], "warning": warning, "message": message}
        for column in columns
        for warning, message in _warnings(column, rows)
    ]
    duplicates = None
    if rows <= _MAX_ROWS_DUPLICATES:
        hashes = plain.select(tables.row_hash(str(index) for index in range(len(types))).alias("hash"))
        duplicates = rows - hashes.select(pl.col("hash").n_unique()).pipe(tables.collect).item()
    return {
        "rows": rows,
        "missing_cells": sum(column["nulls"] for column in columns),
        "duplicate_rows": duplicates,
        "warnings": warnings,
        "columns": columns,
    }


def _with_hashed_images(frame: pl.LazyFrame, types: Mapping[str, str]) -> pl.LazyFrame:
    """Replace each image by a hash of its bytes, since these statistics don't decode images."""
    images = [tables.column(name) for name, kind in types.items() if kind == "image"]
    return frame.with_columns(pl.when(image.is_not_null()).then(image.hash()) for image in images)


def render(statistics: Mapping[str, Any], source: str = "") -> str:
    """Render the statistics of `profile` as an HTML page.

    Args:
        statistics: The result of `profile`.
        source: Origin of the table, for the subtitle.
    """
    rows, columns = statistics["rows"], statistics["columns"]
    cells = rows * len(columns)
    tiles = {
        "rows": rows,
        "columns": len(columns),
        "missing values": f"{statistics['missing_cells'] / cells:.2%}"
        if statistics["missing_cells"]
        else "none",
    }
    if statistics["duplicate_rows"] is not None:
        tiles["duplicate rows"] = statistics["duplicate_rows"] or "none"
    kinds = [column["type"] for column in columns]
    listed = ", ".join(f"{kinds.count(kind)} {kind}" for kind in schema.TYPES if kind in kinds)
    cards = (_card(column, rows) for column in columns)
    return reports.page(
        "Data profile",
        reports.facts(tiles),
        reports.section("Warnings", *_attention(statistics["warnings"])),
        reports.section(
            "Columns",
            reports.Block('<p class="muted">{}</p>').format(listed),
            reports.grid(*cards, narrow=True),
        ),
        subtitle=source,
    )


def _first_look(plain: pl.LazyFrame, kinds: Sequence[str]) -> dict[str, Any]:
    """Compute nulls, ranges, moments, lengths and approximate distinct counts of all columns in one pass."""
    sums: dict[str, pl.Expr] = {}
    for index, kind in enumerate(kinds):
        value = pl.col(str(index))
        measures = {"nulls": value.null_count(), "about": value.approx_n_unique()}
        if kind in schema.ORDERED:
            finite = value.filter(value.is_finite()) if kind == "number" else value
            measures |= {"min": finite.min(), "max": finite.max()}
        if kind == "number":
            measures["infinite"] = value.is_infinite().sum()
        if kind in ("integer", "number"):
            measures |= {"mean": finite.mean(), "std": finite.std(), "skewness": finite.skew()}
        if kind == "string":
            length = value.str.len_chars()
            measures |= {"min_length": length.min(), "max_length": length.max(), "mean_length": length.mean()}
            number = value.cast(pl.Float64, strict=False)
            odd = value.filter(number.is_null() & value.is_not_null())
            measures |= {"numbers": number.count(), "not_a_number": odd.min()}
        sums |= {f"{index} {name}": measure for name, measure in measures.items()}
    with tables.with_progress(plain, "measuring every column") as counted:
        return counted.select(**sums).pipe(tables.collect).row(0, named=True)


def _column(plain: pl.LazyFrame, index: int, kind: str, rows: int, seen: Mapping[str, Any]) -> dict[str, Any]:
    own = {key.split()[1]: value for key, value in seen.items() if key.split()[0] == str(index)}
    values = plain.select(pl.col(str(index)).alias("value")).filter(pl.col("value").is_not_null())
    count = rows - own["nulls"]
    about = own.pop("about")
    length = own.get("mean_length") or 0
    exact = about <= _MAX_COUNTED and about * length <= _MAX_COUNTED_CHARACTERS
    if exact:
        tally = values.group_by("value").agg(pl.len().alias("count")).pipe(tables.collect)
        distinct, top = tally.height, _top(tally)
    else:
        distinct, top = _many_values(values, count)
    # The hash of an image is meaningless to people.
    top = [] if kind == "image" else top
    result: dict[str, Any] = {
        "count": count,
        **{name: (schema.plain_value if name in _ENDS else _tidy)(value) for name, value in own.items()},
        "distinct": distinct,
        "exact": exact,
        "top_values": [{"value": schema.plain_value(value), "count": times} for value, times in top],
    }
    if kind in schema.ORDERED and own["min"] is not None:
        low, high = _number(own["min"]), _number(own["max"])
        numbers = _as_numbers(values, kind)
        finite = count - own.get("infinite", 0)
        bins = (
            _as_numbers(tally.lazy(), kind, "count")
            .select(pl.col("x").alias("low"), pl.col("x").alias("high"), pl.col("count").cast(pl.Int64))
            .sort("low")
            .collect()
            if exact
            else _refined(numbers, _bins(numbers, low, high), finite)
        )
        levels = _quantiles(bins, finite)
        edges, counts = _histogram(bins, low, high, kind)
        result["quantiles"] = {f"{level:g}": _restored(value, kind) for level, value in levels.items()}
        result["histogram"] = {"edges": [_restored(edge, kind) for edge in edges], "counts": counts}
    return result


def _as_numbers(values: pl.LazyFrame, kind: str, *others: str) -> pl.LazyFrame:
    """Return the finite numbers, microseconds or days as column "x"."""
    value = pl.col("value")
    x = value.to_physical() if kind in ("timestamp", "date") else value
    return values.select(x.cast(pl.Float64).alias("x"), *others).filter(pl.col("x").is_finite())


def _top(tally: pl.DataFrame) -> list[tuple[Any, int]]:
    return tally.sort("count", "value", descending=[True, False]).head(TOP_VALUES).rows()


def _many_values(values: pl.LazyFrame, count: int) -> tuple[int, list[tuple[Any, int]]]:
    """Estimate the number of distinct values, and find the most frequent ones, with fixed memory.

    A value can't occur more often than all values of its group together. So a value that occurs more often
    than the largest unsearched group has rows is certainly among the most frequent.
    """
    hashed = pl.col("value").hash()
    groups = (
        values.select((hashed % _GROUPS).alias("group"), (hashed // _GROUPS).alias("rest"))
        .group_by("group")
        .agg(pl.len().alias("count"), pl.col("rest").min())
        .sort("count", "group", descending=[True, False])
        .pipe(tables.collect)
    )
    waiting = (groups["rest"].cast(pl.Float64) / 2**48).sum() + (_GROUPS - groups.height)
    distinct = min(count, round(_GROUPS * groups.height / waiting)) if waiting else count
    searched, rest = groups[:_TOP_GROUPS], groups[_TOP_GROUPS:]
    bound = int(rest["count"][0]) if rest.height else 0
    chosen = values.filter((hashed % _GROUPS).is_in(searched["group"].implode()))
    tally = chosen.group_by("value").agg(pl.len().alias("count")).filter(pl.col("count") > bound)
    return distinct, _top(tally.pipe(tables.collect))


def _bins(numbers: pl.LazyFrame, low: float, high: float) -> pl.DataFrame:
    """Count the numbers in equal bins of a range, and return each bin with the range of its numbers."""
    x = pl.col("x")
    return (
        numbers.group_by(_place(x, low, high, _BINS).alias("bin"))
        .agg(x.min().alias("low"), x.max().alias("high"), pl.len().cast(pl.Int64).alias("count"))
        .sort("low")
        .pipe(tables.collect)
    )


def _place(x: pl.Expr, low: float, high: float, bins: int) -> pl.Expr:
    """Return the index of the equal-width bin that holds x; the last one includes the upper end."""
    # The width of the widest ranges overflows a float.
    scale = 1.0 if math.isfinite(high - low) else 0.25
    width = high * scale - low * scale
    fraction = (x * scale - low * scale) / width if width else x * 0.0
    return (fraction * bins).floor().clip(0, bins - 1).cast(pl.Int32)


def _refined(numbers: pl.LazyFrame, bins: pl.DataFrame, count: int) -> pl.DataFrame:
    """Split the bins that hold a quantile until they have few enough rows to interpolate in."""
    for _ in range(_MAX_ZOOMS):
        ends = bins["count"].cum_sum()
        hit = {int(ends.search_sorted(level * (count - 1), side="right")) for level in QUANTILES}
        coarse = [
            place
            for place in sorted(hit)
            if bins["count"][place] > max(count * 0.003, 100) and bins["low"][place] < bins["high"][place]
        ]
        if not coarse:
            break
        parts = [bins.filter(~pl.int_range(pl.len()).is_in(coarse))]
        for place in coarse:
            low, high = bins["low"][place], bins["high"][place]
            parts.append(_bins(numbers.filter(pl.col("x").is_between(low, high)), low, high))
        bins = pl.concat(parts).sort("low")
    return bins


def _quantiles(bins: pl.DataFrame, count: int) -> dict[float, float]:
    """Interpolate linearly between ranks, like NumPy, and between the ends of a bin."""
    ends = bins["count"].cum_sum()

    def at(rank: int) -> float:
        place = int(ends.search_sorted(rank, side="right"))
        low, high, size = bins["low"][place], bins["high"][place], bins["count"][place]
        fraction = (rank - (ends[place] - size)) / max(size - 1, 1)
        return float(low * (1 - fraction) + high * fraction)

    quantiles = {}
    for level in QUANTILES:
        rank = level * (count - 1)
        below, above = at(math.floor(rank)), at(math.ceil(rank))
        part = rank - math.floor(rank)
        quantiles[level] = below if below == above else below * (1 - part) + above * part
    return quantiles


def _histogram(bins: pl.DataFrame, low: float, high: float, kind: str) -> tuple[list[float], list[int]]:
    """Combine fine bins into at most 20; a few distinct integers get a centred bin each."""
    if low == high:
        return [low, high], [int(bins["count"].sum())]
    number = HISTOGRAM_BINS
    if kind in ("integer", "date") and high - low < 20 * HISTOGRAM_BINS:
        width = math.ceil((high - low + 1) / HISTOGRAM_BINS)
        number = math.ceil((high - low + 1) / width)
        low, high = low - 0.5, low - 0.5 + number * width
    edges = [low * (1 - step / number) + high * (step / number) for step in range(number + 1)]
    tally = bins.group_by(_place(pl.col("low"), low, high, number).alias("bin")).agg(pl.col("count").sum())
    counts = dict(tally.iter_rows())
    return edges, [int(counts.get(step, 0)) for step in range(number)]


def _number(value: Any) -> float:
    """Convert a value to a number, as `_as_numbers` does."""
    if isinstance(value, datetime):
        return float((value - _EPOCH) // timedelta(microseconds=1))
    if isinstance(value, date):
        return float((value - _EPOCH.date()).days)
    return float(value)


def _restored(number: float, kind: str) -> Any:
    if kind == "timestamp":
        # A bin's edge may be just outside the range of timestamps.
        moment = min(max(number, -62135596800e6), 253402300799e6)
        return (_EPOCH + timedelta(microseconds=round(moment))).isoformat()
    if kind == "date":
        return (_EPOCH + timedelta(seconds=round(number * 86400))).isoformat()
    return number


def _tidy(value: Any) -> Any:
    """Convert a statistic for JSON, rounded to 12 digits, since sums depend on the number of threads."""
    if isinstance(value, float):
        return float(f"{value:.12g}") if math.isfinite(value) else None
    return schema.plain_value(value)


def _warnings(column: Mapping[str, Any], rows: int) -> list[tuple[str, str]]:
    """Return warnings about a column, to check before training on it."""
    count, nulls, distinct = column["count"], column["nulls"], column["distinct"]
    if count == 0:
        return [("all missing", "has no values")]
    found = []
    if column["type"] == "image":
        if distinct < count:
            found.append(("repeated images", f"{count - distinct:,} of {count:,} are copies of others"))
    elif distinct == 1:
        found.append(("constant", f"always {column['top_values'][0]['value']}"))
    elif column["top_values"] and column["top_values"][0]["count"] > _ALMOST_ALL * count:
        found.append(
            ("almost constant", f"{column['top_values'][0]['value']} in more than 99 % of the values")
        )
    if nulls > _MANY_NULLS * rows:
        found.append(("many missing values", f"{nulls / rows:.0%} missing"))
    if column["type"] in ("integer", "string") and count >= _MIN_ROWS_ID:
        if distinct > (1 if column["exact"] else 0.98) * count - 1:
            found.append(("looks like an identifier", "all values differ"))
        elif column["type"] == "string" and distinct > max(100, 0.1 * count):
            found.append(("many categories", f"{distinct:,} distinct texts in {count:,} values"))
    if _ALMOST_NUMBERS * count <= column.get("numbers", 0) < count and count >= _MIN_ROWS_ID:
        found.append(
            (
                "text among numbers",
                f"{column['numbers']:,} of {count:,} values are numbers, others are not, such as "
                f"{column['not_a_number']!r}",
            )
        )
    if column.get("infinite"):
        found.append(("infinite values", f"{column['infinite']:,} infinite"))
    if abs(column.get("skewness") or 0) > _STRONG_SKEW and "almost constant" not in dict(found):
        found.append(("strong skew", f"skewness {reports.format_number(column['skewness'])}"))
    return found


def _attention(warnings: Sequence[Mapping[str, str]]) -> list[reports.Block]:
    if not warnings:
        return [reports.callout("No warnings for any column.", "good")]
    kinds = dict.fromkeys(warning["warning"] for warning in warnings)
    blocks = []
    for kind in sorted(kinds, key=lambda kind: kind not in _SERIOUS):
        named = [warning for warning in warnings if warning["warning"] == kind]
        shown = reports.Block(", ").join(
            reports.Block("<b>{}</b> ({})").format(warning["column"], warning["message"])
            for warning in named[:12]
        )
        more = f" and {len(named) - 12} more" if len(named) > 12 else ""
        blocks.append(
            reports.callout(
                reports.Block("<strong>{}</strong>: {}{}").format(kind.capitalize(), shown, more),
                "bad" if kind in _SERIOUS else "note",
            )
        )
    return blocks


def _card(column: Mapping[str, Any], rows: int) -> reports.Block:
    say = reports.format_number
    about = "" if column["exact"] else "≈ "
    missing = f"{column['nulls'] / rows:.1%}" if column["nulls"] else "none"
    pairs = {"distinct": about + say(column["distinct"]), "missing": missing}
    chart = reports.Block("")
    if "histogram" in column:
        edges, counts = column["histogram"]["edges"], column["histogram"]["counts"]
        timely = column["type"] in ("timestamp", "date")
        places = [datetime.fromisoformat(edge) for edge in edges] if timely else edges
        chart = reports.histogram(places, counts, width=300, height=120)
        if timely:
            days = places[-1] - places[0] >= timedelta(days=2)
            pairs |= {"first": _moment(column["min"], days), "last": _moment(column["max"], days)}
        else:
            pairs |= {name: say(column[name]) for name in ("mean", "std", "min", "max")}
    elif column["top_values"] and column["top_values"][0]["count"] == 1:
        examples = ", ".join(_named(top["value"]) for top in column["top_values"][:3])
        chart = reports.Block('<p class="muted">{}</p>').format(f"All values differ, such as {examples}")
    elif column["top_values"]:
        bars = {_named(top["value"]): top["count"] for top in column["top_values"][:6]}
        chart = reports.bars(bars, width=300)
        others = 1 - sum(bars.values()) / column["count"]
        if others > 0:
            pairs["others"] = f"{others:.1%}"
    if column["type"] == "string" and column["count"]:
        low, high = column["min_length"], column["max_length"]
        pairs["length"] = say(low) if low == high else f"{say(low)} to {say(high)}"
    body = reports.Block('<dl class="pairs">{}</dl>').format(
        reports.Block("").join(
            reports.Block("<dt>{}</dt><dd>{}</dd>").format(key, value) for key, value in pairs.items()
        )
    )
    return reports.Block("<h3>{}{}</h3>{}{}{}").format(
        column["name"], reports.tag(column["type"]), chart, body, _details(column, about)
    )


def _details(column: Mapping[str, Any], about: str) -> reports.Block:
    parts = []
    if "quantiles" in column:
        listed = [
            {"quantile": f"{float(level):.0%}", "value": _moment(value) if isinstance(value, str) else value}
            for level, value in column["quantiles"].items()
        ]
        parts.append(reports.table(listed, caption="approximate" if about else ""))
    if column["top_values"]:
        listed = [{"top value": _named(top["value"]), "count": top["count"]} for top in column["top_values"]]
        parts.append(reports.table(listed))
    if not parts:
        return reports.Block("")
    heading = "Quantiles and top values" if "quantiles" in column else "Top values"
    return reports.Block("<details><summary>{}</summary>{}</details>").format(
        heading, reports.Block("").join(parts)
    )


def _named(value: Any) -> str:
    if value == "":
        return "(empty text)"
    return str(value).lower() if isinstance(value, bool) else reports.format_number(value)


def _moment(text: str, days: bool = False) -> str:
    """Shorten an ISO timestamp to its day, or its day and minute."""
    moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
    if days or (moment.hour, moment.minute, moment.second, moment.microsecond) == (0, 0, 0, 0):
        return f"{moment:%Y-%m-%d}"
    return f"{moment:%Y-%m-%d %H:%M}"
