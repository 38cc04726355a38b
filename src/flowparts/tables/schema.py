"""The schema contract: rules for each column of a table, inferred once, edited by people and kept in git.

The file is JSON, one line for each column:

    {
      "version": 1,
      "additional_columns": false,
      "columns": [
        {"name": "age", "type": "integer", "nullable": false, "minimum": 18, "maximum": 97},
        {"name": "plan", "type": "string", "nullable": true, "categories": ["basic", "pro"]}
      ]
    }

- `additional_columns`: whether a table may have columns that aren't in the schema; default: false.
- `name`: name of the column, which the table must have.
- `type`: "integer", "number" (integers are accepted too), "string", "boolean", "timestamp", "date" or
  "image" (the bytes of an image file).
- `nullable`: whether values may be missing; default: false.
- `unique`: whether all values must differ, ignoring missing ones; default: false.
- `minimum`, `maximum`: smallest and largest allowed value of an integer, number, timestamp or date; the last
  two in ISO 8601, in UTC unless they have an offset.
- `categories`: all allowed values of a string or integer.

Bounds and categories that are left out are not checked, so delete one that is too strict.
"""

import json
import math
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl

from flowparts import tables
from flowparts.util import names, outputs, progress, sources, times

VERSION = 1
TYPES = ("integer", "number", "string", "boolean", "timestamp", "date", "image")
ORDERED = ("integer", "number", "timestamp", "date")

MAX_CATEGORIES = 50
# Minimum mean number of rows for each value of a categorical text column.
_ROWS_PER_CATEGORY = 10
# Minimum number of rows to infer that a column is unique.
_MIN_ROWS_UNIQUE = 20
_NUMERIC = {"integer": pl.Int64, "number": pl.Float64}
_MAX_EXAMPLES = 5
# Rows held in memory at once in the search for duplicates.
_ROWS_PER_PART = 500_000


