"""What a user would write instead: `peers.py CASE DATA OUT` does the same work with another library.

Both sides start a fresh process, read the same files and write the same results; Parquet is compressed with
zstd at level 3, which is what flowparts' tables have.
"""

import json
import sys
from pathlib import Path

import pandas as pd

PARQUET = {"compression": "zstd", "compression_level": 3, "index": False}
RULES = {
    "dtype": "type",
    "not_nullable": "null",
    "greater_than_or_equal_to": "minimum",
    "less_than_or_equal_to": "maximum",
    "isin": "category",
    "field_uniqueness": "duplicate",
    "column_in_dataframe": "missing_column",
    "column_in_schema": "unexpected_column",
}
QUANTILES = [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99]


def ingest(data: Path, out: Path) -> None:
    frame = pd.read_csv(data / "table.csv", parse_dates=["created_at", "updated_at"])
    frame.to_parquet(out / "table.parquet", **PARQUET)


def profile(data: Path, out: Path) -> None:
    frame = pd.read_parquet(data / "table")
    columns = [{"name": name} | _statistics(frame[name]) for name in frame]
    (out / "statistics.json").write_text(json.dumps({"rows": len(frame), "columns": columns}, default=str))


def _statistics(column: pd.Series) -> dict[str, object]:
    import numpy as np

    values = column.dropna()
    found = {
        "count": len(values),
        "nulls": len(column) - len(values),
        "distinct": values.nunique(),
        "top_values": list(values.value_counts().head(10).items()),
    }
    if pd.api.types.is_string_dtype(column) and not pd.api.types.is_object_dtype(column):
        lengths = values.str.len()
        return found | {
            "min_length": lengths.min(),
            "max_length": lengths.max(),
            "mean_length": lengths.mean(),
        }
    if pd.api.types.is_bool_dtype(column) or pd.api.types.is_object_dtype(column):
        return found
    if pd.api.types.is_numeric_dtype(column):
        found |= {"mean": values.mean(), "std": values.std(), "skewness": values.skew()}
        found["infinite"] = int(np.isinf(values).sum())
    else:
        values = values.astype("int64")
    counts, edges = np.histogram(values, bins=20)
    return found | {
        "min": values.min(),
        "max": values.max(),
        "quantiles": values.quantile(QUANTILES).tolist(),
        "histogram": {"counts": counts.tolist(), "edges": edges.tolist()},
    }


def profile_tfdv(data: Path, out: Path) -> None:
    import tensorflow_data_validation as tfdv

    statistics = tfdv.generate_statistics_from_dataframe(pd.read_parquet(data / "table"), n_jobs=2)
    tfdv.write_stats_text(statistics, str(out / "statistics.txt"))


def validate(data: Path, out: Path, table: str = "table") -> None:
    import pandera.pandas as pa

    frame = pd.read_parquet(data / table)
    content = json.loads((data / "table_schema").read_text())
    columns = {column["name"]: _pandera_column(pa, column) for column in content["columns"]}
    schema = pa.DataFrameSchema(columns, strict=True)
    anomalies = []
    try:
        schema.validate(frame, lazy=True)
    except pa.errors.SchemaErrors as error:
        for (column, check), cases in error.failure_cases.groupby(["column", "check"], dropna=False):
            rule = RULES[str(check).partition("(")[0]]
            # A column that is missing or too many is the failed case itself.
            name = column if isinstance(column, str) else cases["failure_case"].iloc[0]
            anomalies.append({"column": name, "rule": rule, "count": len(cases)})
    (out / "anomalies").write_text(json.dumps(anomalies))


def _pandera_column(pa: object, column: dict[str, object]) -> object:
    missing = column["nullable"]
    dtype = {
        # pandas has no missing whole number or boolean unless asked for.
        "integer": "float64" if missing else "int64",
        "boolean": "object" if missing else "bool",
        "number": "float64",
        "string": "str",
        "timestamp": "datetime64[us]",
    }[column["type"]]
    checks = []
    bound = pd.Timestamp if column["type"] == "timestamp" else (lambda value: value)
    if "minimum" in column:
        checks.append(pa.Check.ge(bound(column["minimum"])))
    if "maximum" in column:
        checks.append(pa.Check.le(bound(column["maximum"])))
    if "categories" in column:
        checks.append(pa.Check.isin(column["categories"]))
    unique = column.get("unique", False)
    return pa.Column(dtype, checks, nullable=missing, unique=unique, report_duplicates="exclude_first")


def validate_planted(data: Path, out: Path) -> None:
    validate(data, out, "planted")


def split(data: Path, out: Path) -> None:
    from sklearn.model_selection import train_test_split

    frame = pd.read_parquet(data / "table")
    train, rest = train_test_split(frame, train_size=0.7, stratify=frame["label"], random_state=0)
    validation, test = train_test_split(rest, train_size=0.5, stratify=rest["label"], random_state=0)
    for name, part in {"train": train, "validation": validation, "test": test}.items():
        part.to_parquet(out / f"{name}.parquet", **PARQUET)


def batch_predict(data: Path, out: Path) -> None:
    """Score the whole frame with the pipeline that the model directory holds."""
    from flowparts import models

    pipeline = models.load(data.parent / "training" / "model").pipeline
    frame = pd.read_parquet(data / "table")
    result = frame[["id"]].assign(prediction=pipeline.predict(frame))
    probabilities = pipeline.predict_proba(frame)
    for index, value in enumerate(pipeline.classes_):
        result[f"probability_{value}"] = probabilities[:, index]
    result.to_parquet(out / "predictions.parquet", **PARQUET)


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
