"""The tabular_training pipeline as one plain script in one process: `plain.py CANDIDATES OUT`."""

import json
import os
import sys
from pathlib import Path

import step

from components.evaluate.check_serving import check_serving
from components.evaluate.compare_with_champion import compare_with_champion
from components.evaluate.evaluate_model import evaluate_model
from components.evaluate.summarize_run import summarize_run
from components.ingest.ingest_table import ingest_table
from components.prepare.split_table import split_table
from components.register.register_mlflow import register_mlflow
from components.train.train_tabular import train_tabular
from components.validate.infer_schema import infer_schema
from components.validate.profile_table import profile_table
from components.validate.validate_table import validate_table


def main(candidates: list[dict], out: Path) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{out / 'mlflow.db'}"
    ingested, _ = step.run(ingest_table, out / "ingest")
    table = ingested["table"]
    step.run(profile_table, out / "profile", table=table)
    schema, _ = step.run(infer_schema, out / "infer", table=table)
    validated, _ = step.run(validate_table, out / "validate", table=table, **schema)
    parts, _ = step.run(split_table, out / "split", table=table, stratify_by="target")
    train, validation, test = parts.values()
    trained, _ = step.run(
        train_tabular,
        out / "train",
        train=train,
        validation=validation,
        label="target",
        candidates=candidates,
    )
    model = trained["model"]
    evaluated, _ = step.run(evaluate_model, out / "evaluate", model=model, test=test)
    served, serving = step.run(check_serving, out / "serving", model=model, test=test)
    compared, decision = step.run(
        compare_with_champion,
        out / "compare",
        model=model,
        test=test,
        model_name="benchmark",
        servable=serving[0],
    )
    assert decision[0], "the first model is promoted"
    _, registered = step.run(
        register_mlflow,
        out / "register",
        model=model,
        metrics=evaluated["test_metrics"],
        evaluation_report=evaluated["evaluation_report"],
        comparison=compared["comparison"],
        comparison_report=compared["comparison_report"],
        model_name="benchmark",
    )
    step.run(
        summarize_run,
        out / "summarize",
        table=table,
        anomalies=validated["anomalies"],
        model=model,
        serving_metrics=served["serving_metrics"],
        comparison=compared["comparison"],
        version=registered[0],
    )


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Path(sys.argv[2]))