@dataclass
class Column:
    """The rules for one column; the module's docstring describes each field."""

    name: str
    type: str
    nullable: bool = False
    unique: bool = False
    minimum: Any = None
    maximum: Any = None
    categories: list[Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, without defaults."""
        return {
            key: value
            for key, value in asdict(self).items()
            if key == "nullable" or not (value is None or value is False)
        }


@dataclass
class Schema:
    """The rules for the columns of a table."""

    columns: list[Column] = field(default_factory=list)
    additional_columns: bool = False

    @property
    def types(self) -> dict[str, str]:
        """The type of each column, by name."""
        return {column.name: column.type for column in self.columns}

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "version": VERSION,
            "additional_columns": self.additional_columns,
            "columns": [column.to_dict() for column in self.columns],
        }

    @classmethod
    def from_dict(cls, value: Any) -> "Schema":
        """Check and parse the JSON form, which people may have edited.

        Raises:
            ValueError: It holds unknown, missing, mistyped or contradictory values.
        """
        content = _keys("the schema", value, ("version", "additional_columns", "columns"))
        if content.get("version") != VERSION:
            raise ValueError(f"the schema's version must be {VERSION}, not {content.get('version')!r}")
        if not isinstance(content.get("columns"), list) or not content["columns"]:
            raise ValueError("the schema's 'columns' must be a list of at least one column")
        columns = [_column(number, item) for number, item in enumerate(content["columns"], 1)]
        names = [column.name for column in columns]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"the schema lists column {twice!r} twice; keep one of them")
        return cls(columns, _flag("the schema", content, "additional_columns"))


@dataclass
class Anomaly:
    """A rule that a column violates.

    Attributes:
        column: The column's name.
        rule: "missing_column", "unexpected_column", "type", "null", "minimum", "maximum", "category" or
            "duplicate".
        expected: The schema's requirement, in words.
        count: Number of rows that violate the rule; for duplicates, rows that repeat an earlier value.
        examples: Up to five distinct values that violate it, as JSON values.
    """

    column: str
    rule: str
    expected: str
    count: int
    examples: list[Any] = field(default_factory=list)

    def __str__(self) -> str:
        """Describe the violation in one line."""
        shown = ", ".join(map(str, self.examples))
        rows = f"{self.count:,} row{'' if self.count == 1 else 's'}"
        return f"column {self.column!r}: {self.rule}, expected {self.expected}: {rows}" + (
            f" (such as {shown})" if shown else ""
        )


def type_of(name: str, dtype: pl.DataType) -> str:
    """Return the schema type of a column's Polars type.

    Raises:
        ValueError: The column has another type, such as lists.
    """
    if dtype.is_integer():
        return "integer"
    if dtype.is_float() or dtype.is_decimal():
        return "number"
    if dtype == pl.Boolean:
        return "boolean"
    if dtype == pl.Datetime:
        return "timestamp"
    if dtype == pl.Date:
        return "date"
    if dtype == pl.Binary:
        return "image"
    # A column without any value has no type of its own.
    if dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null):
        return "string"
    raise ValueError(
        f"column {name!r} holds {dtype}; types are: {', '.join(TYPES)}; convert it or leave it out"
    )


def types_of(frame: pl.LazyFrame) -> dict[str, str]:
    """Return the schema type of each column of a table, in order."""
    return {name: type_of(name, dtype) for name, dtype in frame.collect_schema().items()}


def positional(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Rename the columns to "0", "1", ... and normalize their types for rules and statistics.

    The names hold nothing that Polars reads as a pattern. Text is String, numbers with decimals are Float64,
    and timestamps are UTC microseconds without a zone.
    """
    plain = []
    renamed = frame.rename({name: str(index) for index, name in enumerate(frame.collect_schema())})
    for name, dtype in renamed.collect_schema().items():
        column = pl.col(name)
        if dtype.is_float() or dtype.is_decimal():
            column = column.cast(pl.Float64)
        elif isinstance(dtype, pl.Datetime):
            zoned = column.dt.convert_time_zone("UTC") if dtype.time_zone else column
            column = zoned.dt.replace_time_zone(None).cast(pl.Datetime("us"))
        elif dtype in (pl.Categorical, pl.Enum, pl.Null):
            column = column.cast(pl.String)
        elif not (dtype.is_integer() or dtype in (pl.Boolean, pl.Date, pl.String)):
            # Rules see only whether values of other types, such as lists, are missing, and their type.
            column = pl.when(column.is_not_null()).then(pl.lit(str(dtype))).alias(name)
        plain.append(column)
    return renamed.select(plain)


def infer(frame: pl.LazyFrame) -> Schema:
    """Infer a strict schema that a table satisfies; relax it by hand before validating other tables with it.

    A column is nullable if it holds nulls. Numbers get their smallest and largest value as bounds, timestamps
    and dates only their smallest; an infinite value is no bound. Text gets categories if it has at most 50
    distinct values, with 10 rows each on average. Integers and text are unique if there are at least 20 rows
    and all values differ.

    Raises:
        ValueError: The table has no rows, or a column's type isn't a schema type.
    """
    types = types_of(frame)
    plain = positional(frame)
    rows = tables.require_rows(frame)
    sums = {}
    for index, kind in enumerate(types.values()):
        value = pl.col(str(index))
        sums[f"{index} nulls"] = value.null_count()
        if kind in ORDERED:
            sums |= {f"{index} minimum": value.min(), f"{index} maximum": value.max()}
        if kind in ("integer", "string"):
            sums[f"{index} distinct"] = value.approx_n_unique()
    with tables.with_progress(plain, "inferring the schema") as counted:
        seen = counted.select(**sums).pipe(tables.collect).row(0, named=True)
    columns = []
    for index, (name, kind) in enumerate(types.items()):
        column = Column(name, kind, nullable=seen[f"{index} nulls"] > 0)
        # An estimate of the distinct values, a few per cent off, that only selects columns to check.
        about = seen.get(f"{index} distinct", 0)
        if kind in ORDERED:
            column.minimum = _bound_of(seen[f"{index} minimum"])
            # Tomorrow's data will be later than today's latest time.
            if kind in ("integer", "number"):
                column.maximum = _bound_of(seen[f"{index} maximum"])
        if kind == "string" and 0 < about <= 2 * MAX_CATEGORIES:
            column.categories = _categories(plain, str(index), rows - seen[f"{index} nulls"])
        if kind in ("integer", "string") and rows >= _MIN_ROWS_UNIQUE and about > 0.7 * rows:
            column.unique = not column.nullable and _duplicates(plain, str(index), rows)[0] == 0
        columns.append(column)
    return Schema(columns)


def _bound_of(value: Any) -> Any:
    # If infinity occurs, no value is out of bounds.
    return None if isinstance(value, float) and not math.isfinite(value) else plain_value(value)


def validate(frame: pl.LazyFrame, schema: Schema) -> list[Anomaly]:
    """Check a table against a schema and return all violations, in the schema's order.

    The counts are exact and need one pass over the file; only examples of violations and the search for
    duplicates read a column again. Of a column with the wrong type, only nulls are checked as well. Memory
    doesn't grow with the table.

    Raises:
        ValueError: The table has no rows.
    """
    rows = tables.require_rows(frame)
    found = frame.collect_schema()
    position = {name: str(index) for index, name in enumerate(found)}
    plain = positional(frame)
    checks: list[_Check] = []
    anomalies: list[Anomaly] = []
    for column in schema.columns:
        if column.name not in found:
            near = names.near(column.name, found)
            other = f"; the table has {near!r}" if near else ""
            anomalies.append(Anomaly(column.name, "missing_column", f"a column of this name{other}", rows))
        else:
            checks += _checks(column, position[column.name], found[column.name])
    counts: tuple[int, ...] = ()
    if checks:
        with tables.with_progress(plain, "checking every rule") as counted:
            sums = counted.select(check.bad.sum().alias(str(index)) for index, check in enumerate(checks))
            counts = sums.pipe(tables.collect).row(0)
    broken = [(check, count) for check, count in zip(checks, counts, strict=True) if count]
    shown = _examples(plain, [check for check, _ in broken])
    for (check, count), examples in zip(broken, shown, strict=True):
        anomalies.append(Anomaly(check.column, check.rule, check.expected, count, examples))
    for column in schema.columns:
        if column.unique and column.name in found:
            surplus, examples = _duplicates(plain, position[column.name], rows)
            if surplus:
                anomalies.append(Anomaly(column.name, "duplicate", "every value once", surplus, examples))
    order = {column.name: index for index, column in enumerate(schema.columns)}
    anomalies.sort(key=lambda anomaly: order[anomaly.column])
    if not schema.additional_columns:
        anomalies += [
            Anomaly(name, "unexpected_column", "only the schema's columns", rows)
            for name in found
            if name not in order
        ]
    return anomalies


def read(source: str | Path) -> Schema:
    """Read and check a schema file at a path or a URI such as s3://bucket/schema.json.

    Raises:
        ValueError: The file can't be read, isn't JSON or isn't a schema.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            files = sources.fetch(str(source), Path(folder))
        except ValueError as error:
            raise ValueError(f"the schema can't be read: {error}") from None
        if len(files) > 1:
            raise ValueError(f"the schema must be one file, not {len(files)}; name one of those at {source}")
        try:
            content = json.loads(files[0].path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the schema at {source} is not valid JSON: {error}") from None
    try:
        return Schema.from_dict(content)
    except ValueError as error:
        raise ValueError(f"{error} (in {source})") from None


def write(schema: Schema, path: str | Path) -> None:
    """Write a schema as JSON, one line for each column, so that a changed column is one changed line."""
    content = schema.to_dict()
    lines = ",\n".join(
        "    " + json.dumps(column, ensure_ascii=False, allow_nan=False) for column in content["columns"]
    )
    outputs.write_text(
        path,
        f'{{\n  "version": {VERSION},\n  "additional_columns": {json.dumps(schema.additional_columns)},\n'
        f'  "columns": [\n{lines}\n  ]\n}}\n',
    )


def summary(anomalies: list[Anomaly]) -> str:
    """Summarize the violations in one sentence."""
    shown = names.listed(map(str, anomalies), 3, "; ")
    things = "1 anomaly" if len(anomalies) == 1 else f"{len(anomalies)} anomalies"
    return f"the table violates its schema, {things}: {shown}"


def render(anomalies: list[Anomaly], schema: Schema, rows: int, is_inferred: bool) -> str:
    """Return the HTML page of a validation; for an inferred schema, the page only describes the table."""
    from flowparts import reports

    rules = sum(
        1 + (not column.nullable) + column.unique
        + (column.minimum is not None) + (column.maximum is not None) + (column.categories is not None)
        for column in schema.columns
    )  # fmt: skip
    wrong = {anomaly.column for anomaly in anomalies}
    blocks = [
        reports.callout(
            f"{len(anomalies)} violation{'' if len(anomalies) == 1 else 's'} in {len(wrong)} "
            f"column{'' if len(wrong) == 1 else 's'}: don't use the table in this state.",
            "bad",
        )
        if anomalies
        else reports.callout(
            "No schema was given, so this one was inferred from the table. To validate later tables with it, "
            "review it and pass it as schema_uri.",
            "note",
        )
        if is_inferred
        else reports.callout("Every row of the table satisfies the schema.", "good"),
        reports.facts(
            {"rows": rows, "columns in the schema": len(schema.columns), "rules checked": rules,
             "anomalies": len(anomalies)}
        ),
    ]  # fmt: skip
    if anomalies:
        listed = [
            {
                "column": anomaly.column,
                "rule": anomaly.rule,
                "expected": anomaly.expected,
                "rows": anomaly.count,
                "% of rows": f"{anomaly.count / rows:.2%}",
                "examples": ", ".join(map(str, anomaly.examples)),
            }
            for anomaly in anomalies
        ]
        blocks.append(reports.section("Anomalies", reports.table(listed)))
    asked = [
        {
            "column": column.name,
            "type": column.type,
            "missing values": "allowed" if column.nullable else "none",
            "minimum": _shown_bound(column.minimum),
            "maximum": _shown_bound(column.maximum),
            "also": "; ".join(_extras(column)),
            "result": reports.tag("invalid", "bad") if column.name in wrong else reports.tag("valid", "good"),
        }
        for column in schema.columns
    ]
    blocks.append(reports.section("The schema", reports.table(asked)))
    return reports.page("Validation", *blocks, subtitle="the table against its schema")


def plain_value(value: Any) -> Any:
    """Convert a value for JSON: times in ISO 8601, infinity as text, long text truncated."""
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str) and len(value) > 200:
        return value[:199] + "…"
    return value


@dataclass
class _Check:
    """A rule for a column, as an expression that is true for rows that violate it."""

    column: str
    rule: str
    expected: str
    at: str
    bad: pl.Expr
    telling: pl.Expr | None = None  # true for the rows that make the best examples


def _checks(column: Column, at: str, dtype: pl.DataType) -> list[_Check]:
    value = pl.col(at)
    checks: list[_Check] = []

    def rule(name: str, expected: str, bad: pl.Expr, telling: pl.Expr | None = None) -> None:
        checks.append(_Check(column.name, name, expected, at, bad, telling))

    if not column.nullable:
        rule("null", "no missing value", value.is_null())
    try:
        kind = type_of(column.name, dtype)
    except ValueError:
        kind = str(dtype)
    if dtype == pl.Null:
        kind = column.type
    if kind != column.type and not (kind == "integer" and column.type == "number"):
        wanted = _NUMERIC.get(column.type)
        # A single "n/a" makes a column of numbers text, so it is a better example than the numbers.
        odd = value.cast(wanted, strict=False).is_null() if wanted and kind == "string" else None
        rule("type", f"{column.type}, not {kind}", value.is_not_null(), odd)
        return checks
    if dtype == pl.Null:
        return checks
    if column.minimum is not None:
        rule("minimum", f"at least {column.minimum}", value < _bound(column.type, column.minimum))
    if column.maximum is not None:
        rule("maximum", f"at most {column.maximum}", value > _bound(column.type, column.maximum))
    if column.categories is not None:
        allowed = pl.Series(column.categories, dtype=pl.String if kind == "string" else pl.Int128)
        stored = value if kind == "string" else value.cast(pl.Int128)
        rule("category", f"one of {_listed(column.categories)}", ~stored.is_in(allowed.implode()))
    return checks


def _bound(kind: str, value: Any) -> Any:
    if kind == "timestamp":
        moment = times.parse(value)
        if moment is None:
            raise ValueError(f"{value!r} isn't a time")
        return moment
    return date.fromisoformat(value) if kind == "date" else value


def _examples(plain: pl.LazyFrame, checks: list[_Check]) -> list[list[Any]]:
    """Return the smallest (for a maximum, the largest) values that violate each rule.

    Each pass finds one more value of every rule, so memory doesn't depend on the number of violations.
    """
    found: list[list[Any]] = [[] for _ in checks]
    left = {index: check.telling for index, check in enumerate(checks) if check.rule != "null"}
    while left:
        asked = []
        for index, telling in left.items():
            check, value = checks[index], pl.col(checks[index].at)
            largest = check.rule == "maximum"
            bad = check.bad if telling is None else check.bad & telling
            if found[index]:
                bad = bad & ((value < found[index][-1]) if largest else (value > found[index][-1]))
            picked = value.filter(bad)
            asked.append((picked.max() if largest else picked.min()).alias(str(index)))
        with tables.with_progress(plain, "looking for examples") as counted:
            row = counted.select(asked).pipe(tables.collect).row(0, named=True)
        for index in list(left):
            next_value = row[str(index)]
            if next_value is not None:
                found[index].append(next_value)
            elif left[index] is not None and not found[index]:
                left[index] = None
                continue
            if next_value is None or len(found[index]) == _MAX_EXAMPLES:
                del left[index]
    return [[plain_value(value) for value in values] for values in found]


def _duplicates(plain: pl.LazyFrame, at: str, rows: int) -> tuple[int, list[Any]]:
    """Count the rows that repeat a value, and return the smallest repeated values.

    Equal values have equal hashes, so each range of hashes is searched separately, with bounded memory.
    """
    value = pl.col(at)
    parts = rows // _ROWS_PER_PART + 1
    surplus = done = 0
    examples: list[Any] = []
    with progress.reported("looking for duplicates", lambda: done, parts, "parts"):
        for part in range(parts):
            chosen = plain.select(value).filter(value.is_not_null() & (value.hash() % parts == part))
            repeated = chosen.group_by(at).agg(pl.len().alias("n")).filter(pl.col("n") > 1)
            sums = repeated.select(
                (pl.col("n") - 1).sum().alias("surplus"),
                value.bottom_k(_MAX_EXAMPLES).implode().alias("examples"),
            ).pipe(tables.collect)
            surplus += sums["surplus"].item() or 0
            examples += sums["examples"].item().to_list()
            done += 1
    return surplus, [plain_value(example) for example in sorted(examples)[:_MAX_EXAMPLES]]


def _categories(plain: pl.LazyFrame, at: str, filled: int) -> list[str] | None:
    values = plain.select(pl.col(at).drop_nulls().unique()).pipe(tables.collect).to_series()
    few = 0 < len(values) <= min(MAX_CATEGORIES, filled / _ROWS_PER_CATEGORY)
    return sorted(values.to_list()) if few else None


def _column(number: int, value: Any) -> Column:
    keys = ("name", "type", "nullable", "unique", "minimum", "maximum", "categories")
    content = _keys(f"column {number} of the schema", value, keys)
    name = content.get("name")
    if not isinstance(name, str):
        raise ValueError(f"column {number} of the schema must have a 'name' that is text, not {name!r}")
    where = f"column {name!r} of the schema"
    kind = content.get("type")
    if kind not in TYPES:
        near = names.hint(str(kind), TYPES)
        raise ValueError(f"{where} has type {kind!r}; {near}types are: {', '.join(TYPES)}")
    column = Column(
        name,
        kind,
        _flag(where, content, "nullable"),
        _flag(where, content, "unique"),
        content.get("minimum"),
        content.get("maximum"),
        content.get("categories"),
    )
    for bound in ("minimum", "maximum"):
        _check_bound(where, kind, bound, content.get(bound))
    if column.minimum is not None and column.maximum is not None:
        low, high = _bound(kind, column.minimum), _bound(kind, column.maximum)
        if low > high:
            raise ValueError(f"{where} must not have minimum {column.minimum} above maximum {column.maximum}")
    if column.categories is not None:
        _check_categories(where, kind, column.categories)
    return column


def _check_bound(where: str, kind: str, key: str, value: Any) -> None:
    if value is None:
        return
    if kind not in ORDERED:
        raise ValueError(
            f"{where} is a {kind}, so it can't have a {key}; types with one: {', '.join(ORDERED)}"
        )
    if kind in ("integer", "number"):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{where} has {key} {value!r}; it must be a finite number")
        return
    try:
        _bound(kind, value)
    except (TypeError, ValueError):
        raise ValueError(
            f"{where} has {key} {value!r}; it must be a {kind} in ISO 8601, such as "
            + ("2026-01-31T12:00:00" if kind == "timestamp" else "2026-01-31")
        ) from None


def _check_categories(where: str, kind: str, values: Any) -> None:
    if kind not in ("string", "integer"):
        raise ValueError(
            f"{where} is a {kind}, so it can't have categories; types with them: string, integer"
        )
    wanted = str if kind == "string" else int
    if (
        not isinstance(values, list)
        or not values
        or any(not isinstance(value, wanted) or isinstance(value, bool) for value in values)
    ):
        raise ValueError(f"{where} must have 'categories' that are a list of at least one {kind}")


def _keys(where: str, value: Any, known: Iterable[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} must be a JSON object, not {json.dumps(value)[:40]}")
    for key in value:
        if key not in (allowed := list(known)):
            near = names.hint(key, allowed)
            raise ValueError(f"{where} has an unknown key {key!r}; {near}keys are: {', '.join(allowed)}")
    return value


def _flag(where: str, content: Mapping[str, Any], key: str) -> bool:
    value = content.get(key, False)
    if not isinstance(value, bool):
        raise ValueError(f"{where} has {key!r} set to {value!r}; it must be true or false")
    return value


def _listed(values: list[Any]) -> str:
    # Quotes make empty text, and spaces at its ends, visible.
    texts = [str(value) for value in values]
    return names.listed((text if text and text.strip() == text else repr(text) for text in texts), 10)


def _shown_bound(value: Any) -> Any:
    from flowparts import reports

    if isinstance(value, str):
        # A browser would break a timestamp at its hyphens.
        return reports.Block('<span class="number">{}</span>').format(value.replace("T", " "))
    return "" if value is None else value


def _extras(column: Column) -> list[str]:
    extras = ["unique"] if column.unique else []
    if column.categories is not None:
        extras.append(f"one of {_listed(column.categories)}")
    return extras
