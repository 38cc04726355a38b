"""The tabular_training pipeline as one plain script in one process: `plain.py CANDIDATES OUT`."""

import json
import os
import sys
from pathlib import Path

import step

from flowparts.components.evaluate.check_serving import check_serving
from flowparts.components.evaluate.evaluate_model import evaluate_model
from flowparts.components.ingest.ingest_table import ingest_table
from flowparts.components.prepare.split_table import split_table
from flowparts.components.register.register_champion import register_champion
from flowparts.components.train.train_tabular import train_tabular
from flowparts.components.validate.profile_table import profile_table
from flowparts.components.validate.validate_table import validate_table


def main(candidates: list[dict], out: Path) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{out / 'mlflow.db'}"
    ingested, _ = step.run(ingest_table, out / "ingest")
    table = ingested["table"]
    step.run(profile_table, out / "profile", table=table)
    step.run(validate_table, out / "validate", table=table)
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
    served, _ = step.run(check_serving, out / "serving", model=model, test=test)
    _, decision = step.run(
        register_champion,
        out / "register",
        model=model,
        test=test,
        evaluation_report=evaluated["evaluation_report"],
        model_name="benchmark",
        serving_metrics=served["serving_metrics"],
    )
    assert decision[0], "the first model is promoted"


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Path(sys.argv[2]))
