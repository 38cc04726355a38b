import json
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowparts.tables import schema
from flowparts.tables.schema import Anomaly, Column, Schema


def customers(rows: int = 200) -> pl.DataFrame:
    random = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "id": [f"C{row:05d}" for row in range(rows)],
            "age": random.integers(18, 90, rows),
            "income": np.round(np.exp(random.normal(10, 1, rows)), 2),
            "plan": random.choice(["basic", "pro"], rows),
            "active": random.random(rows) < 0.5,
            "since": [
                datetime(2024, 1, 1) + timedelta(hours=int(hour)) for hour in random.integers(0, 9000, rows)
            ],
            "born": [date(1950, 1, 1) + timedelta(days=int(day)) for day in random.integers(0, 20000, rows)],
        }
    ).with_columns(pl.when(pl.col("age") > 80).then(None).otherwise(pl.col("income")).alias("income"))


def broken(frame: pl.DataFrame, *columns: Column, additional_columns: bool = True) -> list[Anomaly]:
    return schema.validate(frame.lazy(), Schema(list(columns), additional_columns))


def only(anomalies: list[Anomaly]) -> Anomaly:
    assert len(anomalies) == 1, anomalies
    return anomalies[0]


def test_inference_describes_each_kind_of_column() -> None:
    frame = customers()
    columns = {column.name: column for column in schema.infer(frame.lazy()).columns}
    assert columns["id"] == Column("id", "string", unique=True)
    assert columns["age"] == Column("age", "integer", minimum=frame["age"].min(), maximum=frame["age"].max())
    assert columns["income"].nullable
    assert (columns["income"].minimum, columns["income"].maximum) == (
        frame["income"].min(),
        frame["income"].max(),
    )
    assert columns["plan"] == Column("plan", "string", categories=["basic", "pro"])
    assert columns["active"] == Column("active", "boolean")
    assert columns["since"].minimum == frame["since"].min().isoformat()
    assert columns["born"].minimum == frame["born"].min().isoformat()
    assert columns["since"].maximum is columns["born"].maximum is None


def test_free_text_gets_no_categories() -> None:
    frame = pl.DataFrame(
        {
            "note": [f"note {row % 60}" for row in range(1000)],
            "rare": [str(row % 50) for row in range(499)] + [None] * 501,
        }
    )
    assert [column.categories for column in schema.infer(frame.lazy()).columns] == [None, None]


def test_numbers_of_few_values_have_no_categories() -> None:
    frame = pl.DataFrame({"n": [1, 2] * 20, "plan": ["basic", "pro"] * 20})
    assert [column.categories for column in schema.infer(frame.lazy()).columns] == [None, ["basic", "pro"]]


def test_the_page_says_which_columns_are_unique() -> None:
    expected = Schema([Column("id", "integer", unique=True), Column("age", "integer")])
    page = schema.render([], expected, 10, is_inferred=False)
    rows = [row for row in page.split("<tr>") if ">id<" in row or ">age<" in row]
    assert ["unique" in row for row in rows] == [True, False]


def test_few_rows_are_no_reason_to_call_a_column_unique() -> None:
    frame = pl.DataFrame({"n": range(19)})
    assert not schema.infer(frame.lazy()).columns[0].unique
    assert schema.infer(pl.DataFrame({"n": range(20)}).lazy()).columns[0].unique


def test_a_single_repetition_is_enough_not_to_be_unique() -> None:
    frame = pl.DataFrame({"n": [*range(5000), 17]})
    assert not schema.infer(frame.lazy()).columns[0].unique


def test_written_file_has_one_line_for_each_column_and_reads_back_equal(tmp_path: Path) -> None:
    inferred = schema.infer(customers().lazy())
    file = tmp_path / "schema.json"
    schema.write(inferred, file)
    assert schema.read(file) == inferred
    assert schema.read(file.as_uri()) == inferred
    text = file.read_text(encoding="utf-8")
    assert len(re.findall(r'^ +\{"name": ', text, re.MULTILINE)) == 7
    assert json.loads(text) == inferred.to_dict()


