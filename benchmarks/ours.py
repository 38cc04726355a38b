"""What is measured of flowparts: `ours.py CASE DATA OUT` prints the command line of a task as JSON.

DATA is a folder that data.py made; the task's results go to the folder OUT.
"""

import json
import sys
from pathlib import Path

import step


def ingest(data: Path, out: Path) -> list[str]:
    from flowparts.components.ingest.ingest_table import ingest_table

    return step.command(ingest_table, out, source=str(data / "table.csv"))


def profile(data: Path, out: Path) -> list[str]:
    from flowparts.components.validate.profile_table import profile_table

    return step.command(profile_table, out, table=step.artifact(data / "table"))


def validate(data: Path, out: Path, table: str = "table") -> list[str]:
    from flowparts.components.validate.validate_table import validate_table

    given = {"table": step.artifact(data / table), "schema": step.artifact(data / "table_schema")}
    return step.command(validate_table, out, **given, fail_on_anomaly=False)


def validate_planted(data: Path, out: Path) -> list[str]:
    return validate(data, out, "planted")


def split(data: Path, out: Path) -> list[str]:
    from flowparts.components.prepare.split_table import split_table

    return step.command(split_table, out, table=step.artifact(data / "table"), stratify_by="label")


def batch_predict(data: Path, out: Path) -> list[str]:
    from flowparts.components.predict.batch_predict import batch_predict

    model = step.artifact(data.parent / "training" / "model")
    return step.command(
        batch_predict, out, table=step.artifact(data / "table"), model=model, key_columns=["id"]
    )


def prepare(data: Path, out: Path) -> None:
    """Write the schema that `validate` checks with; this is done, not printed."""
    from flowparts.components.validate.validate_table import validate_table

    step.run(validate_table, out, table=step.artifact(data / "table"))


def train(data: Path, out: Path) -> None:
    """Train the model that `batch_predict` scores with; this is done, not printed."""
    from flowparts.components.prepare.fit_preprocessor import fit_preprocessor
    from flowparts.components.prepare.split_table import split_table
    from flowparts.components.train.train_sklearn import train_sklearn

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


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))))
