"""A column may have any name: what other programs take for a pattern, a path or code goes through."""

import csv
import tempfile
from pathlib import Path

import polars as pl
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flowparts import tables
from flowparts.prepare import preprocess
from tests.contract.test_bad_input import Call

# Polars takes the first for patterns.
SPECIAL = [
    "^a$",
    "^.*$",
    "*",
    "^(",
    'a"b',
    "a'b",
    "a.b",
    "a,b",
    "a\nb",
    "größe",
    "日本",
    "a b ",
    "$1",
    "%s",
    "{a}",
    "-",
]
ROWS = 120

names = st.sampled_from(SPECIAL) | st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1
)
distinct_names = st.lists(names, min_size=4, max_size=4, unique=True)


@given(columns=distinct_names)
@example(columns=["^a$", "a", "*", "^.*$"])
@example(columns=["*", "^.*$", "^a$", "a"])
@example(columns=["a", "^a$", "^.*$", "*"])
@example(columns=["a", "A", "is_yes", "Is_Yes"])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_columns_of_any_name_go_from_a_file_to_predictions(columns: list[str]) -> None:
    key, number, text, label = columns
    row = pl.int_range(ROWS, eager=True)
    rows = pl.DataFrame(
        {
            key: row,
            number: row * 37 % 101 / 4,
            text: (row % 3).replace_strict({0: "x", 1: "y", 2: "z"}, return_dtype=pl.String),
            label: (row * 37 % 101 > 50).replace_strict({True: "yes", False: "no"}, return_dtype=pl.String),
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        call = Call(Path(folder) / "called")
        rows.write_parquet(file := Path(folder) / "rows.parquet")
        table = call.ingest_table(source=str(file))["table"]
        assert tables.scan(table.path).collect().equals(rows)
        statistics = call.profile_table(table=table)["statistics"]
        assert statistics.metadata["rows"] == ROWS
        call.validate_table(table=table, schema=call.validate_table(table=table)["table_schema"])
        assert call.returned == (True, 0)
        parts = call.split_table(table=table, stratify_by=label)
        assert sum(part.metadata["rows"] for part in parts.values()) == ROWS
        call.split_table(table=table, group_by=number)
        call.split_table(table=table, time_column=number)
        call.split_table(table=table, key=[key, number])
        prepared = call.fit_preprocessor(
            train=parts["train"], validation=parts["validation"], label=label, exclude_columns=[key]
        )
        assert list(preprocess.load(prepared["preprocessor"].path).features) == [number, text]
        model = call.train_sklearn(**prepared, estimator="Linear")["model"]
        call.evaluate_model(model=model, test=parts["test"], slice_columns=[text])
        predictions = call.batch_predict(table=table, model=model, key_columns=[key, label])["predictions"]
        found = tables.scan(predictions.path).collect()
        assert found[key].equals(rows[key])
        assert (found["prediction"] == found[label]).mean() > 0.9
        call.export_table(table=predictions, destination=f"{folder}/out.csv")
        with open(f"{folder}/out.csv", encoding="utf-8", newline="") as exported:
            assert next(csv.reader(exported)) == found.columns