@pytest.mark.parametrize(
    ("column", "values", "rule", "count", "examples"),
    [
        (Column("x", "integer", minimum=3), [1, 2, 2, 3, 4], "minimum", 3, [1, 2]),
        (Column("x", "number", maximum=2), [1.5, 2.0, 9.5, 3.0, 9.5], "maximum", 3, [9.5, 3.0]),
        (Column("x", "number", minimum=1.5), [1, 2], "minimum", 1, [1]),
        (Column("x", "integer"), [1, None, None], "null", 2, []),
        (Column("x", "string", categories=["a"]), ["a", "c", "b", "c"], "category", 3, ["b", "c"]),
        (Column("x", "integer", categories=[0, 1]), [0, 2, 1, -1], "category", 2, [-1, 2]),
        (Column("x", "integer", unique=True), [5, 1, 5, 2, 2, 2], "duplicate", 3, [2, 5]),
        (Column("x", "number"), ["1.5", "n/a", "2"], "type", 3, ["n/a"]),
        (Column("x", "number"), ["1.5", "2"], "type", 2, ["1.5", "2"]),
        (Column("x", "integer"), [1.5, 2.0], "type", 2, [1.5, 2.0]),
        (Column("x", "boolean"), [0, 1], "type", 2, [0, 1]),
        (Column("x", "string", categories=["a"]), [1, 2], "type", 2, [1, 2]),
        (Column("x", "integer"), [[1], [2]], "type", 2, ["List(Int64)"]),
        (Column("x", "date", minimum="2026-01-02"), [date(2026, 1, 1)], "minimum", 1, ["2026-01-01"]),
        (Column("x", "number", maximum=1), [0.5, float("inf")], "maximum", 1, ["inf"]),
        (Column("x", "integer", maximum=10**30, minimum=-(10**30)), [1, None], "null", 1, []),
        (Column("y", "integer"), [1, 2], "missing_column", 2, []),
    ],
    ids=lambda value: str(value)[:40],
)
def test_every_rule_reports_count_and_examples(
    column: Column, values: list[Any], rule: str, count: int, examples: list[Any]
) -> None:
    anomaly = only(broken(pl.DataFrame({"x": values}), column))
    assert (anomaly.column, anomaly.rule, anomaly.count, anomaly.examples) == (
        column.name,
        rule,
        count,
        examples,
    )


def test_whole_numbers_are_fine_for_a_number() -> None:
    assert broken(pl.DataFrame({"x": [1, 2]}), Column("x", "number", minimum=0.5)) == []


def test_missing_values_break_no_rule_but_null() -> None:
    frame = pl.DataFrame({"x": [None, 5], "s": [None, "a"], "none": [None, None]})
    rules = Column("x", "integer", True, True, 1, 9), Column("s", "string", True, categories=["a"])
    assert broken(frame, *rules, Column("none", "timestamp", True, minimum="2026-01-01")) == []


@pytest.mark.parametrize("dtype", [pl.UInt8, pl.Int8, pl.UInt64, pl.Int64])
def test_bounds_outside_an_integer_type_still_hold(dtype: type[pl.DataType]) -> None:
    frame = pl.DataFrame({"x": pl.Series([1, 2], dtype=dtype)})
    assert broken(frame, Column("x", "integer", minimum=-5, maximum=1000, categories=[-1, 1, 2, 300])) == []
    assert [a.rule for a in broken(frame, Column("x", "integer", minimum=1000))] == ["minimum"]


def test_timestamps_are_compared_in_utc() -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    zoned = pl.DataFrame({"x": pl.Series([noon], dtype=pl.Datetime("ms", "Asia/Tokyo"))})
    plain = pl.DataFrame({"x": [noon.replace(tzinfo=None)]})
    for frame in (zoned, plain):
        assert broken(frame, Column("x", "timestamp", maximum="2026-01-01T12:00:00")) == []
        assert broken(frame, Column("x", "timestamp", maximum="2026-01-01T21:00:00+09:00")) == []
        assert only(broken(frame, Column("x", "timestamp", maximum="2026-01-01T20:59:59+09:00"))).count == 1
    east = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=9)))
    inferred = schema.infer(pl.DataFrame({"x": pl.Series([east], dtype=pl.Datetime("us", "UTC"))}).lazy())
    assert inferred.columns[0].minimum == "2026-01-01T03:00:00"


def test_unexpected_columns_are_reported_unless_allowed() -> None:
    frame = pl.DataFrame({"x": [1], "new": [2]})
    assert only(broken(frame, Column("x", "integer"), additional_columns=False)).rule == "unexpected_column"
    assert broken(frame, Column("x", "integer"), additional_columns=True) == []


