"""Cast columns to the types that a model was trained on, or name the value that can't be cast."""

from collections.abc import Mapping, Sequence

import polars as pl

from flowparts import tables
from flowparts.tables.schema import type_of
from flowparts.util import times

# Types as `schema.type_of` names them.
NUMBERS = ("integer", "number", "boolean")
_MOMENTS = ("timestamp", "date")
_ISO_8601 = (
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.f%#z",
    "%Y-%m-%d",
    "%Y-%m-%dT%H:%M",
    "%Y-%m-%dT%H:%M%#z",
)


def conform(frame: pl.DataFrame, types: Mapping[str, str]) -> pl.DataFrame:
    """Select the named columns, cast to the types that the model was trained on; infinity becomes null.

    Args:
        frame: Rows; further columns are ignored.
        types: Column name to type, as `schema.type_of` names it.

    Raises:
        ValueError: A column is missing, or a value can't be cast; the message names column and value.
    """
    tables.require_columns(frame, types, "feature column")
    # Under a neutral name, because Polars' operations on a series take some names for patterns.
    cast = (_cast(frame[name].alias("values"), kind, name).alias(name) for name, kind in types.items())
    return frame.select(cast)


def stacked(first: pl.LazyFrame, second: pl.LazyFrame) -> pl.LazyFrame:
    """Append the rows of a second table to a first; columns that only one of them has are left out.

    Args:
        first: Rows; the result has its types, except that numbers get the wider type of both.
        second: Rows to append; if a column has another type, it is cast as by `conform`, and all rows are
            held in memory.

    Raises:
        ValueError: A value of the second table can't be cast.
    """
    types, others = first.collect_schema(), second.collect_schema()
    names = [name for name in types if name in others]
    second = tables.select(second, names)
    unlike = [name for name in names if _needs_cast(types[name], others[name])]
    if unlike:
        rows = second.pipe(tables.collect)
        cast = conform(rows, {name: type_of(name, types[name]) for name in unlike})
        second = rows.with_columns(
            cast[name] if types[name].is_numeric() else cast[name].cast(types[name]) for name in unlike
        ).lazy()
    return pl.concat([tables.select(first, names), second], how="vertical_relaxed")


def _needs_cast(wanted: pl.DataType, found: pl.DataType) -> bool:
    # A column without any value has no type of its own.
    both_numbers = wanted.is_numeric() and found.is_numeric()
    return wanted != found and not both_numbers and pl.Null not in (wanted, found)


def _cast(column: pl.Series, kind: str, name: str) -> pl.Series:
    dtype = column.dtype
    if kind in NUMBERS:
        if dtype.is_temporal() or dtype.is_nested():
            raise ValueError(_wrong(column, kind, name, column.drop_nulls().head(1).to_list()))
        source = column.cast(pl.String) if dtype in (pl.Categorical, pl.Enum) else column
        cast = source.cast(pl.Float64, strict=False)
    elif kind == "image":
        if column.dtype not in (pl.Binary, pl.Null):
            raise ValueError(_wrong(column, kind, name, column.drop_nulls().head(1).to_list()))
        cast = column.cast(pl.Binary)
    elif kind in _MOMENTS:
        cast = _to_moment(column, kind, name)
    elif dtype.is_nested() or dtype == pl.Binary:
        raise ValueError(_wrong(column, kind, name, column.drop_nulls().head(1).to_list()))
    else:
        cast = column.cast(pl.String)
    if cast.null_count() > column.null_count():
        raise ValueError(
            _wrong(column, kind, name, column.filter(cast.is_null() & column.is_not_null()).to_list())
        )
    if kind in NUMBERS:
        cast = pl.select(pl.when(cast.is_finite()).then(cast).alias(column.name)).to_series()
    return cast


def _to_moment(column: pl.Series, kind: str, name: str) -> pl.Series:
    moment = pl.Datetime("us")
    if column.dtype == pl.String:
        return _parse_moments(column)
    if column.dtype in (pl.Date, pl.Datetime, pl.Null):
        return column.cast(moment)
    raise ValueError(_wrong(column, kind, name, column.drop_nulls().head(1).to_list()))


def _parse_moments(column: pl.Series) -> pl.Series:
    """Parse the same times as `times.parse`."""
    text = column.set(~column.str.contains(f"^(?:{times.PATTERN})$"), None)
    text = text.str.replace(" UTC", "Z", literal=True).str.strip_chars(" ")
    text = text.str.replace(" ", "T", literal=True)
    parsed = pl.Series(column.name, [None] * len(text), dtype=pl.Datetime("us"))
    for pattern in _ISO_8601:
        if parsed.null_count() == text.null_count():
            break
        zone = "UTC" if pattern.endswith("z") else None
        found = text.str.to_datetime(pattern, time_unit="us", time_zone=zone, strict=False)
        parsed = pl.select(
            pl.coalesce(parsed, found.dt.replace_time_zone(None)).alias(column.name)
        ).to_series()
    return parsed.set(~parsed.dt.year().is_between(1, 9999), None)


def _wrong(column: pl.Series, kind: str, name: str, values: Sequence[object]) -> str:
    value = f"{values[0]!r}" if values else str(column.dtype)
    form = " in ISO 8601 (years 1 to 9999)" if kind in _MOMENTS else ""
    return f"feature column {name!r} must hold {kind} values{form}, as in training, not {value}"
