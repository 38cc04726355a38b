"""The baseline of a model: summaries of its training data and predictions, to compare later data with.

A summary (`flowparts.tables.summary`) of the features and the label of the training rows and of the
predictions for the validation rows is stored beside the weights, so that monitoring never reads the training
data again. Prediction columns have the names that they have in the prediction log.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from flowparts import models, tables
from flowparts.models import seen
from flowparts.tables import casts, summary
from flowparts.tables.summary import Summary
from flowparts.util import names

FILE = "baseline.parquet"


def record(
    model: str | Path,
    train: str | Path,
    validation: str | Path | None,
    predictions: pl.DataFrame | None = None,
) -> None:
    """Write the baseline and the sketch of `seen` into a model directory.

    Args:
        model: The model directory, which may be incomplete.
        train: The table of raw training rows.
        validation: The table of raw rows that it was selected by. None if there is none, as after a
            cross-validation: then the predictions are those for the training rows.
        predictions: Out-of-sample predictions, in the form of `Model.predict`, if the final model was trained
            on all rows: its own predictions for these are too good.

    Raises:
        ValueError: The model can't score the rows.
    """
    seen.record(model, [train] if validation is None else [train, validation])
    loaded = models.load(model)
    rows = tables.scan(train)
    if validation is not None and predictions is not None:
        rows = casts.stacked(rows, tables.scan(validation))
    learned = of_training(rows, loaded.features, loaded.label)
    predicted = loaded.predict(tables.scan(validation or train)) if predictions is None else predictions
    with_predictions(learned, predicted).write(Path(model) / FILE)


def write(
    folder: str | Path, train: str | Path, validation: str | Path, features: Iterable[str], label: str
) -> None:
    """Write into a preprocessor's directory what `carry_over` copies to the models trained with it."""
    seen.write(folder, [train, validation], features, label)
    of_training(tables.scan(train), features, label).write(Path(folder) / FILE)


def carry_over(learned: str | Path, model: str | Path, predictions: pl.DataFrame) -> None:
    """Copy the baseline beside a preprocessor into a model directory, and add the model's predictions.

    Args:
        learned: The directory of the preprocessor, which may have none.
        model: The model directory.
        predictions: Predictions for the validation rows, in the form of `Model.predict`.

    Raises:
        ValueError: A file beside the preprocessor is damaged.
    """
    seen.carry_over(learned, model)
    if (Path(learned) / FILE).is_file():
        with_predictions(summary.read(Path(learned) / FILE, "the baseline"), predictions).write(
            Path(model) / FILE
        )


def of_training(rows: pl.LazyFrame, features: Iterable[str], label: str | None) -> Summary:
    """Summarise the features of training rows, and the label if the table has it."""
    features = list(features)
    labels = [label] if label is not None and label in rows.collect_schema().names() else []
    found = summary.summarise(rows, [*features, *labels])
    return Summary(found.columns, {"features": features, "label": label, "predictions": []})


def with_predictions(learned: Summary, predictions: pl.DataFrame) -> Summary:
    """Add the summary of predictions, under their names in the prediction log."""
    features = learned.facts["features"]
    named = predictions.rename(lambda name: names.free(name, "served_", features))
    columns = summary.summarise(named.lazy()).columns
    return Summary(learned.columns | columns, {**learned.facts, "predictions": list(columns)})


def read(model: str | Path) -> Summary:
    """Return the baseline of a model.

    Raises:
        ValueError: There is no model, or it has no baseline.
    """
    models.metadata(model)
    file = Path(model) / FILE
    if not file.is_file():
        raise ValueError(
            f"the model at {model} has no {FILE}, as one that an earlier version trained; train it again, or "
            "give a baseline or a table to compare with"
        )
    return summary.read(file, "the model's baseline")


def roles(of: Summary) -> dict[str, str]:
    """Return the role of each column of a baseline: "feature", "label" or "prediction"."""
    facts: Mapping[str, Any] = of.facts
    predicted = set(facts.get("predictions", []))
    return {
        name: "prediction" if name in predicted else "label" if name == facts.get("label") else "feature"
        for name in of.columns
    }