def test_missing_column_points_to_the_near_name() -> None:
    anomaly = only(broken(pl.DataFrame({"incom": [1]}), Column("income", "integer")))
    assert "the table has 'incom'" in anomaly.expected


def test_every_planted_error_is_found_with_its_exact_count() -> None:
    rows, random = 20_000, np.random.default_rng(7)
    clean = customers(rows)
    expected = schema.infer(clean.lazy())
    for column in expected.columns:
        column.nullable = column.name == "income"
    planted = {name: random.choice(rows, count, replace=False).tolist() for name, count in
               {"age": 37, "income": 5, "plan": 211, "since": 3, "active": 19}.items()}  # fmt: skip
    row = pl.int_range(pl.len())
    bad = {"age": 400, "income": -1.0, "plan": "gold", "since": datetime(1999, 1, 1), "active": None}
    dirty = clean.with_columns(
        pl.when(row.is_in(planted[name])).then(pl.lit(value)).otherwise(pl.col(name)).alias(name)
        for name, value in bad.items()
    ).with_columns(pl.when(row < 12).then(pl.lit("C00000")).otherwise(pl.col("id")).alias("id"))
    found = {
        (anomaly.column, anomaly.rule): anomaly.count for anomaly in schema.validate(dirty.lazy(), expected)
    }
    assert found == {
        ("id", "duplicate"): 11,
        ("age", "maximum"): 37,
        ("income", "minimum"): 5,
        ("plan", "category"): 211,
        ("active", "null"): 19,
        ("since", "minimum"): 3,
    }


def test_duplicates_are_found_across_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "_ROWS_PER_PART", 100)
    values = [*range(1000), 999, 3, 3, None, None]
    anomaly = only(broken(pl.DataFrame({"x": values}), Column("x", "integer", nullable=True, unique=True)))
    assert (anomaly.count, anomaly.examples) == (3, [3, 999])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "^x.*$": st.none() | st.floats(allow_nan=False, allow_infinity=False),
                "*": st.none() | st.integers(-(2**63), 2**63 - 1),
                "0": st.none() | st.sampled_from(["", "a", "é", "b\n"]),
                "": st.none() | st.booleans(),
                "t": st.none() | st.datetimes(),
                "d": st.none() | st.dates(),
            }
        ),
        min_size=1,
        max_size=30,
    )
)
def test_a_table_satisfies_the_schema_inferred_from_it(rows: list[dict[str, Any]]) -> None:
    types = {
        "^x.*$": pl.Float64,
        "*": pl.Int64,
        "0": pl.String,
        "": pl.Boolean,
        "t": pl.Datetime("us"),
        "d": pl.Date,
    }
    frame = pl.LazyFrame(rows, schema=types)
    inferred = schema.infer(frame)
    copied = Schema.from_dict(json.loads(json.dumps(inferred.to_dict())))
    assert copied == inferred
    assert schema.validate(frame, copied) == []


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            {"type": "integr"},
            "column 'x' of the schema has type 'integr'; did you mean 'integer'? types are: ",
        ),
        ({"type": None}, "column 'x' of the schema has type None; types are: "),
        ({"name": 3}, "column 1 of the schema must have a 'name' that is text, not 3"),
        ({"nulable": True}, "has an unknown key 'nulable'; did you mean 'nullable'? keys are: name, type"),
        ({"nullable": "yes"}, "has 'nullable' set to 'yes'; it must be true or false"),
        ({"minimum": 5, "maximum": 1}, "must not have minimum 5 above maximum 1"),
        ({"minimum": "5"}, "has minimum '5'; it must be a finite number"),
        ({"maximum": float("nan")}, "has maximum nan; it must be a finite number"),
        ({"type": "string", "minimum": 1}, "is a string, so it can't have a minimum"),
        (
            {"type": "timestamp", "minimum": "yesterday"},
            "has minimum 'yesterday'; it must be a timestamp in ISO",
        ),
        ({"type": "date", "maximum": 20260101}, "has maximum 20260101; it must be a date in ISO 8601"),
        ({"type": "number", "categories": [1]}, "is a number, so it can't have categories"),
        ({"type": "string", "categories": []}, "'categories' that are a list of at least one string"),
        (
            {"type": "string", "categories": ["a", 1]},
            "'categories' that are a list of at least one string",
        ),
    ],
    ids=str,
)
def test_a_mistake_in_an_edited_column_is_explained(edit: dict[str, Any], message: str) -> None:
    column = {"name": "x", "type": "integer", "nullable": False} | edit
    with pytest.raises(ValueError, match=re.escape(message)):
        Schema.from_dict({"version": 1, "columns": [column]})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "the schema must be a JSON object, not []"),
        ({"version": 2, "columns": []}, "the schema's version must be 1, not 2"),
        ({"version": 1}, "the schema's 'columns' must be a list of at least one column"),
        ({"version": 1, "colums": []}, "unknown key 'colums'; did you mean 'columns'?"),
        ({"version": 1, "columns": ["x"]}, 'column 1 of the schema must be a JSON object, not "x"'),
        ({"version": 1, "columns": [{"name": "x", "type": "date"}] * 2}, "the schema lists column 'x' twice"),
    ],
    ids=str,
)
def test_a_mistake_in_an_edited_schema_is_explained(content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Schema.from_dict(content)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "the schema can't be read: there is no file or directory at"),
        ("{", "is not valid JSON: Expecting property name"),
        ('{"version": 3}', r"must be 1, not 3 \(in .*schema.json\)"),
    ],
)
def test_a_file_that_is_not_a_schema_is_refused_with_its_path(
    tmp_path: Path, text: str | None, message: str
) -> None:
    file = tmp_path / "schema.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ValueError, match=message):
        schema.read(file)


