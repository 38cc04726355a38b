"""What is measured of flowparts: `ours.py CASE DATA OUT` runs a component in a process of its own.

DATA is a folder that data.py made; the results go to the folder OUT.
"""

import sys
from pathlib import Path

import step


def ingest(data: Path, out: Path) -> None:
    from components.ingest.ingest_table import ingest_table

    step.run(ingest_table, out, source=str(data / "table.csv"))


def profile(data: Path, out: Path) -> None:
    from components.validate.profile_table import profile_table

    step.run(profile_table, out, table=step.artifact(data / "table"))


def infer(data: Path, out: Path) -> None:
    """Write the schema that `validate` checks with; not measured."""
    from components.validate.infer_schema import infer_schema

    step.run(infer_schema, out, table=step.artifact(data / "table"))


def validate(data: Path, out: Path, table: str = "table") -> None:
    from components.validate.validate_table import validate_table

    schema = step.artifact(data / "schema")
    step.run(validate_table, out, table=step.artifact(data / table), schema=schema, fail_on_anomaly=False)


def validate_planted(data: Path, out: Path) -> None:
    validate(data, out, "planted")


def split(data: Path, out: Path) -> None:
    from components.prepare.split_table import split_table

    step.run(split_table, out, table=step.artifact(data / "table"), stratify_by="label")


def train(data: Path, out: Path) -> None:
    """Train the model that `batch_predict` scores with; not measured."""
    from components.prepare.fit_preprocessor import fit_preprocessor
    from components.prepare.split_table import split_table
    from components.train.train_sklearn import train_sklearn

    parts, _ = step.run(split_table, out, table=step.artifact(data / "table"), stratify_by="label")
    prepared, _ = step.run(
        fit_preprocessor,
        out,
        train=parts["train"],
        validation=parts["validation"],
        label="label",
        exclude_columns=["id", "session"],
    )
    step.run(train_sklearn, out, **prepared, estimator="HistGradientBoosting")


def batch_predict(data: Path, out: Path) -> None:
    from components.predict.batch_predict import batch_predict

    model = step.artifact(data.parent / "training" / "model")
    step.run(batch_predict, out, table=step.artifact(data / "table"), model=model, key_columns=["id"])


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