def test_an_address_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"can't be read: source 'ftps3://bucket/schema.json' has an unknown scheme"
    ):
        schema.read("ftps3://bucket/schema.json")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # moto's and botocore's own
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_schema_is_read_from_an_object_store_or_told_why_not(s3_server: str, tmp_path: Path) -> None:
    import boto3

    inferred = schema.infer(pl.LazyFrame({"größe": [1.5, 2.5]}))
    schema.write(inferred, tmp_path / "schema.json")
    client = boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1")
    client.create_bucket(Bucket="schemas")
    client.upload_file(str(tmp_path / "schema.json"), "schemas", "rows/schema.json")
    client.upload_file(str(tmp_path / "schema.json"), "schemas", "rows/other.json")
    assert schema.read("s3://schemas/rows/schema.json") == inferred
    with pytest.raises(
        ValueError, match=r"^the schema can't be read: there is nothing at s3://schemas/gone.json$"
    ):
        schema.read("s3://schemas/gone.json")
    with pytest.raises(ValueError, match=r"must be one file, not 2; .* s3://schemas/rows$"):
        schema.read("s3://schemas/rows")


def test_a_table_without_rows_is_refused() -> None:
    empty = pl.LazyFrame(schema={"x": pl.Int64})
    with pytest.raises(ValueError, match="the table has no rows"):
        schema.infer(empty)
    with pytest.raises(ValueError, match="the table has no rows"):
        schema.validate(empty, Schema([Column("x", "integer")]))


def test_summary_names_the_first_anomalies_and_counts_the_rest() -> None:
    anomalies = [Anomaly(f"c{number}", "null", "no missing value", number) for number in range(1, 6)]
    text = schema.summary(anomalies)
    assert text.startswith("the table violates its schema, 5 anomalies: column 'c1': null")
    assert text.endswith("and 2 more")
    assert "\n" not in text


@pytest.mark.parametrize("valid", [True, False], ids=["valid", "broken"])
def test_report_tells_at_once_whether_the_table_is_valid(
    valid: bool, tmp_path: Path, open_page: Callable[[Path], Any]
) -> None:
    frame = customers().rename({"plan": "<script>", "active": "é" * 200})
    expected = schema.infer(frame.lazy())
    if not valid:
        frame = frame.with_columns(pl.lit("<b>gold</b>").alias("<script>"), age=pl.col("age") * 10, extra=1)
    anomalies = schema.validate(frame.lazy(), expected)
    file = tmp_path / "validation.html"
    file.write_text(schema.render(anomalies, expected, len(frame), is_inferred=False), encoding="utf-8")
    driver = open_page(file)
    assert len(driver.find_elements("css selector", ".callout.good")) == valid
    assert len(driver.find_elements("css selector", ".tag.bad")) == (0 if valid else 2)
    assert ("<b>gold</b>" in driver.find_element("tag name", "main").text) is not valid
